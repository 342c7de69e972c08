from __future__ import annotations

import asyncio
import copy
import email.utils
import json
import pickle
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from keyswitch_engine import registry
from keyswitch_engine.deadline import TimeLimits, Watch
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.egress import FOREIGN_ERRORS, translate
from keyswitch_engine.errors import LimitExceeded, Reason
from keyswitch_engine.retry_after import retry_after
from keyswitch_engine.secret import Secret, scrub

# provider, status, body, reason: forms in which providers report failures, in our own words
ERRORS: list[tuple[str, int, Any, Reason]] = [
    ("openai", 429, {"error": {"message": "quota", "code": "insufficient_quota"}}, Reason.INSUFFICIENT_CREDIT),
    ("openai", 429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, Reason.PROVIDER_RATE_LIMITED),
    ("openai", 401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, Reason.INVALID_CREDENTIAL),
    ("openai", 404, {"error": {"message": "The model `x` does not exist"}}, Reason.MODEL_NOT_FOUND),
    ("openai", 400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, Reason.CONTEXT_OVERFLOW),
    ("openai", 400, {"error": {"message": "no", "code": "content_policy_violation"}}, Reason.CONTENT_REFUSED),
    ("openrouter", 402, {"error": {"message": "This request requires more credits", "code": 402}}, Reason.INSUFFICIENT_CREDIT),
    ("openrouter", 403, {"error": {"message": "Input was flagged", "code": 403}}, Reason.CONTENT_REFUSED),
    ("openrouter", 404, {"error": {"message": "No endpoints found for x", "code": 404}}, Reason.MODEL_NOT_FOUND),
    ("deepseek", 402, {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}, Reason.INSUFFICIENT_CREDIT),
    ("xai", 400, {"code": "invalid argument", "error": "Incorrect API key provided"}, Reason.INVALID_CREDENTIAL),
    ("xai", 403, {"code": "no permission", "error": "Your team has no credits yet"}, Reason.INSUFFICIENT_CREDIT),
    ("xai", 429, {"code": "exhausted", "error": "reached its monthly spending limit"}, Reason.INSUFFICIENT_CREDIT),
    ("xai", 403, {"code": "no permission", "error": "not for you"}, Reason.CREDENTIAL_NOT_PERMITTED),
    ("groq", 413, {"error": {"message": "too large", "code": "rate_limit_exceeded"}}, Reason.PROVIDER_REJECTED_REQUEST),
    ("groq", 498, {"error": {"message": "flex"}}, Reason.PROVIDER_OVERLOADED),
    ("mistral", 401, {"detail": "Invalid API Key"}, Reason.INVALID_CREDENTIAL),
    ("mistral", 422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, Reason.PROVIDER_REJECTED_REQUEST),
    ("cerebras", 400, None, Reason.CONTEXT_OVERFLOW),
    ("cerebras", 413, None, Reason.CONTEXT_OVERFLOW),
    ("together", 503, {"error": {"message": "The service is overloaded"}}, Reason.PROVIDER_OVERLOADED),
    ("perplexity", 400, {"error": {"message": "x", "type": "too_many_prompt_tokens", "code": 400}}, Reason.CONTEXT_OVERFLOW),
    ("", 500, {"type": "error", "error": {"message": "insufficient balance (1008)"}}, Reason.INSUFFICIENT_CREDIT),
    ("", 400, {"code": "Arrearage", "message": "Access denied"}, Reason.INSUFFICIENT_CREDIT),
    ("", 403, {"code": 30011, "message": "Your paid balance is insufficient."}, Reason.INSUFFICIENT_CREDIT),
    ("", 429, {"error": {"message": "The engine is currently overloaded", "type": "engine_overloaded_error"}},
     Reason.PROVIDER_OVERLOADED),
    ("", 429, {"status": 429, "title": "Too Many Requests"}, Reason.PROVIDER_RATE_LIMITED),
    ("", 400, [{"error": {"code": 400, "message": "API key not valid"}}], Reason.INVALID_CREDENTIAL),
    ("", 529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, Reason.PROVIDER_OVERLOADED),
    ("", 502, "<html>Bad gateway</html>", Reason.PROVIDER_UNAVAILABLE),
    ("", 504, None, Reason.PROVIDER_UNAVAILABLE),
    ("", 418, {"message": "teapot"}, Reason.PROVIDER_REJECTED_REQUEST),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "status", "body", "reason"), ERRORS)
def test_a_failure_is_read_by_table(provider: str, status: int, body: Any, reason: Reason) -> None:
    """Status, code, type and words of every known form lead to the right reason, out of credit first of all."""
    row = registry.load().find(provider) if provider else None
    rules = row.dialects[0].profile.error_rules if row else ()
    raw = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = read_error(raw, status, rules)
    assert (error.reason, error.upstream_status) == (reason, status)
    assert error.message
    assert "<html" not in error.message


def test_what_a_router_passes_on_is_told() -> None:
    """The text of the provider behind a router is part of the message."""
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "the real reason"}}}
    assert read_error(json.dumps(body).encode(), 400, ()).message == "Provider returned error: the real reason"


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "1.5"}, 1.5, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, 0.25),
    ],
)
def test_retry_after_is_read_in_both_units(headers: dict[str, str], low: float, high: float) -> None:
    """Seconds and milliseconds both become seconds."""
    seconds = retry_after(headers)
    assert seconds is not None
    assert low <= seconds <= high


