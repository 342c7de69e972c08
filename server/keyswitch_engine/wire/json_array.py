"""The objects of a JSON array (RFC 8259), cut out of bytes as they complete, however those are cut."""

from __future__ import annotations

import re

from keyswitch_engine.errors import ProtocolError

__all__ = ["MAX_OBJECT_BYTES", "JsonArrayDecoder"]

MAX_OBJECT_BYTES = 16 * 1024 * 1024
"""Largest object that is accepted, in bytes."""

_STRUCTURE = re.compile(rb'[{}\[\]"]')
_IN_STRING = re.compile(rb'[\\"]')


class JsonArrayDecoder:
    """Cuts bytes into the objects of one array. An object that is never completed is never returned."""

    __slots__ = ("_buffer", "_depth", "_in_string", "_position", "_start")

    def __init__(self) -> None:
        """Start before the first byte."""
        self._buffer = bytearray()
        self._position = 0  # up to where the buffer was looked at
        self._start = -1  # of the object that is open
        self._depth = 0
        self._in_string = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the objects that *chunk* completes.

        Raises:
            ProtocolError: an object exceeds `MAX_OBJECT_BYTES`, or brackets do not match.
        """
        self._buffer += chunk
        objects: list[bytes] = []
        while (
            found := (_IN_STRING if self._in_string else _STRUCTURE).search(self._buffer, self._position)
        ) is not None:
            position, mark = found.start(), found.group()
            if mark == b"\\":
                if position + 1 == len(self._buffer):  # what it escapes has not come yet
                    self._position = position
                    break
                self._position = position + 2
                continue
            self._position = position + 1
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"{[":
                if self._depth == 1:
                    self._start = position
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 1:
                    objects.append(bytes(self._buffer[self._start : position + 1]))
                    self._start = -1
                elif self._depth < 0:
                    raise ProtocolError("the provider sent brackets that do not match")
        else:
            self._position = len(self._buffer)
        self._forget()
        return objects

    def _forget(self) -> None:
        """Drop what is not needed any more, and bound the rest."""
        keep = self._start if self._start >= 0 else self._position
        del self._buffer[:keep]
        self._position -= keep
        self._start = 0 if self._start >= 0 else -1
        if len(self._buffer) > MAX_OBJECT_BYTES:
            raise ProtocolError(f"the provider sent an object of more than {MAX_OBJECT_BYTES >> 20} MiB")
