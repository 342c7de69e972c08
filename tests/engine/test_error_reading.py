from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from keyswitch_engine import registry
from keyswitch_engine.dialects.aws import read_aws_error
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.egress import FOREIGN_ERRORS, translate
from keyswitch_engine.errors import Reason
from keyswitch_engine.retry_after import retry_after

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
    ("", 501, {"error": {"message": "not built in"}}, Reason.PROVIDER_REJECTED_REQUEST),
    ("", 429, {"error": {"message": "Too many tokens per minute", "type": "x"}}, Reason.PROVIDER_RATE_LIMITED),
    ("", 200, {"error": {"message": "m", "code": "\u00b2"}}, Reason.PROVIDER_UNAVAILABLE),
    ("cerebras", 429, {"message": "too many tokens processed", "code": "token_quota_exceeded"}, Reason.PROVIDER_RATE_LIMITED),
    ("cerebras", 429, {"message": "m", "type": "too_many_requests_error", "code": "request_quota_exceeded"}, Reason.PROVIDER_RATE_LIMITED),
    ("anthropic", 429, {"type": "error", "error": {"type": "rate_limit_error", "message": "m", "details": {"error_code": "enforced_spend_limit_reached"}}}, Reason.INSUFFICIENT_CREDIT),
    ("anthropic", 400, {"error": {"type": "invalid_request_error", "message": "You have reached your specified API usage limits."}}, Reason.INSUFFICIENT_CREDIT),
    ("anthropic", 400, {"error": {"type": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 9 > 8"}}, Reason.CONTEXT_OVERFLOW),
    ("minimax", 200, {"base_resp": {"status_code": 2049, "status_msg": "invalid"}}, Reason.INVALID_CREDENTIAL),
    ("minimax", 200, {"base_resp": {"status_code": 1008, "status_msg": "x"}}, Reason.INSUFFICIENT_CREDIT),
    ("minimax", 200, {"base_resp": {"status_code": 1039, "status_msg": "x"}}, Reason.PROVIDER_RATE_LIMITED),
    ("minimax", 200, {"base_resp": {"status_code": 1026, "status_msg": "x"}}, Reason.CONTENT_REFUSED),
    ("gemini", 429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota"}}], Reason.PROVIDER_RATE_LIMITED),
    ("gemini", 400, {"error": {"code": 400, "status": "FAILED_PRECONDITION", "message": "User location is not supported for the API use."}}, Reason.CREDENTIAL_NOT_PERMITTED),
    ("openrouter", 429, {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "exceeded your current quota"}}}, Reason.PROVIDER_RATE_LIMITED),
    ("openrouter", 402, {"error": {"message": "m", "code": 402, "metadata": {"limit_source": "openrouter_in_flight_budget"}}}, Reason.PROVIDER_RATE_LIMITED),
    ("openrouter", 403, {"error": {"message": "m", "code": 403, "metadata": {"reasons": ["x"], "flagged_input": "y"}}}, Reason.CONTENT_REFUSED),
    ("cloudflare", 403, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, Reason.INVALID_CREDENTIAL),
    ("cloudflare", 200, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, Reason.INVALID_CREDENTIAL),
    ("cloudflare", 503, {"errors": [{"code": 3040, "message": "capacity"}]}, Reason.PROVIDER_RATE_LIMITED),
    ("novita", 403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "m"}, Reason.INSUFFICIENT_CREDIT),
    ("modelscope", 400, {"errors": {"message": "Model does not exist"}, "request_id": "r"}, Reason.MODEL_NOT_FOUND),
    ("fireworks", 401, {"fault": {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}}}, Reason.INVALID_CREDENTIAL),
    ("fireworks", 412, {"error": {"message": "m"}}, Reason.INSUFFICIENT_CREDIT),
    ("hyperbolic", 400, {"message": "Only paid accounts are allowed"}, Reason.CREDENTIAL_NOT_PERMITTED),
    ("vercel-gateway", 500, {"error": {"message": "m", "param": {"statusCode": 429}}}, Reason.PROVIDER_RATE_LIMITED),
    ("", 500, "[" * 5000, Reason.PROVIDER_UNAVAILABLE),
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


