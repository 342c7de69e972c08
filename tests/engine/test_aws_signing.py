from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import AsyncIterator
from typing import NamedTuple

import botocore.config
import botocore.session
import pytest
from aiohttp import web
from keyswitch_engine import registry
from keyswitch_engine.auth import Authenticator
from keyswitch_engine.credential import AwsAccessKey, ProviderCredential
from keyswitch_engine.dispatch import Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.provider import Auth
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret, scrub
from support import http_provider

ID, SECRET, SESSION = "test-id", "test-secret", "test-session"
REGION = "eu-west-1"
MODELS = [
    "us.anthropic.claude-sonnet-5",
    "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude x+y~z%",
]
GENERATION = Generation((Message(Role.USER, (Part(TextPart("grüße, 你好")),)),))


class Received(NamedTuple):
    """A request as it came over the socket."""

    method: str
    raw_path: str
    headers: dict[str, str]
    body: bytes


class Listener(NamedTuple):
    """Keeps requests and answers none of them."""

    url: str
    received: list[Received]


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    received: list[Received] = []

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received.append(Received(request.method, request.raw_path, headers, await request.read()))
        return web.json_response({"message": "no"}, status=403)

    async with http_provider(handle) as url:
        yield Listener(url, received)


def signature(request: Received, secret: str, region: str = REGION) -> str:
    """Return the signature that AWS works out for a request, by its documentation of Signature Version 4.

    The path is taken as it is on the wire and quoted once more, as for every service but S3; there is no query here.
    """
    authorization = dict(
        part.strip().split("=", 1) for part in request.headers["authorization"].split(" ", 1)[1].split(",")
    )
    names = authorization["SignedHeaders"].split(";")
    assert "host" in names
    path = "".join(chr(byte) if chr(byte) in "/-_.~" or chr(byte).isalnum() else f"%{byte:02X}" for byte in request.raw_path.encode())  # fmt: skip
    canonical = "\n".join(
        [
            request.method,
            path,
            "",
            *(f"{name}:{' '.join(request.headers[name].split())}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    when = request.headers["x-amz-date"]
    scope = [when[:8], region, "bedrock", "aws4_request"]
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    signed = "\n".join(["AWS4-HMAC-SHA256", when, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    assert authorization["Credential"] == f"{ID}/{'/'.join(scope)}"
    return hmac.new(key, signed.encode(), "sha256").hexdigest()


def signed(request: Received) -> str:
    """Return the signature that a request carries."""
    return request.headers["authorization"].rpartition("Signature=")[2]


async def ask(listener: Listener, model: str, session: Secret | None) -> Received:
    """Dispatch to the listener; return what it received."""
    credential = AwsAccessKey(Secret(ID), Secret(SECRET), session)
    target = Target(provider="bedrock", model=model, region=REGION)
    rows = registry.load(base_urls={"bedrock": listener.url})
    route = resolve(rows, target, [ProviderCredential("bedrock", credential)])
    limits = TimeLimits(5, 5, 5, 20)
    call = GenerationCall(
        route=route, limits=limits, received_at=asyncio.get_running_loop().time(),
        request=write_request(route, GENERATION, stream=False),
    )  # fmt: skip
    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with Egress(policy) as egress:
        with pytest.raises(DispatchError):
            await Dispatcher(egress).generate(call)
    return listener.received[-1]


def ask_by_vendor(url: str, model: str) -> None:
    """Send a request with AWS's own client."""
    session = botocore.session.Session()
    session.set_credentials(ID, SECRET, SESSION)
    config = botocore.config.Config(retries={"total_max_attempts": 1})
    client = session.create_client("bedrock-runtime", region_name=REGION, endpoint_url=url, config=config)
    with pytest.raises(client.exceptions.ClientError):
        client.converse(modelId=model, messages=[{"role": "user", "content": [{"text": "grüße"}]}])


@pytest.mark.parametrize("model", MODELS)
async def test_the_signature_is_the_one_that_aws_works_out(listener: Listener, model: str) -> None:
    """What arrives is signed over the very path, headers and body that arrive, odd model ids included."""
    request = await ask(listener, model, Secret(SESSION))
    assert signed(request) == signature(request, SECRET)
    assert signed(request) != signature(request, "another-secret")
    assert request.headers["x-amz-security-token"] == SESSION
    assert {"content-type", "x-amz-security-token"} <= set(
        request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    )


async def test_keys_that_last_are_signed_with_without_a_session(listener: Listener) -> None:
    """Without a session there is no token, and the signature holds."""
    request = await ask(listener, MODELS[0], None)
    assert signed(request) == signature(request, SECRET)
    assert "x-amz-security-token" not in request.headers


@pytest.mark.parametrize("model", MODELS)
async def test_the_vendors_client_sends_the_same_path_and_is_judged_the_same(listener: Listener, model: str) -> None:
    """AWS's own client passes the same check as ours, and both ask for the same path and type of content."""
    await asyncio.to_thread(ask_by_vendor, listener.url, model)
    (vendors,) = listener.received
    assert signed(vendors) == signature(vendors, SECRET)
    ours = await ask(listener, model, Secret(SESSION))
    assert (ours.method, ours.raw_path) == (vendors.method, vendors.raw_path)
    assert ours.headers["content-type"] == vendors.headers["content-type"]


async def test_signatures_are_secrets_of_the_call() -> None:
    """What was made of a key for one request is scrubbed from errors like the key itself."""

    async def no_tokens(url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        raise AssertionError("nothing is bought")

    credential = AwsAccessKey(Secret(ID), Secret(SECRET), Secret(SESSION))
    made = await Authenticator(no_tokens).authenticate(
        Auth(aws_service="bedrock"), credential, method="POST", url="https://x.example/", headers={}, body=b"",
        region=REGION,
    )  # fmt: skip
    authorization = made.headers["Authorization"]
    signature = authorization.rpartition("Signature=")[2]
    assert len(signature) == 64
    for quoted in (authorization, signature, signature[20:]):
        assert signature[-20:] not in scrub(f"SignatureDoesNotMatch: {quoted}", made.secrets, 4096)
