"""Which keys have run into a rate limit, so that calls with them do not all ask again.

A rate limit belongs to one key for one operation at one model: whoever calls with another key, or on behalf of another
caller, is not held up by it. Keys are known here by their fingerprints only.

::

    refused ──▶ calls wait ── time passed ──▶ one call probes ── taken on, or refused otherwise ──▶ forgotten, all go
                    ▲                            │
                    └──── rate-limited again ────┘   (not answered at all: another one probes)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

__all__ = ["LONGEST_COOL_DOWN", "MAX_COOL_DOWNS", "MAX_WAITING", "CoolDown", "CoolDowns", "RateLimited"]

MAX_COOL_DOWNS: Final = 10_000
"""How many are kept; beyond that the oldest is forgotten, which costs a call that is refused once more."""

LONGEST_COOL_DOWN: Final = 600.0
"""Seconds for which a key is held up at most before a call probes it, whatever its provider asked for: limits a day or
a month are lifted early, where their owner pays or waits for support, and then nobody says so."""

MAX_WAITING: Final = 16
"""Calls that wait for one key at most; each of them holds one of the server's places."""

_PROBE: Final = 2.0
"""Seconds after which a probe that was not refused lets the others go: refusals are quick, and answers need not be."""

_PAUSE: Final = 0.5
"""Seconds between two probes at least: without them, a row of calls whose time ends would be sent one after another."""

_LINGER: Final = 10.0
"""Seconds for which a cool-down that has passed is kept where nobody waits, so that one call probes and not a burst."""


class RateLimited(NamedTuple):
    """What a rate limit is about."""

    scope: str
    """On whose behalf the call is made; calls of different scopes know nothing of each other's limits."""
    operation: str
    """What is asked for: counting tokens has a limit of its own, and so have embeddings."""
    provider: str
    origin: str
    key_fingerprint: str
    model: str


class CoolDown:
    """One key that ran into a rate limit. Times are on the loop's clock."""

    def __init__(self) -> None:
        """Let nobody wait yet."""
        self.until = 0.0
        """When a call may probe."""
        self.asked_until = 0.0
        """When the provider is done with what it asked for, which may be later."""
        self.waiting = 0
        """How many calls wait."""
        self._probed_since: float | None = None
        self._passed = False
        self._news: asyncio.Future[None] | None = None

    @property
    def probed(self) -> bool:
        """Whether a call is under way that the others wait for."""
        return self._probed_since is not None

    @property
    def opens(self) -> float:
        """When a call may go at the latest, if nothing more is heard."""
        return self.until if self._probed_since is None else max(self.until, self._probed_since + _PROBE)

    def over(self, now: float) -> bool:
        """Tell whether it can be forgotten."""
        if self._probed_since is not None:
            return self._passed or now >= self._probed_since + _PROBE
        return self._passed or (not self.waiting and now >= self.until + _LINGER)

    def probe(self, now: float) -> None:
        """Begin to probe; whoever does ends it by `end_probe`."""
        self._probed_since = now

    def passed(self, now: float) -> None:
        """Note that the limit is no more, and whoever waits can go."""
        self._passed = now >= self.until  # unless a call that was under way before was refused meanwhile
        self._tell()

    def end_probe(self, now: float) -> None:
        """Note that the probe is over; unless the limit has passed, another call probes after a pause at least."""
        self._probed_since = None
        self.until = max(self.until, now + _PAUSE)
        self._tell()

    async def wait(self, seconds: float) -> None:
        """Wait for news of a probe, at most for so long."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        self.waiting += 1
        try:
            await asyncio.wait((self._news,), timeout=seconds)
        finally:
            self.waiting -= 1

    def _tell(self) -> None:
        """Let everybody who waits look again."""
        if self._news is not None:
            self._news.set_result(None)
            self._news = None


class CoolDowns:
    """The cool-downs of all keys."""

    def __init__(self) -> None:
        """Start with none."""
        self._cool_downs: OrderedDict[RateLimited, CoolDown] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are kept, those included that have passed and were not asked for since."""
        return len(self._cool_downs)

    def start(self, limited: RateLimited, now: float, seconds: float) -> None:
        """Let calls wait for *seconds*, bounded, or for as long as they have to already if that is longer."""
        found = self.find(limited, now)
        if found is None:
            if len(self._cool_downs) >= MAX_COOL_DOWNS:
                self._cool_downs.popitem(last=False)
            found = self._cool_downs[limited] = CoolDown()
        self._cool_downs.move_to_end(limited)
        before = found.asked_until if now < found.until else 0.0  # else a call has probed since, and this is news
        found.asked_until = max(before, now + seconds)
        found.until = max(found.until, now + min(seconds, LONGEST_COOL_DOWN))

    def find(self, limited: RateLimited, now: float) -> CoolDown | None:
        """Return the cool-down that calls have to mind, if there is one; the oldest are forgotten if they are over."""
        found = self._cool_downs.get(limited)
        if found is not None and found.over(now):
            del self._cool_downs[limited]
            found = None
        while self._cool_downs and next(iter(self._cool_downs.values())).over(now):
            self._cool_downs.popitem(last=False)
        return found
