from __future__ import annotations

import itertools
from collections.abc import Callable

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.error_pb2 import DispatchFailure, ErrorOrigin

CODE = grpc.StatusCode
CALLER, GATEWAY, PROVIDER = "CALLER", "GATEWAY", "PROVIDER"

# model, stream, code, reason, retryable, origin, HTTP status of the provider
PROVIDER_FAILURES = [
    ("bad-key", CODE.FAILED_PRECONDITION, "INVALID_CREDENTIAL", False, CALLER, 401),
    ("not-permitted", CODE.FAILED_PRECONDITION, "CREDENTIAL_NOT_PERMITTED", False, CALLER, 403),
    ("out-of-credit", CODE.FAILED_PRECONDITION, "INSUFFICIENT_CREDIT", False, CALLER, 429),
    ("payment-required", CODE.FAILED_PRECONDITION, "INSUFFICIENT_CREDIT", False, CALLER, 402),
    ("bad-request", CODE.INVALID_ARGUMENT, "PROVIDER_REJECTED_REQUEST", False, CALLER, 400),
    ("model-not-found", CODE.NOT_FOUND, "MODEL_NOT_FOUND", False, CALLER, 404),
    ("context-overflow", CODE.INVALID_ARGUMENT, "CONTEXT_OVERFLOW", False, CALLER, 400),
    ("content-refused", CODE.FAILED_PRECONDITION, "CONTENT_REFUSED", False, CALLER, 400),
    ("rate-limited", CODE.RESOURCE_EXHAUSTED, "PROVIDER_RATE_LIMITED", True, PROVIDER, 429),
    ("overloaded", CODE.UNAVAILABLE, "PROVIDER_OVERLOADED", True, PROVIDER, 503),
    ("unavailable", CODE.UNAVAILABLE, "PROVIDER_UNAVAILABLE", True, PROVIDER, 500),
    ("error-in-200", CODE.UNAVAILABLE, "PROVIDER_UNAVAILABLE", True, PROVIDER, 200),
    ("html", CODE.INTERNAL, "PROVIDER_PROTOCOL_ERROR", False, PROVIDER, 200),
    ("bad-json", CODE.INTERNAL, "PROVIDER_PROTOCOL_ERROR", False, PROVIDER, 200),
    ("redirect", CODE.INTERNAL, "PROVIDER_PROTOCOL_ERROR", False, PROVIDER, 302),
    ("truncated", CODE.ABORTED, "STREAM_TRUNCATED", False, PROVIDER, 200),
    ("reset", CODE.ABORTED, "STREAM_TRUNCATED", False, PROVIDER, 200),
]

KEY: dict[str, object] = {"provider": "sandbox", "credential": {"apiKey": {"key": "test-key"}}}
NUMBERS = itertools.count()
HELLO = [{"role": "ROLE_USER", "parts": [{"text": {"text": "one two three four five"}}]}]


def request(model: str = "sandbox/echo", **fields: object) -> dict[str, object]:
    """Return a request that is tried once, with a key of its own, since a rate limit makes a key wait."""
    key = {"provider": "sandbox", "credential": {"apiKey": {"key": f"test-key-{next(NUMBERS)}"}}}
    once = {"maxAttempts": 1}
    return {"target": {"model": model}, "credentials": [key], "messages": HELLO, "limits": once, **fields}


