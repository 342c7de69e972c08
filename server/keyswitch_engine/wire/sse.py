"""Server-sent events, decoded from bytes however they are cut.

The rules are those of the WHATWG HTML standard, section "Server-sent events", with two deliberate differences:

* Comments and the `id` and `retry` fields are dropped: no provider gives them a meaning.
* A field named `error` becomes an event of type `error`. The standard ignores unknown fields, but llama-box (GPUStack)
  reports failures that way, and losing one would turn a failure into a success.
"""

from __future__ import annotations

import msgspec

from keyswitch_engine.errors import ProtocolError

__all__ = ["MAX_EVENT_BYTES", "SSEDecoder", "ServerSentEvent"]

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event that is accepted, in bytes; inline images make events of several MiB."""

_LF, _CR, _COLON = b"\n\r:"
_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event: its type, empty for the default one, and its data lines joined with line feeds."""

    type: str
    data: bytes


class SSEDecoder:
    """Cuts bytes into events.

    An event is returned by the very `feed` that completes it: a carriage return ends a line at once, and a line feed
    that follows it, even in the next chunk, belongs to it. An event that is never completed is never returned.
    """

    __slots__ = (
        "_begun", "_data", "_idle", "_named", "_partial", "_partial_bytes", "_seen_bytes", "_skip_line_feed", "_type",
    )  # fmt: skip

    def __init__(self) -> None:
        """Start before the first byte."""
        self._begun = False
        self._idle = False  # whether a chunk that comes now begins an event
        self._partial: list[bytes] = []  # pieces of the line that is not complete yet
        self._partial_bytes = 0
        self._seen_bytes = 0  # of the event that is not complete yet, without its partial line
        self._skip_line_feed = False
        self._type = ""
        self._data: list[bytes] = []
        self._named = (b"", "")  # the line that names a type, and the type: most events have that of the one before

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that *chunk* completes.

        Raises:
            ProtocolError: an event exceeds `MAX_EVENT_BYTES`.
        """
        if self._idle and (event := self._single(chunk)) is not None:
            return [event]
        events = self._feed(chunk)
        self._idle = self._begun and not (self._partial or self._data or self._type or self._skip_line_feed)
        return events

    def _single(self, chunk: bytes) -> ServerSentEvent | None:
        """Read a chunk that is exactly one event in the plainest form, which is how most of them arrive."""
        if b"\r" in chunk:
            return None
        if chunk.startswith(b"data: "):
            end = len(chunk) - 2
            return ServerSentEvent("", chunk[6:end]) if chunk.find(b"\n") == end and chunk[-1] == _LF else None
        lines = chunk.split(b"\n")
        if len(lines) != 4 or lines[2] or lines[3] or not lines[1].startswith(b"data: "):  # noqa: PLR2004 - two are empty
            return None
        name, kind = self._named
        if lines[0] != name:
            name = lines[0]
            if not name.startswith(b"event: "):
                return None
            kind = name[7:].decode("utf-8", "replace")
            self._named = name, kind
        return ServerSentEvent(kind, lines[1][6:])

    def _feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that any chunk completes."""
        if self._skip_line_feed and chunk:
            self._skip_line_feed = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not end:
            self._keep(chunk)
            return []
        self._skip_line_feed = end == len(chunk) and chunk[-1] == _CR
        lines = chunk[:end]
        if self._partial:
            lines = b"".join((*self._partial, lines))
            self._partial.clear()
            self._partial_bytes = 0
        if not self._begun:
            self._begun = True
            lines = lines.removeprefix(_BOM)
        events = self._read(lines)
        if end < len(chunk):
            self._keep(chunk[end:])
        return events

    def rest(self) -> ServerSentEvent | None:
        """Return the event that was still open when the body ended, for a dialect that can judge if it is whole."""
        completed = self.feed(b"\n")  # of its line, or of the event itself
        if completed:
            return completed[-1]
        return ServerSentEvent(self._type, b"\n".join(self._data)) if self._data else None

    def _keep(self, piece: bytes) -> None:
        """Hold back the beginning of a line, within bounds."""
        if piece:
            self._partial.append(piece)
            self._partial_bytes += len(piece)
            self._bound(self._partial_bytes)

    def _bound(self, extra: int) -> None:
        """Refuse an event that has grown too large."""
        if self._seen_bytes + extra > MAX_EVENT_BYTES:
            raise ProtocolError(f"the provider sent an event of more than {MAX_EVENT_BYTES >> 20} MiB")

    def _read(self, lines: bytes) -> list[ServerSentEvent]:
        """Read complete lines. `bytes.splitlines` splits on exactly the three line ends of the standard."""
        events: list[ServerSentEvent] = []
        for line in lines.splitlines():
            if not line:
                if self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    events.append(ServerSentEvent(self._type, data))
                    self._data = []
                self._type = ""
                self._seen_bytes = 0
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._seen_bytes += len(line)
                self._bound(0)
            elif line[0] != _COLON:
                self._read_field(line)
        return events

    def _read_field(self, line: bytes) -> None:
        """Read one of the rarer fields."""
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"error":
            self._type = "error"
            self._data.append(value)
        elif name == b"data":  # a line that is only the name has no value
            self._data.append(b"")
        self._seen_bytes += len(line)
        self._bound(0)
