"""Newline-delimited JSON: one value a line, cut out of bytes however those are cut."""

from __future__ import annotations

from keyswitch_engine.errors import ProtocolError

__all__ = ["MAX_LINE_BYTES", "NDJSONDecoder"]

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line that is accepted, in bytes."""


class NDJSONDecoder:
    """Cuts bytes into lines; empty ones are skipped. A line that is never ended is only in `rest`."""

    __slots__ = ("_bytes", "_partial")

    def __init__(self) -> None:
        """Start before the first byte."""
        self._partial: list[bytes] = []
        self._bytes = 0

    @property
    def rest(self) -> bytes:
        """What came after the last line end."""
        return b"".join(self._partial)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that *chunk* completes, without their ends.

        Raises:
            ProtocolError: a line exceeds `MAX_LINE_BYTES`.
        """
        head, found, tail = chunk.rpartition(b"\n")
        lines: list[bytes] = []
        if found:
            complete = b"".join((*self._partial, head)) if self._partial else head
            self._partial, self._bytes = [], 0
            lines = [line for line in complete.split(b"\n") if line.strip()]
        if tail:
            self._partial.append(tail)
            self._bytes += len(tail)
            if self._bytes > MAX_LINE_BYTES:
                raise ProtocolError(f"the provider sent a line of more than {MAX_LINE_BYTES >> 20} MiB")
        return lines
