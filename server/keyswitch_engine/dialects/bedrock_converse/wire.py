"""The wire types of Converse: what an event or a whole answer holds, as far as it is read."""

from __future__ import annotations

import msgspec

__all__ = [
    "ANSWER",
    "EVENT",
    "Answer",
    "Cited",
    "Content",
    "Delta",
    "Event",
    "Image",
    "Reasoning",
    "ToolUse",
    "Usage",
]


class ToolUse(msgspec.Struct, rename="camel"):
    """A tool call; one with a type is run by the provider."""

    tool_use_id: str | None = None
    name: str | None = None
    type: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class _ReasoningText(msgspec.Struct):
    text: str | None = None
    signature: str | None = None


class Reasoning(msgspec.Struct, rename="camel"):
    """Reasoning: whole in a text of its own, or in pieces."""

    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None
    text: str | None = None
    signature: str | None = None


class _Text(msgspec.Struct):
    text: str | None = None


class _Web(msgspec.Struct):
    url: str | None = None


class _Location(msgspec.Struct):
    web: _Web | None = None


class Cited(msgspec.Struct, rename="camel"):
    """A source."""

    title: str | None = None
    source: str | None = None
    source_content: list[_Text] | None = None
    location: _Location | None = None


class _CitedContent(msgspec.Struct):
    content: list[_Text] | None = None
    citations: list[Cited] | None = None


class _ImageSource(msgspec.Struct):
    bytes: str | None = None


class Image(msgspec.Struct):
    """An image, or the beginning or a piece of one."""

    format: str | None = None
    source: _ImageSource | None = None


class Content(msgspec.Struct, rename="camel"):
    """A block of content."""

    text: str | None = None
    tool_use: ToolUse | None = None
    tool_result: msgspec.Raw = msgspec.Raw()
    reasoning_content: Reasoning | None = None
    citations_content: _CitedContent | None = None
    image: Image | None = None


class _ToolInput(msgspec.Struct):
    input: str | None = None


class Delta(msgspec.Struct, rename="camel"):
    """What an event adds to a block."""

    text: str | None = None
    tool_use: _ToolInput | None = None
    tool_result: msgspec.Raw = msgspec.Raw()
    reasoning_content: Reasoning | None = None
    citation: Cited | None = None
    image: Image | None = None


class _Start(msgspec.Struct, rename="camel"):
    tool_use: ToolUse | None = None
    tool_result: msgspec.Raw = msgspec.Raw()
    image: Image | None = None


class Event(msgspec.Struct, rename="camel"):
    """The payload of an event, whatever its type."""

    content_block_index: int = 0
    start: _Start | None = None
    delta: Delta | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    content: list[Content] | None = None


class _Output(msgspec.Struct):
    message: _Message | None = None


class Answer(msgspec.Struct, rename="camel"):
    """A whole answer."""

    output: _Output | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class Usage(msgspec.Struct, rename="camel"):
    """Token counts; input excludes the cache."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    total_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    cache_write_input_tokens: float | None = None


EVENT = msgspec.json.Decoder(Event)
"""Decodes the payload of an event."""
ANSWER = msgspec.json.Decoder(Answer)
"""Decodes a whole answer."""
