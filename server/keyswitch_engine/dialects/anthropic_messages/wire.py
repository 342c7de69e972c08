"""The wire types of Messages: what an event or a whole message holds, as far as it is read."""

from __future__ import annotations

import msgspec

__all__ = ["BLOCK", "EVENT", "MESSAGE", "RESULT", "Block", "Cited", "Delta", "Event", "Message", "Usage"]


class Cited(msgspec.Struct):
    """A source: of a web search by its URL, of a document by its title and place."""

    type: str = ""
    url: str | None = None
    source: str | None = None
    title: str | None = None
    document_title: str | None = None
    cited_text: str | None = None
    start_char_index: int | None = None
    end_char_index: int | None = None


class Block(msgspec.Struct):
    """A content block, whole or as it begins."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    citations: list[msgspec.Raw] | None = None


class Delta(msgspec.Struct):
    """What an event adds to a block, or to the message."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: msgspec.Raw = msgspec.Raw()
    stop_reason: str | None = None


class Message(msgspec.Struct):
    """A message, whole or as a stream begins it."""

    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class Event(msgspec.Struct):
    """One event of a stream."""

    type: str = ""
    index: int = 0
    delta: Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw()
    message: Message | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _OutputDetails(msgspec.Struct):
    thinking_tokens: float | None = None


class Usage(msgspec.Struct):
    """Token counts; input excludes the cache."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_creation_input_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    output_tokens_details: _OutputDetails | None = None


EVENT = msgspec.json.Decoder(Event)
"""Decodes an event."""
MESSAGE = msgspec.json.Decoder(Message)
"""Decodes a whole message."""
BLOCK = msgspec.json.Decoder(Block)
"""Decodes a block."""
RESULT = msgspec.json.Decoder(dict[str, msgspec.Raw])
"""Decodes an object whose values stay as they are."""
