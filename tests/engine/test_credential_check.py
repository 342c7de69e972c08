from __future__ import annotations

import asyncio
import ipaddress

import pytest
from aiohttp import web
from keyswitch_engine import registry
from keyswitch_engine.credential import ApiKey, GoogleAccessToken, ProviderCredential
from keyswitch_engine.credential_check import CHECK_SECONDS, Verdict, check_credential
from keyswitch_engine.dispatch import Dispatcher, TimeLimits
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import InvalidRequest, Reason, RequestError
from keyswitch_engine.secret import Secret
from support import http_provider

KEY = "the-key"


async def check(
    url: str, name: str, model: str = "", credential: ProviderCredential | None = None, received_at: float | None = None
) -> tuple[Verdict, str]:
    rows = registry.load(base_urls={name: url})
    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with Egress(policy) as egress:
        return await check_credential(
            Dispatcher(egress), rows, credential or ProviderCredential(name, ApiKey(Secret(KEY))),
            model=model, received_at=asyncio.get_running_loop().time() if received_at is None else received_at,
        )  # fmt: skip


CHAT = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
ANSWERS = [
    (200, None, Verdict.VALID),
    (401, {"error": {"message": "Incorrect API key provided"}}, Verdict.INVALID),
    (402, {"error": {"message": "Insufficient credits"}}, Verdict.OUT_OF_CREDIT),
    (429, {"error": {"code": "insufficient_quota", "message": "m"}}, Verdict.OUT_OF_CREDIT),
    (403, {"error": {"message": "not for you"}}, Verdict.NOT_PERMITTED),
    (429, {"error": {"message": "slow down"}}, Verdict.UNKNOWN),
    (404, {"error": {"message": "no such model"}}, Verdict.UNKNOWN),
    (500, {"error": {"message": "down"}}, Verdict.UNKNOWN),
    (200, "<html>", Verdict.UNKNOWN),
    (302, None, Verdict.UNKNOWN),
]


@pytest.mark.parametrize(("status", "body", "verdict"), ANSWERS)
@pytest.mark.parametrize(("name", "model", "path"), [
    ("groq", "", "/models"),
    ("groq", "m", "/chat/completions"),
    ("nebius", "", "/chat/completions"),
])  # fmt: skip
async def test_only_a_clear_answer_is_a_verdict(
    name: str, model: str, path: str, status: int, body: object, verdict: Verdict
) -> None:
    """A list that needs a key, else one small answer, says what the provider says; anything unclear is UNKNOWN."""
    asked: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.path, request.headers["authorization"]))
        if isinstance(body, str):
            return web.Response(text=body, content_type="text/html")
        found = body if body is not None else ({"data": [{"id": "m"}]} if request.method == "GET" else CHAT)
        return web.json_response(found, status=status, headers={"location": "/elsewhere"} if status == 302 else {})

    async with http_provider(answer) as url:
        found, message = await check(url, name, model)
    assert found is verdict
    assert asked == [(path, f"Bearer {KEY}")]
    assert bool(message) is (verdict is not Verdict.VALID)
    assert KEY not in message


async def test_a_provider_that_does_not_answer_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout is never an invalid key, and neither is a provider that is not there."""
    monkeypatch.setattr("keyswitch_engine.credential_check._LIMITS", TimeLimits(0.2, 0.2, 0.2, 0.2))
    never = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse:
        await never.wait()
        raise AssertionError

    async with http_provider(stall) as url:
        assert (await check(url, "groq"))[0] is Verdict.UNKNOWN
        never.set()
    assert (await check(url, "groq"))[0] is Verdict.UNKNOWN


@pytest.mark.parametrize("model", ["", "m"])
async def test_the_answer_about_a_provider_that_stalls_is_there_in_time(model: str) -> None:
    """What is said of a provider that does not answer is said within the time of a check, not at its end."""
    loop = asyncio.get_running_loop()
    received_at = loop.time() - (CHECK_SECONDS - 0.3)  # as if most of the time had passed, which nobody waits for
    never = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse:
        await never.wait()
        raise AssertionError

    async with http_provider(stall) as url:
        verdict, _ = await check(url, "groq", model, received_at=received_at)
        took = loop.time() - received_at
        never.set()
    assert verdict is Verdict.UNKNOWN
    assert CHECK_SECONDS - 0.2 < took < CHECK_SECONDS


async def test_a_provider_without_a_model_needs_one() -> None:
    """What cannot be asked is UNKNOWN, and says what would help."""
    verdict, message = await check("http://127.0.0.1:9", "vllm")
    assert (verdict, "name one" in message) == (Verdict.UNKNOWN, True)


async def test_what_is_wrong_with_the_request_is_an_error() -> None:
    """An unknown provider and a credential of the wrong kind are no verdicts."""
    with pytest.raises(RequestError) as raised:
        await check("http://127.0.0.1:9", "groq", credential=ProviderCredential("nobody", ApiKey(Secret(KEY))))
    assert (raised.value.reason, raised.value.field) == (Reason.UNKNOWN_PROVIDER, "credential.provider")
    with pytest.raises(InvalidRequest):
        await check(
            "http://127.0.0.1:9", "groq", credential=ProviderCredential("groq", GoogleAccessToken(Secret(KEY), "p"))
        )
