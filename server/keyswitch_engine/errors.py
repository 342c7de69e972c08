"""Every way a call can fail, as one small tree of exceptions.

::

    DispatchError                    a call failed; `reason` says why, in the contract's closed vocabulary
    ├── RequestError                 the request is at fault and nothing was sent
    │   ├── InvalidRequest           it is malformed; `violations` name the fields
    │   └── Unavailable              it is well-formed, but this build or this dialect cannot do it; `field` names it
    ├── ProviderError                the provider refused or failed, with an answer or without one
    │   ├── StreamTruncated          the stream ended before its terminal marker
    │   └── ProtocolError            the answer is not in the provider's dialect
    └── LimitExceeded                one of the call's time limits passed

Anything else that escapes from the engine is a bug. `Reason` has the values of `keyswitch.v1.ErrorReason` without their
prefix; the bridge gives each its status code.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyswitch_engine.events import Attempt, Usage

__all__ = [
    "RETRYABLE",
    "DispatchError",
    "InvalidRequest",
    "LimitExceeded",
    "Origin",
    "ProtocolError",
    "ProviderError",
    "Reason",
    "RequestError",
    "StreamTruncated",
    "Unavailable",
    "Violation",
]


class Reason(enum.StrEnum):
    """Why a call failed. The contract documents each value."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    UNKNOWN_PROVIDER = "UNKNOWN_PROVIDER"
    PROVIDER_REQUIRED = "PROVIDER_REQUIRED"
    MODEL_REQUIRED = "MODEL_REQUIRED"
    UNROUTABLE_MODEL = "UNROUTABLE_MODEL"
    AMBIGUOUS_MODEL = "AMBIGUOUS_MODEL"
    MISSING_CREDENTIAL = "MISSING_CREDENTIAL"
    PLATFORM_NOT_ALLOWED = "PLATFORM_NOT_ALLOWED"
    CREDENTIAL_UNREADABLE = "CREDENTIAL_UNREADABLE"
    INVALID_CREDENTIAL = "INVALID_CREDENTIAL"
    CREDENTIAL_NOT_PERMITTED = "CREDENTIAL_NOT_PERMITTED"
    INSUFFICIENT_CREDIT = "INSUFFICIENT_CREDIT"
    PROVIDER_REJECTED_REQUEST = "PROVIDER_REJECTED_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    CONTEXT_OVERFLOW = "CONTEXT_OVERFLOW"
    CONTENT_REFUSED = "CONTENT_REFUSED"
    PROVIDER_RATE_LIMITED = "PROVIDER_RATE_LIMITED"
    PROVIDER_OVERLOADED = "PROVIDER_OVERLOADED"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    OVERLOADED = "OVERLOADED"
    STREAM_TRUNCATED = "STREAM_TRUNCATED"
    PROVIDER_PROTOCOL_ERROR = "PROVIDER_PROTOCOL_ERROR"
    INVALID_ENDPOINT = "INVALID_ENDPOINT"
    BLOCKED_ENDPOINT = "BLOCKED_ENDPOINT"
    FIRST_TOKEN_TIMEOUT = "FIRST_TOKEN_TIMEOUT"  # noqa: S105 - a token of text
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    TOTAL_TIMEOUT = "TOTAL_TIMEOUT"
    UNSUPPORTED_FEATURE = "UNSUPPORTED_FEATURE"
    NOT_YET_AVAILABLE = "NOT_YET_AVAILABLE"
    DISABLED_BY_POLICY = "DISABLED_BY_POLICY"
    CALLER_UNAUTHENTICATED = "CALLER_UNAUTHENTICATED"
    CALLER_NOT_PERMITTED = "CALLER_NOT_PERMITTED"
    CALLER_LIMITED = "CALLER_LIMITED"
    INTERNAL = "INTERNAL"
    SERVER_STOPPED = "SERVER_STOPPED"
    CLIENT_TOO_OLD = "CLIENT_TOO_OLD"
    CALLER_TIMEOUT = "CALLER_TIMEOUT"


class Origin(enum.Enum):
    """Who has to act on a failure."""

    CALLER = enum.auto()
    GATEWAY = enum.auto()
    PROVIDER = enum.auto()


RETRYABLE = frozenset(
    {
        Reason.PROVIDER_RATE_LIMITED,
        Reason.PROVIDER_OVERLOADED,
        Reason.PROVIDER_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.FIRST_TOKEN_TIMEOUT,
        Reason.CALLER_LIMITED,
    }
)
"""Reasons for which the same request may succeed later without being billed twice."""

