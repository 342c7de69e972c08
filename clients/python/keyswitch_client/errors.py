"""What a failed call raises.

::

    KeyswitchError
    ├── InvalidRequestError     the request, or what it refers to, has to be changed
    ├── CredentialError         the key is missing, refused, not permitted or out of credit
    ├── ContentRefusedError     the provider's policy refused the content
    ├── UnsupportedError        the provider cannot do it, or this server cannot yet
    ├── RateLimitedError        too much for now: the provider's limit, or this service's
    ├── ProviderError           the provider failed or answered nonsense
    │   └── TruncatedError      its answer ended before it was complete
    ├── DeadlineError           a time limit passed
    ├── CallerError             this service does not know or allow the caller
    ├── UnavailableError        the service cannot be reached
    └── InternalError           a bug of the service
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import error_pb2, usage_pb2

from keyswitch_client.enums import value_name

__all__ = [
    "BY_REASON", "CallerError", "ContentRefusedError", "CredentialError", "DeadlineError", "InternalError",
    "InvalidRequestError", "KeyswitchError", "ProviderError", "RateLimitedError", "TruncatedError", "UnavailableError",
    "UnsupportedError", "bare", "from_status", "incomplete", "mixed",
]  # fmt: skip


E = TypeVar("E", bound=BaseException)


class KeyswitchError(Exception):
    """A call failed."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        failure: error_pb2.DispatchFailure,
        reason: str = "",
        *,
        hint: str = "",
    ) -> None:
        """Build from a status and its detail; the detail is empty where the status carried none."""
        super().__init__(f"{reason or code.name}: {message}" + (f" ({hint})" if hint else ""))
        self.code = code
        """gRPC's status code."""
        self.message = message
        self.reason = reason
        """Why, for example `MISSING_CREDENTIAL`; empty where the service did not say, as it cannot be reached.

        `NOT_YET_AVAILABLE` is also concluded here, where a server does not know the rpc at all and so says nothing.
        """
        self.hint = hint
        """What to look at beside the message; empty if there is nothing."""
        self.retryable: bool = failure.retryable
        """Whether the same request may succeed when it is sent again, without being billed twice."""
        self.retry_after: float | None = (
            failure.retry_after.ToTimedelta().total_seconds() if failure.HasField("retry_after") else None
        )
        """Seconds to wait before that; None if nothing is known."""
        self.origin = value_name(error_pb2.ErrorOrigin, failure.origin, "ERROR_ORIGIN_")
        """Who has to act: `CALLER`, `GATEWAY` or `PROVIDER`; `UNSPECIFIED` where the service did not say."""
        self.provider: str = failure.provider
        self.model: str = failure.model
        self.field: str = failure.field
        """The request field at fault; empty if none is."""
        self.upstream_status: int | None = failure.upstream_status if failure.HasField("upstream_status") else None
        self.upstream_code: str = failure.upstream_code
        self.upstream_request_id: str = failure.upstream_request_id
        self.origins = tuple(failure.origins)
        """With `BLOCKED_ENDPOINT`, where the server's target and each fallback are."""
        self.receipt = usage_pb2.Receipt(attempts=failure.attempts)
        """What was done before it failed."""
        self.partial_usage: usage_pb2.Usage | None = (
            failure.partial_usage if failure.HasField("partial_usage") else None
        )
        self.violations: tuple[tuple[str, str], ...] = ()
        """Fields that are wrong, each with what it should have been."""


class InvalidRequestError(KeyswitchError):
    """The request, or what it refers to, has to be changed."""


class CredentialError(KeyswitchError):
    """The key is missing, refused, not permitted or out of credit."""


class ContentRefusedError(KeyswitchError):
    """The provider's policy refused the content."""


class UnsupportedError(KeyswitchError):
    """The provider cannot do it, or this server cannot yet."""


class RateLimitedError(KeyswitchError):
    """Too much for now."""


class ProviderError(KeyswitchError):
    """The provider failed or answered nonsense."""


class TruncatedError(ProviderError):
    """The answer ended before it was complete."""


class DeadlineError(KeyswitchError):
    """A time limit passed."""


class CallerError(KeyswitchError):
    """This service does not know or allow the caller."""


class UnavailableError(KeyswitchError):
    """The service cannot be reached."""


class InternalError(KeyswitchError):
    """A bug of the service."""


