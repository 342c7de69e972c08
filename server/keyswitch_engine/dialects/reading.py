"""What reading an answer has in common in every dialect."""

from __future__ import annotations

import base64
from typing import Any, Final, TypeVar

import msgspec

from keyswitch_engine.errors import ProtocolError
from keyswitch_engine.events import BlockEvent
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_USAGE_JSON",
    "Collecting",
    "WholeBody",
    "bound",
    "decode",
    "decode_base64",
    "encode",
    "first_count",
    "including",
    "is_json",
    "place_in_text",
    "read_count",
    "token_bytes",
    "usage_json",
]

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Largest whole answer that is accepted, in bytes."""

_MOST: Final = 1 << 53
"""Above it floats are no longer exact, and no answer has as many tokens."""

MAX_USAGE_JSON: Final = 2048
"""Largest usage object that is passed on, in bytes."""


def bound(size: int) -> None:
    """Refuse an answer that has grown too large.

    Raises:
        ProtocolError: *size* is above `MAX_ANSWER_BYTES`.
    """
    if size > MAX_ANSWER_BYTES:
        raise ProtocolError(f"the provider's answer exceeds {MAX_ANSWER_BYTES >> 20} MiB")


def decode(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """Decode a value of a dialect.

    Raises:
        ProtocolError: it is not one.
    """
    try:
        return decoder.decode(data)
    except MALFORMED_JSON as error:
        raise ProtocolError("the provider sent something that is not in its dialect") from error


def encode(value: object) -> bytes:
    """Encode a value that came decoded.

    Raises:
        ProtocolError: it is nested too deeply, if only by a little since decoding it was possible.
    """
    try:
        return msgspec.json.encode(value)
    except RecursionError as error:
        raise ProtocolError("the provider sent something that is nested too deeply") from error


def is_json(data: bytes) -> bool:
    """Tell whether data is a JSON value and nothing but that: the last event of a body that was not cut short."""
    try:
        msgspec.json.decode(data)
    except MALFORMED_JSON:
        return False
    return True


def decode_base64(text: str) -> bytes:
    """Decode bytes that came as text.

    Raises:
        ProtocolError: it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolError("the provider sent something that is not in base64") from error


def first_count(*counts: float | None) -> int | None:
    """Return the first count that was reported; some providers write whole numbers as floats.

    A number that cannot be a count of tokens is none.
    """
    for count in counts:
        if count is not None and 0 <= count <= _MOST:
            return int(count)
    return None


_COUNTS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_COUNT = msgspec.json.Decoder(int)


def place_in_text(index: int | None) -> int | None:
    """Return a place in a text, None if it cannot be one."""
    return index if index is not None and 0 <= index < MAX_ANSWER_BYTES else None


def read_count(body: bytes, *path: str) -> int:
    """Return the count at a path of field names in a small answer.

    Raises:
        ProtocolError: there is none.
    """
    value: bytes | msgspec.Raw = body
    for name in path:
        value = decode(_COUNTS, value).get(name, b"")
    count = decode(_COUNT, value)
    if not 0 <= count <= _MOST:
        raise ProtocolError("the provider sent a count that cannot be one")
    return count


def including(total: int | None, includes: str, part: int | None) -> int | None:
    """Return a total that includes its part; *includes* says whether it does already: `yes`, `no` or `unknown`.

    None if that cannot be known.
    """
    if total is None or not part or includes == "yes":
        return total
    return total + part if includes == "no" else None


def usage_json(raw: bytes) -> str:
    """Return a usage object as it was sent, nothing if it is unreasonably large."""
    return raw.decode("utf-8", "replace") if len(raw) <= MAX_USAGE_JSON else ""


def token_bytes(values: list[int] | None) -> bytes:
    """Return the bytes of a token that comes with its log probability.

    Raises:
        ProtocolError: they are none.
    """
    try:
        return bytes(values or ())
    except (ValueError, OverflowError) as error:
        raise ProtocolError("the provider sent a token whose bytes are none") from error


class Collecting:
    """What a decoder of whole answers begins with: it collects the body, and is followed by what reads it."""

    def __init__(self, *arguments: Any) -> None:
        """Start before the first byte; *arguments* are those of what reads the body."""
        super().__init__(*arguments)
        self._body = bytearray()

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Collect the next bytes; see `Decoder.feed`."""
        self._body += data
        bound(len(self._body))
        return []

    @property
    def body(self) -> bytes:
        """What was collected."""
        return bytes(self._body)


class WholeBody:
    """Collects an answer that is one JSON object, whatever its content type says it is.

    That is how providers answer a streaming request where they fail under a 200. Whitespace before the object keeps
    connections alive and means nothing.
    """

    __slots__ = ("_collecting", "_content", "possible")

    def __init__(self) -> None:
        """Start before the first byte."""
        self._content = bytearray()
        self._collecting = False
        self.possible = True
        """Whether the answer may still be one, or is; asked before `takes`, which then need not be called."""

    @property
    def content(self) -> bytes | None:
        """The object, as far as it came; None if the answer is none."""
        return bytes(self._content) if self._collecting else None

    def takes(self, data: bytes) -> bool:
        """Tell by the first visible byte whether *data* is part of an object, and keep it if so; drop space before it.

        Raises:
            ProtocolError: the object exceeds `MAX_ANSWER_BYTES`.
        """
        if not self._collecting:
            start = data.lstrip()
            if not start:
                return True
            self.possible = self._collecting = start.startswith(b"{")
        if self._collecting:
            self._content += data
            bound(len(self._content))
        return self._collecting