_GATEWAY = frozenset(
    {
        Reason.OVERLOADED,
        Reason.INTERNAL,
        Reason.SERVER_STOPPED,
        Reason.NOT_YET_AVAILABLE,
        Reason.DISABLED_BY_POLICY,
    }
)
_PROVIDER = frozenset(
    {
        Reason.PROVIDER_RATE_LIMITED,
        Reason.PROVIDER_OVERLOADED,
        Reason.PROVIDER_UNAVAILABLE,
        Reason.STREAM_TRUNCATED,
        Reason.PROVIDER_PROTOCOL_ERROR,
        Reason.FIRST_TOKEN_TIMEOUT,
        Reason.IDLE_TIMEOUT,
        Reason.TOTAL_TIMEOUT,
    }
)


class DispatchError(Exception):
    """A call failed.

    The message is safe to show: it never holds a key, and provider text in it is a scrubbed excerpt. What is known of
    the route and the attempts is filled in on the way out, by dispatch.
    """

    reason: Reason
    message: str
    field: str = ""
    """Request field at fault, as a path of contract field names; empty if none is."""
    provider: str = ""
    model: str = ""
    upstream_status: int | None = None
    upstream_code: str = ""
    upstream_request_id: str = ""
    retry_after: float | None = None
    """Seconds to wait before a retry; None if nothing is known."""
    attempts: tuple[Attempt, ...] = ()
    origins: tuple[str, ...] = ()
    """Those of the target and of each fallback, where one of them may not be called from here."""
    partial_usage: Usage | None = None
    retryable: bool
    """Whether the same request may succeed when it is sent again."""
    answering: bool = False
    """Whether a part of an answer had come, which will be billed: nothing may be tried after that."""

    def __init__(self, reason: Reason, message: str, *, field: str = "") -> None:
        """Raise for *reason*, with a *message* for people that says what was wrong and what to do."""
        super().__init__()
        self.reason = reason
        self.message = message
        self.field = field
        self.retryable = reason in RETRYABLE

    def __str__(self) -> str:
        """Return the message, which is kept out of `args` so that scrubbing it once is enough."""
        return self.message

    @property
    def origin(self) -> Origin:
        """Who has to act."""
        if self.reason in _GATEWAY:
            return Origin.GATEWAY
        return Origin.PROVIDER if self.reason in _PROVIDER else Origin.CALLER


class RequestError(DispatchError):
    """The request is at fault, or what it refers to; nothing was sent."""


class Violation:
    """One thing wrong with one field."""

    __slots__ = ("description", "field")

    def __init__(self, field: str, description: str) -> None:
        """Name the *field* by its path, for example `messages[2].parts`, and say what it should have been."""
        self.field = field
        self.description = description

    def __repr__(self) -> str:
        """Show both parts."""
        return f"Violation({self.field!r}, {self.description!r})"

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, Violation) and (self.field, self.description) == (other.field, other.description)

    def __hash__(self) -> int:
        """Hash by value."""
        return hash((self.field, self.description))


class InvalidRequest(RequestError):
    """The request is malformed or contradicts itself."""

    def __init__(self, violations: Sequence[Violation], reason: Reason = Reason.INVALID_REQUEST) -> None:
        """Raise for at least one violation; the first one makes the message."""
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(reason, f"{first.field}: {first.description}{more}", field=first.field)
        self.violations = tuple(violations)


class Unavailable(RequestError):
    """Something asked for is well-formed, but not to be had: not built yet, or not expressible in the dialect."""


class ProviderError(DispatchError):
    """The provider refused or failed."""


class StreamTruncated(ProviderError):
    """The provider's answer ended before its terminal marker."""

    def __init__(self, message: str = "the provider's answer ended before it was complete") -> None:
        """Raise where an answer ends too early."""
        super().__init__(Reason.STREAM_TRUNCATED, message)


class ProtocolError(ProviderError):
    """The provider's answer is not in its dialect, or exceeds a cap."""

    def __init__(self, message: str) -> None:
        """Raise with what was wrong with the answer; never with its text."""
        super().__init__(Reason.PROVIDER_PROTOCOL_ERROR, message)


class LimitExceeded(DispatchError):
    """A time limit of the call passed."""
