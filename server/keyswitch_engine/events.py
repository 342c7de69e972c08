"""What comes back from a call: events, usage, receipt.

A dialect's decoder yields `BlockEvent`s and, once its answer is complete, an `Ending`; dispatch adds `Started` and
`Finished`. All are small frozen values; a reader dispatches on them with an exhaustive `match`.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

__all__ = [
    "ArgumentsDelta",
    "Attempt",
    "AttemptOutcome",
    "AudioBlock",
    "Billing",
    "Block",
    "BlockEvent",
    "BlockStart",
    "BlockStop",
    "Citation",
    "CitationDelta",
    "Cost",
    "CredentialSource",
    "Ending",
    "Event",
    "Finished",
    "ImageBlock",
    "LogprobsDelta",
    "MediaDelta",
    "OpaqueBlock",
    "ProviderState",
    "ReasoningBlock",
    "ReasoningDelta",
    "Receipt",
    "RefusalBlock",
    "RefusalDelta",
    "ReportedUsage",
    "Started",
    "StopReason",
    "TextBlock",
    "TextDelta",
    "TokenLogprob",
    "ToolCallBlock",
    "TopLogprob",
    "Usage",
]


class StopReason(enum.Enum):
    """Why the model stopped. The contract documents each value."""

    STOP = enum.auto()
    LENGTH = enum.auto()
    TOOL_CALLS = enum.auto()
    CONTENT_FILTER = enum.auto()
    REFUSAL = enum.auto()
    PAUSE = enum.auto()
    OTHER = enum.auto()
    UNKNOWN = enum.auto()


class Billing(enum.Enum):
    """Who pays the provider."""

    BYOK = enum.auto()
    PLATFORM = enum.auto()


class CredentialSource(enum.Enum):
    """Whose credential was used."""

    CALLER = enum.auto()
    STORED = enum.auto()
    PLATFORM = enum.auto()
    NONE = enum.auto()


class AttemptOutcome(enum.Enum):
    """How an attempt ended."""

    SUCCEEDED = enum.auto()
    FAILED = enum.auto()
    CANCELLED = enum.auto()


class _Value(msgspec.Struct, frozen=True, gc=False):
    """A frozen value without reference cycles."""


class ReportedUsage(_Value, frozen=True):
    """A provider's own counts; None is unknown, which is not zero."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    json: str = ""
    """The provider's usage object as it was sent."""


class Usage(_Value, frozen=True):
    """Counts that compare between providers: input includes the cache, output includes reasoning."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    reported: ReportedUsage | None = None


class Cost(_Value, frozen=True):
    """The price of a generation."""

    nano_usd: int
    source: str
    source_date: str


class Attempt(_Value, frozen=True):
    """One try at one provider. Times are seconds; None where the try did not get that far."""

    number: int
    provider: str
    model: str
    origin_host: str
    credential_source: CredentialSource
    billing: Billing
    outcome: AttemptOutcome
    failure_reason: str = ""
    upstream_status: int | None = None
    upstream_request_id: str = ""
    queue_time: float = 0.0
    connect_time: float | None = None
    first_token_time: float | None = None
    total_time: float = 0.0
    key_fingerprint: str = ""


class Receipt(_Value, frozen=True):
    """What was done for a call."""

    attempts: tuple[Attempt, ...]


class ProviderState(_Value, frozen=True):
    """Data that a provider attached to a block and wants back unchanged."""

    provider: str
    dialect: str
    data: bytes


class TextBlock(_Value, frozen=True):
    """Text for the user."""


class ReasoningBlock(_Value, frozen=True):
    """Reasoning."""


class ToolCallBlock(_Value, frozen=True):
    """A tool call; its arguments follow as deltas."""

    id: str
    name: str


class RefusalBlock(_Value, frozen=True):
    """A refusal."""


class ImageBlock(_Value, frozen=True):
    """An image; its bytes follow as deltas."""

    media_type: str


class AudioBlock(_Value, frozen=True):
    """A sound; its bytes follow as deltas."""

    media_type: str


class OpaqueBlock(_Value, frozen=True):
    """An item that only its provider understands; its content comes as the state of its stop."""

    type: str


Block: TypeAlias = TextBlock | ReasoningBlock | ToolCallBlock | RefusalBlock | ImageBlock | AudioBlock | OpaqueBlock


class Citation(_Value, frozen=True):
    """A source that a text quotes. Indices count Unicode characters in the block's text."""

    url: str = ""
    title: str = ""
    quote: str = ""
    start_index: int | None = None
    end_index: int | None = None


class TopLogprob(_Value, frozen=True):
    """One alternative to a token."""

    token: str
    logprob: float
    token_bytes: bytes = b""


class TokenLogprob(_Value, frozen=True):
    """The natural logarithm of a token's probability."""

    token: str
    logprob: float
    token_bytes: bytes = b""
    top: tuple[TopLogprob, ...] = ()


class BlockStart(_Value, frozen=True):
    """Begins a block; indices count from 0 and are unique in the answer."""

    index: int
    block: Block


class TextDelta(_Value, frozen=True):
    """Adds to a text block."""

    index: int
    text: str


class ReasoningDelta(_Value, frozen=True):
    """Adds to a reasoning block."""

    index: int
    text: str


class ArgumentsDelta(_Value, frozen=True):
    """Adds a fragment to a tool call's arguments, exactly as sent."""

    index: int
    fragment: str


class RefusalDelta(_Value, frozen=True):
    """Adds to a refusal."""

    index: int
    text: str


class MediaDelta(_Value, frozen=True):
    """Adds bytes to an image or a sound."""

    index: int
    data: bytes


class CitationDelta(_Value, frozen=True):
    """Adds a source to a text block."""

    index: int
    citation: Citation


class LogprobsDelta(_Value, frozen=True):
    """Adds log probabilities to a text block."""

    index: int
    tokens: tuple[TokenLogprob, ...]


class BlockStop(_Value, frozen=True):
    """Completes a block."""

    index: int
    state: ProviderState | None = None


BlockEvent: TypeAlias = (
    BlockStart
    | TextDelta
    | ReasoningDelta
    | ArgumentsDelta
    | RefusalDelta
    | MediaDelta
    | CitationDelta
    | LogprobsDelta
    | BlockStop
)


class Ending(_Value, frozen=True):
    """What a decoder knows once its answer is complete."""

    stop_reason: StopReason
    raw_stop_reason: str = ""
    usage: Usage | None = None
    answering_model: str = ""


class Started(_Value, frozen=True):
    """A provider accepted the request."""

    response_id: str
    provider: str
    requested_model: str
    resolved_model: str
    billing: Billing
    attempt: int


class Finished(_Value, frozen=True):
    """The answer is complete."""

    ending: Ending
    receipt: Receipt
    cost: Cost | None = None


Event: TypeAlias = Started | BlockEvent | Finished
