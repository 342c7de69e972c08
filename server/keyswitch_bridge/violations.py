"""Collecting everything that is wrong with a request, in one pass."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from keyswitch_engine.errors import InvalidRequest, Reason, Violation
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["Violations"]

_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of control characters, zero-width and bidirectional ones, and line ends, which have no place in
a name. Unlike in a model id spaces of every kind do, which systems put into the names of files, and so do private ones.
"""

_SECRET = re.compile(r"[\x21-\x7e]{1,4096}")
_MAX = 20
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Violations:
    """What is wrong so far, at most 20 things. Descriptions say what is allowed and never quote the input."""

    __slots__ = ("_found", "_reason")

    def __init__(self) -> None:
        """Start with nothing."""
        self._found: list[Violation] = []
        self._reason = Reason.INVALID_REQUEST

    def add(self, path: str, description: str) -> None:
        """Note that the field at *path* is wrong."""
        if len(self._found) < _MAX:
            self._found.append(Violation(path, description))

    def unknown(self, path: str, description: str) -> None:
        """Note a field or value that this build does not know."""
        self._reason = Reason.UNKNOWN_FIELD
        self.add(path, description)

    def check(self) -> None:
        """Raise `InvalidRequest` if anything was noted."""
        if self._found:
            raise InvalidRequest(self._found, self._reason)

    def enum(self, value: int, known: dict[int, Any], path: str, *, required: bool = False) -> Any:
        """Translate an enum value by *known*; the zero value is None, and a violation where it is *required*."""
        if value == 0:
            if required:
                self.add(path, "is required")
            return None
        if value not in known:
            self.unknown(path, f"value {value} is not known to this server")
            return None
        return known[value]

    def name(self, text: str, path: str, limit: int) -> str:
        """Check a name: bounded, without control characters."""
        if len(text) > limit:
            self.add(path, f"at most {limit} characters")
        elif not text.isprintable() and any(unicodedata.category(character) in _INVISIBLE for character in text):
            self.add(path, "no control, zero-width or bidirectional characters")
        return text

    def secret(self, text: str, path: str) -> str:
        """Check a key or token."""
        if not _SECRET.fullmatch(text):
            self.add(path, "1 to 4096 visible ASCII characters, without spaces and line ends")
        return text

    def header_text(self, text: str, path: str) -> str:
        """Check text that becomes part of a header."""
        if text and (len(text) > 256 or not _SECRET.fullmatch(text)):  # noqa: PLR2004 - as the message says
            self.add(path, "at most 256 visible ASCII characters, without spaces")
        return text

    def number(self, value: float, path: str, low: float, high: float) -> float:
        """Check that a number is finite and in range."""
        if not math.isfinite(value) or not low <= value <= high:
            self.add(path, f"{low:g} to {high:g}")
        return value

    def pattern(self, text: str, pattern: re.Pattern[str], path: str) -> str:
        """Check text by a pattern."""
        if not pattern.fullmatch(text):
            self.add(path, f"must match ^{pattern.pattern}$")
        return text

    def json_object(self, text: str, path: str) -> str:
        """Check that text is one JSON object; empty text is allowed."""
        if text:
            try:
                _OBJECT.decode(text)
            except MALFORMED_JSON:
                self.add(path, "must be a JSON object")
        return text

    def duration(self, value: Duration, path: str) -> float | None:
        """Translate a duration into seconds, None if it is zero."""
        seconds = value.seconds + value.nanos / 1e9
        if seconds < 0 or not -999_999_999 <= value.nanos <= 999_999_999:  # noqa: PLR2004 - as Duration defines it
            self.add(path, "must be a duration that is not negative")
            return None
        return seconds or None

    def one_of(self, text: str, allowed: Iterable[str], path: str) -> str:
        """Check a word by a list; empty text is allowed."""
        allowed = tuple(allowed)
        if text and text not in allowed:
            self.add(path, f"one of {', '.join(allowed)}")
        return text
