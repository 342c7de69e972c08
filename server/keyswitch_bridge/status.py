"""Errors as gRPC statuses with typed details."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc
import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import error_pb2
from keyswitch_engine.errors import DispatchError, InvalidRequest, Origin, Reason

from keyswitch_bridge.receipts import attempt_message, seconds, usage_message

__all__ = ["CODES", "DOMAIN", "MAX_DETAILS_BYTES", "RpcFailure", "internal_failure", "rpc_failure"]

DOMAIN = "keyswitch.v1"
"""Domain of every `google.rpc.ErrorInfo` that this service sends."""

MAX_DETAILS_BYTES = 4096
"""Largest serialised status: gRPC loses statuses whose metadata exceed 8 KiB, and clients and proxies add their own."""

_MAX_MESSAGE = 1024

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED

CODES: Mapping[Reason, grpc.StatusCode] = MappingProxyType(
    {
        Reason.INVALID_REQUEST: _INVALID,
        Reason.UNKNOWN_FIELD: _INVALID,
        Reason.UNKNOWN_PROVIDER: _INVALID,
        Reason.PROVIDER_REQUIRED: _INVALID,
        Reason.MODEL_REQUIRED: _INVALID,
        Reason.UNROUTABLE_MODEL: _INVALID,
        Reason.AMBIGUOUS_MODEL: _INVALID,
        Reason.MISSING_CREDENTIAL: _PRECONDITION,
        Reason.PLATFORM_NOT_ALLOWED: _PRECONDITION,
        Reason.CREDENTIAL_UNREADABLE: _PRECONDITION,
        Reason.INVALID_CREDENTIAL: _PRECONDITION,
        Reason.CREDENTIAL_NOT_PERMITTED: _PRECONDITION,
        Reason.INSUFFICIENT_CREDIT: _PRECONDITION,
        Reason.PROVIDER_REJECTED_REQUEST: _INVALID,
        Reason.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Reason.CONTEXT_OVERFLOW: _INVALID,
        Reason.CONTENT_REFUSED: _PRECONDITION,
        Reason.PROVIDER_RATE_LIMITED: _EXHAUSTED,
        Reason.PROVIDER_OVERLOADED: _UNAVAILABLE,
        Reason.PROVIDER_UNAVAILABLE: _UNAVAILABLE,
        Reason.OVERLOADED: _EXHAUSTED,
        Reason.STREAM_TRUNCATED: grpc.StatusCode.ABORTED,
        Reason.PROVIDER_PROTOCOL_ERROR: grpc.StatusCode.INTERNAL,
        Reason.INVALID_ENDPOINT: _INVALID,
        Reason.BLOCKED_ENDPOINT: grpc.StatusCode.PERMISSION_DENIED,
        Reason.FIRST_TOKEN_TIMEOUT: _DEADLINE,
        Reason.IDLE_TIMEOUT: _DEADLINE,
        Reason.TOTAL_TIMEOUT: _DEADLINE,
        Reason.UNSUPPORTED_FEATURE: _UNIMPLEMENTED,
        Reason.NOT_YET_AVAILABLE: _UNIMPLEMENTED,
        Reason.DISABLED_BY_POLICY: _PRECONDITION,
        Reason.CALLER_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        Reason.CALLER_NOT_PERMITTED: grpc.StatusCode.PERMISSION_DENIED,
        Reason.CALLER_LIMITED: _EXHAUSTED,
        Reason.INTERNAL: grpc.StatusCode.INTERNAL,
        Reason.SERVER_STOPPED: grpc.StatusCode.UNAVAILABLE,
        Reason.CLIENT_TOO_OLD: _PRECONDITION,
        Reason.CALLER_TIMEOUT: _DEADLINE,
    }
)
"""The status code of every reason, as the contract's error table has it."""

_ORIGINS = {
    Origin.CALLER: error_pb2.ERROR_ORIGIN_CALLER,
    Origin.GATEWAY: error_pb2.ERROR_ORIGIN_GATEWAY,
    Origin.PROVIDER: error_pb2.ERROR_ORIGIN_PROVIDER,
}
_GATEWAY_RETRIES = frozenset({Reason.OVERLOADED, Reason.CALLER_LIMITED, Reason.SERVER_STOPPED})


