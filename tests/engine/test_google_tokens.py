from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from keyswitch_engine.auth import Authenticator
from keyswitch_engine.credential import GoogleServiceAccount
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.provider import Auth
from keyswitch_engine.secret import Secret

URL = "https://token.example/token"
GOOD = {"access_token": "bought-token", "expires_in": 3600}


@pytest.fixture(scope="module")
def account() -> GoogleServiceAccount:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return GoogleServiceAccount("me@my-project.example", Secret(key.decode()), "1", "my-project")


class Endpoint:
    """A token endpoint that gives one answer."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.status = status
        self.content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.asked = 0
        self.authenticator = Authenticator(self.post)

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        self.asked += 1
        return self.status, self.content

    async def buy(self, account: GoogleServiceAccount) -> tuple[str, tuple[Secret, ...]]:
        """Authenticate a call; return the header and the secrets."""
        headers, secrets = await self.authenticator.authenticate(
            Auth(token_url=URL), account, method="POST", url="https://x.example", headers={}, body=b"", region=""
        )
        return headers["Authorization"], secrets


@pytest.mark.parametrize(
    ("status", "answer", "reason", "retryable"),
    [
        (503, b"<html>Service Unavailable</html>", Reason.PROVIDER_UNAVAILABLE, True),
        (500, {"error": {"code": 500, "status": "INTERNAL"}}, Reason.PROVIDER_UNAVAILABLE, True),
        (500, {"error": "invalid_grant"}, Reason.PROVIDER_UNAVAILABLE, True),
        (502, b"", Reason.PROVIDER_UNAVAILABLE, True),
        (302, b"", Reason.PROVIDER_UNAVAILABLE, True),
        (404, b"<html>", Reason.PROVIDER_UNAVAILABLE, True),
        (429, b"slow down", Reason.PROVIDER_RATE_LIMITED, True),
        (429, {"error": {"code": 429}}, Reason.PROVIDER_RATE_LIMITED, True),
        (400, {"error": "invalid_grant"}, Reason.INVALID_CREDENTIAL, False),
        (401, {"error": "invalid_client"}, Reason.INVALID_CREDENTIAL, False),
        (401, b"[" * 100_000, Reason.INVALID_CREDENTIAL, False),
        (400, {"error": {"code": 400}}, Reason.PROVIDER_REJECTED_REQUEST, False),
        (400, {"error": ["invalid_grant"]}, Reason.PROVIDER_REJECTED_REQUEST, False),
        (400, b"<html>", Reason.PROVIDER_REJECTED_REQUEST, False),
        (200, b"<html>", Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"error": "invalid_grant"}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, [], Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"access_token": 5}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"access_token": ""}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"access_token": "a b"}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"access_token": "a\r\nx-b: c"}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"access_token": "a\n"}, Reason.PROVIDER_PROTOCOL_ERROR, False),
        (200, {"access_token": "é"}, Reason.PROVIDER_PROTOCOL_ERROR, False),
    ],
)
async def test_each_failure_to_buy_has_its_reason(
    account: GoogleServiceAccount, status: int, answer: Any, reason: Reason, retryable: bool
) -> None:
    """The status says whose fault it is, and only then what the body says counts."""
    with pytest.raises(DispatchError) as raised:
        await Endpoint(answer, status).buy(account)
    assert (raised.value.reason, raised.value.retryable) == (reason, retryable)
    if status != 200:
        assert raised.value.upstream_status == status


@pytest.mark.parametrize(
    ("lifetime", "asked"),
    [
        (3600, 1), (3599.5, 1), ("3599", 1), (10**400, 2), ("inf", 1),
        (None, 2), ("soon", 2), ("nan", 2), (True, 2), (0, 2), (-5, 2), (60, 2), ([3600], 2), ({}, 2),
    ],
)  # fmt: skip
async def test_a_token_is_kept_only_for_as_long_as_it_is_said_to_last(
    account: GoogleServiceAccount, lifetime: Any, asked: int
) -> None:
    """A lifetime may be a number in any spelling; without one the token serves the call and is not kept."""
    endpoint = Endpoint({**GOOD, "expires_in": lifetime})
    for _ in range(2):
        assert (await endpoint.buy(account))[0] == "Bearer bought-token"
    assert endpoint.asked == asked


async def test_a_token_that_the_provider_refused_is_forgotten(account: GoogleServiceAccount) -> None:
    """After a refusal the next call buys a token of its own; a refusal of an older token does not touch it."""
    endpoint = Endpoint(GOOD)
    _, secrets = await endpoint.buy(account)
    endpoint.authenticator.forget(secrets)
    await endpoint.buy(account)
    assert endpoint.asked == 2
    endpoint.authenticator.forget(secrets)
    await endpoint.buy(account)
    assert endpoint.asked == 2