BY_REASON: Mapping[str, type[KeyswitchError]] = MappingProxyType(
    {
        "INVALID_REQUEST": InvalidRequestError,
        "UNKNOWN_FIELD": InvalidRequestError,
        "UNKNOWN_PROVIDER": InvalidRequestError,
        "PROVIDER_REQUIRED": InvalidRequestError,
        "MODEL_REQUIRED": InvalidRequestError,
        "UNROUTABLE_MODEL": InvalidRequestError,
        "AMBIGUOUS_MODEL": InvalidRequestError,
        "MISSING_CREDENTIAL": CredentialError,
        "PLATFORM_NOT_ALLOWED": CredentialError,
        "CREDENTIAL_UNREADABLE": CredentialError,
        "INVALID_CREDENTIAL": CredentialError,
        "CREDENTIAL_NOT_PERMITTED": CredentialError,
        "INSUFFICIENT_CREDIT": CredentialError,
        "PROVIDER_REJECTED_REQUEST": InvalidRequestError,
        "MODEL_NOT_FOUND": InvalidRequestError,
        "CONTEXT_OVERFLOW": InvalidRequestError,
        "CONTENT_REFUSED": ContentRefusedError,
        "PROVIDER_RATE_LIMITED": RateLimitedError,
        "PROVIDER_OVERLOADED": ProviderError,
        "PROVIDER_UNAVAILABLE": ProviderError,
        "OVERLOADED": RateLimitedError,
        "STREAM_TRUNCATED": TruncatedError,
        "PROVIDER_PROTOCOL_ERROR": ProviderError,
        "INVALID_ENDPOINT": InvalidRequestError,
        "BLOCKED_ENDPOINT": InvalidRequestError,
        "FIRST_TOKEN_TIMEOUT": DeadlineError,
        "IDLE_TIMEOUT": DeadlineError,
        "TOTAL_TIMEOUT": DeadlineError,
        "UNSUPPORTED_FEATURE": UnsupportedError,
        "NOT_YET_AVAILABLE": UnsupportedError,
        "DISABLED_BY_POLICY": CallerError,
        "CALLER_UNAUTHENTICATED": CallerError,
        "CALLER_NOT_PERMITTED": CallerError,
        "CALLER_LIMITED": RateLimitedError,
        "INTERNAL": InternalError,
        "SERVER_STOPPED": UnavailableError,
        "CLIENT_TOO_OLD": CallerError,
        "CALLER_TIMEOUT": DeadlineError,
    }
)
"""The class of every reason."""

_BY_CODE: Mapping[grpc.StatusCode, type[KeyswitchError]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RateLimitedError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.UNAUTHENTICATED: CallerError,
    grpc.StatusCode.PERMISSION_DENIED: CallerError,
    grpc.StatusCode.INTERNAL: InternalError,
}

_COMPARE = "the server may be older than this client: compare them with `keyswitch doctor`"


def bare(error: E) -> E:
    """Return an exception without what led to it: the variables of those frames, gRPC's and the engine's, hold keys.

    Whatever is raised from here in the place of another exception, has that one behind it, `from None` or not.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def from_status(code: grpc.StatusCode, message: str | None, trailing_metadata: Iterable[Any] | None) -> KeyswitchError:
    """Return the error for a status other than OK; one without readable details is told apart by its code."""
    failure, reason = error_pb2.DispatchFailure(), ""
    violations: list[tuple[str, str]] = []
    for detail in _details(trailing_metadata):
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        with contextlib.suppress(DecodeError):  # one that cannot be read says nothing; the status still does
            if detail.Is(failure.DESCRIPTOR):
                detail.Unpack(failure)
            elif detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
                reason = info.reason
            elif detail.Is(bad_request.DESCRIPTOR):
                detail.Unpack(bad_request)
                violations += [(violation.field, violation.description) for violation in bad_request.field_violations]
    message = message or "no explanation was given"
    hint = _COMPARE if reason == "UNKNOWN_FIELD" else ""
    if code is grpc.StatusCode.UNIMPLEMENTED and not reason:
        reason, failure.origin = "NOT_YET_AVAILABLE", error_pb2.ERROR_ORIGIN_GATEWAY
        message, hint = f"nobody serves this rpc there: {message}", _COMPARE
    kind = BY_REASON.get(reason) or _BY_CODE.get(code, KeyswitchError)
    error = kind(code, message, failure, reason, hint=hint)
    error.violations = tuple(violations)
    return error


def incomplete() -> TruncatedError:
    """Return the error for a stream that ended with OK but without `Finished`, which no keyswitch server does."""
    failure = error_pb2.DispatchFailure(reason=error_pb2.ERROR_REASON_STREAM_TRUNCATED)
    return TruncatedError(
        grpc.StatusCode.ABORTED, "the stream ended without saying that it was complete", failure, "STREAM_TRUNCATED"
    )


def mixed() -> InvalidRequestError:
    """Return the refusal of a request whose targets are local in part, which nobody else hears of."""
    rule = (
        "some targets are local, which this machine calls itself, and others are the server's; "
        "send them one after another, or dispatch all from this machine (local='always')"
    )
    failure = error_pb2.DispatchFailure(
        reason=error_pb2.ERROR_REASON_INVALID_REQUEST, origin=error_pb2.ERROR_ORIGIN_CALLER, field="fallbacks"
    )
    error = InvalidRequestError(grpc.StatusCode.INVALID_ARGUMENT, f"fallbacks: {rule}", failure, "INVALID_REQUEST")
    error.violations = (("fallbacks", rule),)
    return error


def _details(metadata: Iterable[Any] | None) -> list[AnyMessage]:
    """Return the details of a status, none if they are missing or not readable."""
    for key, value in metadata or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