# request, code, reason, field
REQUEST_FAILURES = [
    (request(messages=[]), CODE.INVALID_ARGUMENT, "INVALID_REQUEST", "messages"),
    (request(sampling={"temperature": 7}), CODE.INVALID_ARGUMENT, "INVALID_REQUEST", "sampling.temperature"),
    (request(target={"provider": "opnrouter"}), CODE.INVALID_ARGUMENT, "UNKNOWN_PROVIDER", "target.provider"),
    (request(target={}, credentials=[]), CODE.INVALID_ARGUMENT, "PROVIDER_REQUIRED", "target.provider"),
    (request("no-such-thing"), CODE.INVALID_ARGUMENT, "UNROUTABLE_MODEL", "target.model"),
    (
        request(
            "some-vendor/some-model",
            credentials=[
                {"provider": "groq", "credential": {"apiKey": {"key": "a"}}},
                {"provider": "together", "credential": {"apiKey": {"key": "b"}}},
            ],
        ),
        CODE.INVALID_ARGUMENT,
        "AMBIGUOUS_MODEL",
        "target.model",
    ),
    (request(credentials=[]), CODE.FAILED_PRECONDITION, "MISSING_CREDENTIAL", "credentials"),
    (request(sampling={"topK": 3}, target={"provider": "groq"}, credentials=[KEY | {"provider": "groq"}]),
     CODE.UNIMPLEMENTED, "UNSUPPORTED_FEATURE", "sampling.top_k"),
    (request(credentials=[{"provider": "sandbox", "credential": {"stored": {"name": "n"}}}]),
     CODE.UNIMPLEMENTED, "NOT_YET_AVAILABLE", "credentials[0].credential.stored"),
    (request(target={"region": "eu"}), CODE.INVALID_ARGUMENT, "INVALID_REQUEST", "target.region"),
]  # fmt: skip


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, DispatchFailure, status_pb2.Status]:
    """Return what every status of the service carries."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    info, failure = error_details_pb2.ErrorInfo(), DispatchFailure()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(failure)
    assert info.domain == "keyswitch.v1"
    assert info.reason == failure.DESCRIPTOR.fields_by_name["reason"].enum_type.values_by_number[
        failure.reason
    ].name.removeprefix("ERROR_REASON_")
    return info, failure, status


async def fail_unary(channel: grpc.aio.Channel, body: dict[str, object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await DispatchServiceStub(channel).Generate(json_format.ParseDict(body, pb.GenerateRequest()), timeout=20)
    return raised.value


async def fail_stream(channel: grpc.aio.Channel, body: dict[str, object]) -> grpc.aio.AioRpcError:
    call = DispatchServiceStub(channel).StreamGenerate(
        json_format.ParseDict(body, pb.StreamGenerateRequest()), timeout=20
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    return raised.value


@pytest.mark.parametrize("fail", [fail_unary, fail_stream])
@pytest.mark.parametrize(("model", "code", "reason", "retryable", "origin", "status"), PROVIDER_FAILURES)
async def test_a_failing_provider_has_its_row_of_the_error_table(
    channel: grpc.aio.Channel,
    fail: Callable[[grpc.aio.Channel, dict[str, object]], grpc.aio.AioRpcError],
    model: str,
    code: grpc.StatusCode,
    reason: str,
    retryable: bool,
    origin: str,
    status: int,
) -> None:
    """Code, reason, retryability, origin, attempt and pushback of every provider failure are the contract's."""
    error = await fail(channel, request(f"sandbox/{model}"))
    info, failure, _ = details(error)
    assert (error.code(), info.reason) == (code, reason)
    assert (failure.retryable, ErrorOrigin.Name(failure.origin)) == (retryable, f"ERROR_ORIGIN_{origin}")
    assert (failure.provider, failure.model, failure.upstream_status) == ("sandbox", f"sandbox/{model}", status)
    assert [(attempt.number, attempt.failure_reason) for attempt in failure.attempts] == [(1, reason)]
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    assert "test-key" not in str(error)


@pytest.mark.parametrize("fail", [fail_unary, fail_stream])
@pytest.mark.parametrize(("body", "code", "reason", "field"), REQUEST_FAILURES)
async def test_a_request_at_fault_is_refused_before_anything_is_sent(
    channel: grpc.aio.Channel,
    fail: Callable[[grpc.aio.Channel, dict[str, object]], grpc.aio.AioRpcError],
    body: dict[str, object],
    code: grpc.StatusCode,
    reason: str,
    field: str,
) -> None:
    """Code, reason and field of every refusal are the contract's, and there was no attempt."""
    error = await fail(channel, body)
    info, failure, status = details(error)
    assert (error.code(), info.reason, failure.field) == (code, reason, field)
    assert (failure.retryable, len(failure.attempts)) == (False, 0)
    if code is CODE.INVALID_ARGUMENT:
        bad_request = error_details_pb2.BadRequest()
        assert status.details[2].Unpack(bad_request)
        assert bad_request.field_violations[0].field == field


async def test_a_rate_limit_says_how_long_to_wait(channel: grpc.aio.Channel) -> None:
    """The provider's Retry-After arrives as RetryInfo and in the failure."""
    error = await fail_unary(channel, request("sandbox/rate-limited"))
    _, failure, status = details(error)
    retry = error_details_pb2.RetryInfo()
    assert status.details[2].Unpack(retry)
    assert (retry.retry_delay.seconds, failure.retry_after.seconds) == (2, 2)


async def test_an_error_inside_a_stream_keeps_its_class(channel: grpc.aio.Channel) -> None:
    """An error event after text is the provider's failure, not a truncation, and no longer retryable."""
    error = await fail_stream(channel, request("sandbox/error-mid-stream"))
    info, failure, _ = details(error)
    assert (error.code(), info.reason, failure.retryable) == (CODE.UNAVAILABLE, "PROVIDER_UNAVAILABLE", False)


async def test_a_field_of_a_newer_contract_is_refused(channel: grpc.aio.Channel) -> None:
    """A request with a field that this server does not know is refused with its path and number."""
    message = json_format.ParseDict(request(), pb.GenerateRequest())
    newer = message.SerializeToString() + b"\xf8\x3f\x01"  # field 1023, varint 1
    generate = channel.unary_unary(
        "/keyswitch.v1.DispatchService/Generate", response_deserializer=pb.GenerateResponse.FromString
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await generate(newer, timeout=10)
    info, _, _ = details(raised.value)
    assert (raised.value.code(), info.reason) == (CODE.INVALID_ARGUMENT, "UNKNOWN_FIELD")
    assert "1023" in (raised.value.details() or "")