def test_retry_after_may_be_a_date() -> None:
    """A date becomes the seconds until it, none if it has passed."""
    assert 90 <= (retry_after({"retry-after": email.utils.formatdate(time.time() + 100, usegmt=True)}) or 0) <= 101
    assert retry_after({"retry-after": email.utils.formatdate(time.time() - 100, usegmt=True)}) == 0


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "99999999999"])
def test_a_retry_after_that_makes_no_sense_is_none(value: str) -> None:
    """Nonsense is no delay at all."""
    assert retry_after({"retry-after": value}) is None


RESETS: list[tuple[dict[str, str], float | None]] = [
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
    ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
    ({"x-ratelimit-reset-requests-day": "33011.25"}, 33011.25),
    ({"ratelimitbysize-remaining": "0", "ratelimitbysize-reset": "15"}, 15),
    # The window that is used up is what was hit, the last one to open if there are several.
    ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "9s",
      "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}, 2),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s",
      "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}, 9),
    ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "2s"}, 2),
    ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "9s",
      "x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "2s"}, None),
    # A past time is no delay; what makes no sense is none at all.
    ({"anthropic-ratelimit-tokens-reset": "2024-01-01T00:00:00Z"}, 0),
    ({"x-ratelimit-reset": "1700000000"}, 0),
    ({"x-ratelimit-reset": "1700000000000"}, 0),
    ({"x-ratelimit-reset": "soon"}, None),
    ({"x-ratelimit-reset": "2024-01-01T00:00:00"}, None),
    ({"x-ratelimit-reset": "900000000"}, None),
    ({"x-ratelimit-reset": ""}, None),
    ({"retry-after": "3", "x-ratelimit-reset": "9"}, 3),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "seconds"), RESETS)
def test_a_rate_limit_may_tell_its_delay_by_the_windows_it_counts(
    headers: dict[str, str], seconds: float | None
) -> None:
    """Spans, seconds, times and epochs of the used-up window are the delay where no Retry-After stands."""
    assert read_error(b"", 429, (), headers).retry_after == seconds


@pytest.mark.parametrize(
    "form", [str, lambda at: str(at * 1000), lambda at: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))]
)
def test_a_window_may_open_at_a_time(form: Callable[[int], str]) -> None:
    """An epoch in seconds or milliseconds and a time become the seconds until then."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": form(int(time.time()) + 100)}
    assert 90 <= (read_error(b"", 429, (), headers).retry_after or 0) <= 100


def test_windows_matter_to_rate_limits_alone() -> None:
    """Other failures carry the same headers and ask for no delay."""
    assert read_error(b"", 500, (), {"x-ratelimit-reset-requests": "9s"}).retry_after is None


def test_a_secret_shows_itself_to_nobody() -> None:
    """No repr, str, format, pickle, copy or hash of a secret gives it away; equal ones are equal."""
    secret = Secret("hidden")
    assert "hidden" not in f"{secret} {secret!r} {secret!s} {secret:>20} {[secret]}"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leak(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert secret == Secret("hidden") != Secret("other")
    assert secret != "hidden"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("bad key my-own-key!", "bad key [redacted]!"),
        ("Incorrect key: sk-proj-abc***********xyz.", "Incorrect key: [redacted]"),
        ("Bearer abcdef123456 refused", "[redacted] refused"),
        ("line\r\n\x1b[31mbreak\u202e", "line [31mbreak"),
        ("skateboarding is fine", "skateboarding is fine"),
    ],
)
def test_provider_text_is_fit_to_show(text: str, scrubbed: str) -> None:
    """The call's own key, other keys by shape, and control characters go; words stay."""
    assert scrub(text, (Secret("my-own-key"),)) == scrubbed


def test_long_provider_text_is_cut() -> None:
    """An excerpt has a bound."""
    assert len(scrub("x" * 5000)) == 300


def test_every_exception_of_the_transport_has_a_meaning() -> None:
    """Whatever aiohttp may raise at a client is mapped, so that none escapes as a bug."""
    classes = [
        value
        for value in vars(aiohttp).values()
        if isinstance(value, type) and issubclass(value, aiohttp.ClientError) and value is not aiohttp.ClientError
    ]
    assert len(classes) > 10
    for kind in classes:
        assert any(parent in FOREIGN_ERRORS for parent in kind.__mro__), kind
    assert translate(aiohttp.ServerDisconnectedError()).reason is Reason.PROVIDER_UNAVAILABLE
    assert translate(aiohttp.ClientPayloadError("x")).reason is Reason.STREAM_TRUNCATED
    assert translate(ConnectionResetError()).reason is Reason.PROVIDER_UNAVAILABLE


LIMITS = TimeLimits(connect=1, first_token=0.05, idle=0.1, total=5)


async def test_the_first_token_has_its_limit() -> None:
    """Without any progress the first-token limit ends the work."""
    now = asyncio.get_running_loop().time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, now, now + 5):
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.FIRST_TOKEN_TIMEOUT


async def test_progress_moves_the_limit_and_silence_ends_it() -> None:
    """Steady progress outlives both limits; then silence is IDLE_TIMEOUT."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, start, start + 5) as watch:
        for _ in range(10):
            watch.progress()
            await asyncio.sleep(0.03)
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.IDLE_TIMEOUT
    assert loop.time() - start > 0.3


async def test_a_blocked_write_is_bounded_by_the_total_limit_alone() -> None:
    """While the caller is written to, the provider's silence is not its fault."""
    start = asyncio.get_running_loop().time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, start, start + 0.4) as watch:
        watch.progress()
        watch.writing(active=True)
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.TOTAL_TIMEOUT


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Cancelling the task is not a limit, even with a limit about to pass."""

    async def work() -> None:
        now = asyncio.get_running_loop().time()
        with Watch(TimeLimits(1, 60, 60, 60), now, now + 60):
            started.set()
            await asyncio.sleep(60)

    started = asyncio.Event()
    task = asyncio.ensure_future(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