class RpcFailure(msgspec.Struct, frozen=True):
    """A status, ready to be sent."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def rpc_failure(error: DispatchError, advice: str = "") -> RpcFailure:
    """Turn an error into the status that tells of it; *advice* goes behind its message."""
    code, message = CODES[error.reason], error.message + advice
    message = message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=_metadata(error))
    failure = _failure(error)
    details: list[Message] = [info, failure]
    if code is _INVALID and (error.field or isinstance(error, InvalidRequest)):
        details.append(_bad_request(error))
    if error.retryable and error.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=seconds(error.retry_after)))
    status = _fit(code, message, details, failure)
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status)]
    if not error.retryable or error.reason not in _GATEWAY_RETRIES:
        metadata.append(("grpc-retry-pushback-ms", "-1"))  # else channels would retry what is not theirs to retry
    elif error.retry_after is not None:
        metadata.append(("grpc-retry-pushback-ms", str(int(error.retry_after * 1000))))
    return RpcFailure(code, message, tuple(metadata))


def internal_failure(incident_id: str) -> RpcFailure:
    """Return the status for a bug of ours, which tells nothing but the incident's id."""
    return rpc_failure(DispatchError(Reason.INTERNAL, f"internal error; incident {incident_id}"))


def _metadata(error: DispatchError) -> dict[str, str]:
    """Return what is variable in the message, for machines."""
    values = {"provider": error.provider, "model": error.model[:256], "field": error.field[:256]}
    return {name: value for name, value in values.items() if value}


def _failure(error: DispatchError) -> error_pb2.DispatchFailure:
    """Build this service's own detail."""
    failure = error_pb2.DispatchFailure(
        reason=error_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason.value}"),
        origin=_ORIGINS[error.origin],
        retryable=error.retryable,
        provider=error.provider,
        model=error.model[:256],
        upstream_status=error.upstream_status,
        upstream_code=error.upstream_code,
        upstream_request_id=error.upstream_request_id,
        field=error.field[:256],
        attempts=[attempt_message(attempt) for attempt in error.attempts],
        origins=error.origins,
    )
    if error.retry_after is not None:
        failure.retry_after.CopyFrom(_bounded(error.retry_after))
    if error.partial_usage is not None:
        failure.partial_usage.CopyFrom(usage_message(error.partial_usage))
        failure.partial_usage.reported.json = ""  # the numbers are there; the text would not fit
    return failure


def _bounded(value: float) -> Duration:
    """Return a delay, at most a day: a provider's clock may be anywhere."""
    return seconds(min(max(value, 0.0), 86_400.0))


def _bad_request(error: DispatchError) -> error_details_pb2.BadRequest:
    """Name the fields at fault."""
    violations = (
        [(violation.field, violation.description) for violation in error.violations]
        if isinstance(error, InvalidRequest)
        else [(error.field, error.message)]
    )
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field[:256], description=description[:256])
            for field, description in violations
        ]
    )


def _fit(code: grpc.StatusCode, message: str, details: list[Message], failure: error_pb2.DispatchFailure) -> bytes:
    """Serialise a status in at most `MAX_DETAILS_BYTES`: first the oldest attempts go, then the last violations."""
    while True:
        packed = []
        for detail in details:
            wrapped = AnyMessage()
            wrapped.Pack(detail)
            packed.append(wrapped)
        serialised: bytes = status_pb2.Status(code=code.value[0], message=message, details=packed).SerializeToString()
        if len(serialised) <= MAX_DETAILS_BYTES:
            return serialised
        bad_request = details[2] if len(details) > 2 else None  # noqa: PLR2004 - behind info and failure
        if len(failure.attempts) > 1:
            del failure.attempts[0]
        elif isinstance(bad_request, error_details_pb2.BadRequest) and len(bad_request.field_violations) > 1:
            del bad_request.field_violations[-1]
        elif failure.attempts:
            del failure.attempts[:]
        elif message:
            message = message[: len(message) // 2]
        else:
            del details[1:]