AWS_ERRORS = [
    ("ThrottlingException", 429, "Too many tokens, please wait before trying again.", Reason.PROVIDER_RATE_LIMITED),
    ("", 429, "Too many tokens per day", Reason.PROVIDER_RATE_LIMITED),
    ("ValidationException", 400, "Input is too long for requested model.", Reason.CONTEXT_OVERFLOW),
    ("", 400, "The provided model identifier is invalid.", Reason.MODEL_NOT_FOUND),
    ("", 424, "", Reason.PROVIDER_UNAVAILABLE),
    ("UnrecognizedClientException", 403, "The security token included is invalid.", Reason.INVALID_CREDENTIAL),
    ("AccessDeniedException", 403, "You don't have access to the model", Reason.CREDENTIAL_NOT_PERMITTED),
]


@pytest.mark.parametrize("in_body", [False, True])
@pytest.mark.parametrize(("name", "status", "message", "reason"), AWS_ERRORS)
def test_an_exception_of_aws_is_read_by_its_name_wherever_that_stands(
    name: str, status: int, message: str, reason: Reason, *, in_body: bool
) -> None:
    """In the header or after its namespace in the body, the name decides before the words do."""
    body = {"message": message} | ({"__type": f"com.amazon.coral.service#{name}"} if in_body and name else {})
    headers = {} if in_body or not name else {"x-amzn-errortype": f"{name}:http://internal.amazon.com/"}
    error = read_aws_error(json.dumps(body).encode(), status, (), headers)
    assert (error.reason, error.upstream_code) == (reason, name)


def test_the_request_id_of_a_body_is_told() -> None:
    """Where no header has it the body may."""
    assert read_error(b'{"error":{"message":"m"},"request_id":"req_1"}', 400, ()).upstream_request_id == "req_1"


def test_a_huge_message_is_looked_at_only_in_part() -> None:
    """Patterns never run over MiB of a provider's text."""
    begun = time.process_time()
    error = read_error(json.dumps({"error": {"message": "model " * 2_000_000}}).encode(), 404, ())
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert len(error.message) == 4096
    assert time.process_time() - begun < 2


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
        ({"retry-after-ms": "0", "retry-after": "1"}, 1, 1),
        ({"retry-after": " 7 "}, 7, 7),
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


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "1e9", "99999999999", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"]
)
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


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Limit 7000, Requested 12903. Please try again in 50.597142857s. Visit us.", 50.597142857),
        ("Please try again in 9m38.016s.", 578.016),
        ("Please try again in 6ms.", 0.006),
        ("Please retry after 26 seconds.", 26),
        ("Please wait 36 seconds before retrying.", 36),
        ("Retry after 500 milliseconds", 0.5),
        ("Please try again in 2 minutes.", 120),
        ("Please try again later.", None),
        ("try again in 3 apples", None),
    ],
)
def test_a_rate_limit_may_tell_its_delay_in_words(message: str, seconds: float | None) -> None:
    """Where no header has it the message may."""
    found = read_error(json.dumps({"error": {"message": message}}).encode(), 429, ()).retry_after
    assert found == (pytest.approx(seconds) if seconds is not None else None)


def test_openrouter_tells_the_end_of_a_window_inside_the_body() -> None:
    """Its headers of the provider behind it stand in the metadata."""
    at = int((time.time() + 60) * 1000)
    body = {"error": {"message": "m", "code": 429, "metadata": {"headers": {"X-RateLimit-Reset": str(at)}}}}
    assert 50 <= (read_error(json.dumps(body).encode(), 429, ()).retry_after or 0) <= 60


def test_windows_matter_to_rate_limits_alone() -> None:
    """Other failures carry the same headers and ask for no delay."""
    assert read_error(b"", 500, (), {"x-ratelimit-reset-requests": "9s"}).retry_after is None


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
