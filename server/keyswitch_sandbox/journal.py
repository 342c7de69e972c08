"""What the sandbox was sent and what became of it, for tests to look at."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping

__all__ = ["Entry", "Journal", "Tally", "key_of"]

_KEYS = ("authorization", "cf-aig-authorization", "x-api-key", "x-goog-api-key", "api-key")

_KEEP = 10_000


def key_of(headers: Mapping[str, str]) -> str:
    """Return what authenticates a request, from whichever header the provider wants it in; empty if nothing does."""
    return next((headers[name] for name in _KEYS if headers.get(name)), "")


@dataclasses.dataclass(slots=True)
class Entry:
    """One request and its answer so far. The key is never kept, only whether there was one and its hash."""

    number: int
    path: str
    model: str
    stream: bool
    key_sha256: str
    headers: dict[str, str]
    at: float
    """When it came, in seconds on the monotonic clock."""
    status: int = 0
    bytes_sent: int = 0
    pieces_sent: int = 0
    state: str = "open"
    """`open`, then `completed`, or `closed_by_client` if the client went away first."""


class Tally:
    """How often each key asked for each model; of the last 10,000 pairs of them."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._counts: collections.OrderedDict[tuple[str, str], int] = collections.OrderedDict()

    def __len__(self) -> int:
        """Return how many pairs are remembered."""
        return len(self._counts)

    def count(self, model: str, key: str) -> int:
        """Count a request, and return how many that makes."""
        count = self._counts[model, key] = self._counts.pop((model, key), 0) + 1
        if len(self._counts) > _KEEP:
            self._counts.popitem(last=False)
        return count


class Journal:
    """The last 10,000 entries."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: collections.deque[Entry] = collections.deque(maxlen=_KEEP)
        self._changed = asyncio.Event()
        self._count = 0

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries, oldest first."""
        return iter(tuple(self._entries))

    def open(self, path: str, model: str, headers: Mapping[str, str], *, stream: bool) -> Entry:
        """Note a request."""
        key = key_of(headers)
        self._count += 1
        entry = Entry(
            number=self._count,
            path=path,
            model=model,
            stream=stream,
            key_sha256=hashlib.sha256(key.encode()).hexdigest() if key else "",
            headers={name.lower(): value for name, value in headers.items() if name.lower() not in _KEYS},
            at=time.monotonic(),
        )
        self._entries.append(entry)
        self._notify()
        return entry

    def close(self, entry: Entry, state: str) -> None:
        """Note how an answer ended."""
        entry.state = state
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, condition: Callable[[Journal], bool], seconds: float = 10.0) -> None:
        """Wait until *condition* holds; entries that are opened or closed make it be asked again.

        Raises:
            TimeoutError: it did not hold within *seconds*.
        """
        async with asyncio.timeout(seconds):
            while not condition(self):
                await self._changed.wait()
