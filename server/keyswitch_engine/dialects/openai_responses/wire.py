"""The wire types of Responses: what an event, an item or a whole response holds, as far as it is read."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "ANNOTATION",
    "EVENT",
    "ITEM",
    "LOGPROBS",
    "RESPONSE",
    "Annotation",
    "Content",
    "Event",
    "Item",
    "Response",
    "TokenLogprob",
    "TopLogprob",
    "Usage",
]


class TopLogprob(msgspec.Struct):
    """A token and its log probability."""

    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token with its alternatives."""

    top_logprobs: list[TopLogprob] | None = None


class Annotation(msgspec.Struct):
    """What is attached to text: a source on the web, or a file."""

    type: str = ""
    url: str | None = None
    title: str | None = None
    filename: str | None = None
    start_index: int | None = None
    end_index: int | None = None


class Content(msgspec.Struct):
    """A part of a message, a summary or a reasoning text."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[msgspec.Raw] | None = None
    logprobs: msgspec.Raw = msgspec.Raw()


class Item(msgspec.Struct):
    """An item of the output."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    input: Any = None
    content: list[Content] | None = None
    summary: list[Content] | None = None
    encrypted_content: str | None = None
    phase: str | None = None
    result: Any = None
    output_format: str | None = None


class Event(msgspec.Struct):
    """One event of a stream."""

    type: str = ""
    delta: Any = None
    output_index: int | None = None
    content_index: int = 0
    summary_index: int | None = None
    item_id: str | None = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    item: msgspec.Raw = msgspec.Raw()
    annotation: msgspec.Raw = msgspec.Raw()
    logprobs: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class Response(msgspec.Struct):
    """A response, whole or as it stands."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    incomplete_details: _Incomplete | None = None
    error: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()


class _InputDetails(msgspec.Struct):
    cached_tokens: float | None = None
    cache_write_tokens: float | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: float | None = None


class Usage(msgspec.Struct):
    """Token counts."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    total_tokens: float | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


EVENT = msgspec.json.Decoder(Event)
"""Decodes an event."""
ITEM = msgspec.json.Decoder(Item)
"""Decodes an item."""
RESPONSE = msgspec.json.Decoder(Response)
"""Decodes a response."""
ANNOTATION = msgspec.json.Decoder(Annotation)
"""Decodes an annotation."""
LOGPROBS = msgspec.json.Decoder(list[TokenLogprob])
"""Decodes log probabilities."""
