"""Recorded answers, served byte for byte.

A folder of recordings has an `index.json` whose entries name `id`, `meta_file` and `body_file`; the meta file has the
answer's `status`, `headers` and, where known, the `chunk_sizes` of the transport under `response`.
"""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator

import msgspec

__all__ = ["Recording", "Recordings"]

_DROPPED = frozenset(
    {
        "content-encoding",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "set-cookie",
        "server",
        "date",
    }
)


class _Entry(msgspec.Struct):
    id: str
    meta_file: str
    body_file: str


class _Response(msgspec.Struct):
    status: int
    headers: dict[str, str | list[str]] | None = None
    chunk_sizes: list[int] | None = None


class _Meta(msgspec.Struct):
    response: _Response


class Recording(msgspec.Struct, frozen=True):
    """One recorded answer."""

    status: int
    headers: dict[str, str]
    """Without those that described the transport: stored bodies are decoded already."""
    body: bytes
    chunk_sizes: tuple[int, ...]


class Recordings:
    """A folder of recordings; files are read when they are asked for."""

    def __init__(self, folder: pathlib.Path, chunk_bytes: str = "") -> None:
        """Index *folder*; *chunk_bytes* is a number or `random:SEED` and replaces the recorded chunking.

        Raises:
            ValueError: there is no readable index, or *chunk_bytes* is neither.
        """
        self._folder = folder
        try:
            index = msgspec.json.decode((folder / "index.json").read_bytes(), type=list[_Entry])
        except (OSError, msgspec.DecodeError) as error:
            raise ValueError(f"{folder}: no readable index.json: {error}") from error
        self._entries = {entry.id: entry for entry in index}
        kind, _, self._seed = chunk_bytes.partition(":")
        if (
            chunk_bytes
            and not (kind == "random" and self._seed)
            and not (kind.isdigit() and int(kind) and not self._seed)
        ):
            raise ValueError("chunk bytes must be a positive number or random:SEED")
        self._size = int(kind) if kind.isdigit() else 0

    def get(self, recording_id: str) -> Recording | None:
        """Read one recording; None if there is none of that id."""
        entry = self._entries.get(recording_id)
        if entry is None:
            return None
        response = msgspec.json.decode((self._folder / entry.meta_file).read_bytes(), type=_Meta).response
        headers = {
            name: value if isinstance(value, str) else ", ".join(value)
            for name, value in (response.headers or {}).items()
            if name.lower() not in _DROPPED
        }
        body = (self._folder / entry.body_file).read_bytes()
        return Recording(response.status, headers, body, tuple(response.chunk_sizes or ()))

    def chunks(self, recording: Recording) -> Iterator[bytes]:
        """Cut a body as asked for, else as recorded, else not at all."""
        source = random.Random(self._seed)  # noqa: S311 - repeatable cuts, not secrets
        sizes = iter(recording.chunk_sizes)
        position = 0
        while position < len(recording.body):
            if self._size:
                size = self._size
            elif self._seed:
                size = source.choice((1, 2, 3, 7, 30, 200, 1500))
            else:
                size = next(sizes, len(recording.body))
            yield recording.body[position : position + size]
            position += size
