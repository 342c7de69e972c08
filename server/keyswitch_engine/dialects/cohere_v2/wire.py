"""The wire types of Cohere's chat: what an event or a whole answer holds, as far as it is read."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ANSWER", "EVENT", "Answer", "Cited", "Content", "Event", "ToolCall", "Usage"]


class Content(msgspec.Struct):
    """A content block, or a piece of one."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call, or a piece of one."""

    id: str | None = None
    function: _Function | None = None


class _Source(msgspec.Struct):
    id: str | None = None
    document: dict[str, Any] | None = None


class Cited(msgspec.Struct):
    """A citation."""

    start: int | None = None
    end: int | None = None
    text: str | None = None
    sources: list[_Source] | None = None


class _Message(msgspec.Struct):
    """A message: lists when whole, single values in events, except for the empty lists of `message-start`."""

    content: Content | list[Content] | None = None
    tool_plan: str | None = None
    tool_calls: ToolCall | list[ToolCall] | None = None
    citations: Cited | list[Cited] | None = None


class _Delta(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: str | None = None
    error_type: str | None = None


class _TokenLogprobs(msgspec.Struct):
    text: str | None = None
    logprobs: list[float] | None = None


class Event(msgspec.Struct):
    """One event of a stream."""

    type: str = ""
    id: str | None = None
    index: int = 0
    delta: _Delta | None = None
    message: msgspec.Raw = msgspec.Raw()  # of an error that has no type
    error: msgspec.Raw = msgspec.Raw()  # likewise
    logprobs: _TokenLogprobs | None = None


class Answer(msgspec.Struct):
    """A whole answer."""

    id: str | None = None
    message: _Message | str | None = None  # text where it is an error
    finish_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    logprobs: list[_TokenLogprobs] | None = None


class _Tokens(msgspec.Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None
    reasoning_tokens: float | None = None


class Usage(msgspec.Struct):
    """Token counts."""

    tokens: _Tokens | None = None
    billed_units: _Tokens | None = None
    cached_tokens: float | None = None


EVENT = msgspec.json.Decoder(Event)
"""Decodes an event."""
ANSWER = msgspec.json.Decoder(Answer)
"""Decodes a whole answer."""
