"""AWS's binary event stream, decoded from bytes however they are cut.

The framing, with its two checksums a message, is botocore's; it comes with the extra `bedrock` and is loaded when the
first such answer is read. The format is that of smithy.io, "Amazon Event Stream specification".
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from keyswitch_engine.errors import ProtocolError, Reason, Unavailable

__all__ = ["AwsEventStreamDecoder", "AwsMessage"]


class AwsMessage(NamedTuple):
    """One message."""

    kind: str
    """`event`, or `exception` or `error` where the stream failed (header `:message-type`)."""
    type: str
    """Which event, exception or error it is."""
    payload: bytes


class AwsEventStreamDecoder:
    """Cuts bytes into messages. One that is never completed is never returned."""

    __slots__ = ("_buffer", "_errors")

    def __init__(self) -> None:
        """Start before the first byte.

        Raises:
            Unavailable: this installation lacks botocore.
        """
        try:
            from botocore.eventstream import EventStreamBuffer, ParserError  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise Unavailable(
                Reason.UNSUPPORTED_FEATURE, "this installation lacks the extra 'bedrock', which reads AWS's streams"
            ) from error
        self._buffer = EventStreamBuffer()
        # struct.error of headers that are cut, ValueError of text that is not UTF-8, KeyError of types
        self._errors = (ParserError, struct.error, ValueError, KeyError)

    def feed(self, chunk: bytes) -> list[AwsMessage]:
        """Return the messages that *chunk* completes.

        Raises:
            ProtocolError: a checksum is wrong, a message is none behind its checksums, or is larger than 24 MiB.
        """
        self._buffer.add_data(chunk)
        try:
            return [_message(message) for message in self._buffer]
        except self._errors as error:
            raise ProtocolError("the provider's event stream is damaged") from error


def _message(message: Any) -> AwsMessage:
    """Read the headers that say what a message is; the specification calls them `:message-type` and so on.

    Raises:
        ValueError: the headers reach beyond the message, which botocore does not check.
    """
    if message.prelude.payload_length < 0:
        raise ValueError
    headers: dict[str, object] = message.headers
    kind = str(headers.get(":message-type", "event"))
    name = {"exception": ":exception-type", "error": ":error-code"}.get(kind, ":event-type")
    told = headers.get(":error-message")
    return AwsMessage(kind, str(headers.get(name, "")), message.payload or (str(told).encode() if told else b""))
