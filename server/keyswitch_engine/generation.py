"""What a call asks for: one generation, independent of provider and wire protocol.

The bridge builds these values from a validated request, so a value that exists is legal. JSON that only the provider
interprets (schemas, options, tool arguments) stays text: parsing it would lose key order and large integers.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import msgspec

from keyswitch_engine.events import ProviderState

__all__ = [
    "AudioPart",
    "CacheHint",
    "CacheRetention",
    "Content",
    "FilePart",
    "FunctionTool",
    "Generation",
    "ImagePart",
    "InlineMedia",
    "JsonFormat",
    "JsonSchemaFormat",
    "MediaSource",
    "MediaUrl",
    "Message",
    "OpaquePart",
    "Part",
    "ProviderTool",
    "Reasoning",
    "ReasoningEffort",
    "ReasoningPart",
    "RefusalPart",
    "ResponseFormat",
    "Role",
    "Sampling",
    "TextPart",
    "Tool",
    "ToolCallPart",
    "ToolChoice",
    "ToolChoiceFunction",
    "ToolResultPart",
]


class Role(enum.Enum):
    """Who speaks."""

    USER = enum.auto()
    ASSISTANT = enum.auto()
    TOOL = enum.auto()
    SYSTEM = enum.auto()


class ReasoningEffort(enum.Enum):
    """How hard to think."""

    NONE = enum.auto()
    MINIMAL = enum.auto()
    LOW = enum.auto()
    MEDIUM = enum.auto()
    HIGH = enum.auto()
    MAX = enum.auto()


class CacheRetention(enum.Enum):
    """How long a prompt cache should last."""

    DEFAULT = enum.auto()
    SHORT = enum.auto()
    LONG = enum.auto()


class _Value(msgspec.Struct, frozen=True):
    """A frozen value."""


class CacheHint(_Value, frozen=True):
    """Asks for the prompt up to here to be cached."""

    retention: CacheRetention


class InlineMedia(_Value, frozen=True):
    """Media in the request itself."""

    data: bytes
    media_type: str


class MediaUrl(_Value, frozen=True):
    """Media that the provider fetches; the media type may be empty."""

    url: str
    media_type: str


MediaSource: TypeAlias = InlineMedia | MediaUrl


class TextPart(_Value, frozen=True):
    """Text."""

    text: str


class ImagePart(_Value, frozen=True):
    """An image; the detail is empty for the provider's default."""

    source: MediaSource
    detail: str = ""


class AudioPart(_Value, frozen=True):
    """A sound."""

    source: MediaSource


class FilePart(_Value, frozen=True):
    """A document; the name may be empty."""

    source: MediaSource
    filename: str = ""


class ToolCallPart(_Value, frozen=True):
    """A call that the assistant made; arguments as the provider sent them."""

    id: str
    name: str
    arguments_json: str


class ToolResultPart(_Value, frozen=True):
    """What a tool call resulted in."""

    tool_call_id: str
    parts: tuple[Part, ...]
    is_error: bool


class ReasoningPart(_Value, frozen=True):
    """Reasoning text as the provider showed it; may be empty beside a state."""

    text: str


class RefusalPart(_Value, frozen=True):
    """The text of a refusal."""

    text: str


class OpaquePart(_Value, frozen=True):
    """An item that only its provider understands; its content is the part's state."""

    type: str


Content: TypeAlias = (
    TextPart
    | ImagePart
    | AudioPart
    | FilePart
    | ToolCallPart
    | ToolResultPart
    | ReasoningPart
    | RefusalPart
    | OpaquePart
)


class Part(_Value, frozen=True):
    """One piece of a message, with what its provider attached to it."""

    content: Content
    state: ProviderState | None = None
    cache_hint: CacheHint | None = None


class Message(_Value, frozen=True):
    """One turn; the name is empty if the participant has none."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""


class FunctionTool(_Value, frozen=True):
    """A function that the caller runs; an empty schema means no arguments, strict None the provider's default."""

    name: str
    description: str = ""
    parameters_json_schema: str = ""
    strict: bool | None = None
    cache_hint: CacheHint | None = None


class ProviderTool(_Value, frozen=True):
    """A tool that the provider runs itself."""

    type: str
    config_json: str = ""
    cache_hint: CacheHint | None = None


Tool: TypeAlias = FunctionTool | ProviderTool


class ToolChoiceFunction(_Value, frozen=True):
    """Demands a call of one function."""

    name: str


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | ToolChoiceFunction


class JsonFormat(_Value, frozen=True):
    """Any JSON object."""


class JsonSchemaFormat(_Value, frozen=True):
    """JSON that fits a schema."""

    json_schema: str
    name: str = "response"
    description: str = ""
    strict: bool | None = None


ResponseFormat: TypeAlias = JsonFormat | JsonSchemaFormat
"""The form of an answer that is not plain text."""


class Sampling(_Value, frozen=True):
    """Numbers that steer generation; None means the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: tuple[str, ...] = ()


class Reasoning(_Value, frozen=True):
    """How long the model thinks: at most one of effort and budget."""

    effort: ReasoningEffort | None = None
    budget_tokens: int | None = None
    include_text: bool = False
    """Whether the text, or a summary of it, is wanted of providers that show none unless asked."""


class Generation(_Value, frozen=True):
    """One generation."""

    messages: tuple[Message, ...]
    system: tuple[Part, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    sampling: Sampling = Sampling()
    reasoning: Reasoning | None = None
    top_logprobs: int | None = None
    """Alternatives to report for each token, 0 for none beside the token itself; None asks for no log probabilities."""
    end_user_id: str = ""
