"""The frames in which Bedrock carries Messages events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from keyswitch_engine.dialects.aws import read_exception
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.reading import decode, decode_base64
from keyswitch_engine.wire.aws_event_stream import AwsEventStreamDecoder
from keyswitch_engine.wire.sse import ServerSentEvent

__all__ = ["Frames", "InvokeFrames"]


class Frames(Protocol):
    """Cuts bytes into events."""

    def feed(self, chunk: bytes, /) -> list[ServerSentEvent] | Iterator[ServerSentEvent]:
        """Return the events that *chunk* completes."""

    def rest(self) -> ServerSentEvent | None:
        """Return the event that was still open when the body ended."""


class _Chunk(msgspec.Struct):
    bytes: str = ""


_CHUNK = msgspec.json.Decoder(_Chunk)


class InvokeFrames:
    """AWS messages of type `chunk`, each of which holds one event in base64."""

    def __init__(self, profile: Profile) -> None:
        """Start before the first byte."""
        self._profile = profile
        self._messages = AwsEventStreamDecoder()

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that *chunk* completes; raises the exception that one of the messages may be."""
        for message in self._messages.feed(chunk):
            if message.kind != "event" or message.type.endswith("Exception"):
                raise read_exception(message, self._profile.error_rules)
            if message.type == "chunk":
                yield ServerSentEvent("", decode_base64(decode(_CHUNK, message.payload).bytes))

    def rest(self) -> None:
        """Return nothing: a message that is not complete cannot be read."""
