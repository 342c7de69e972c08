"""What one caller may have: calls at once, and calls a minute.

The rate is throttled-py's GCRA, in memory: one number a caller, exact waiting times, and a bound on how many callers
are remembered, so that an issuer's endless names cost no memory. The moving window of `limits` in memory was measured
too: it starts a task and thread hops for every caller on every call, 90 µs with one caller, a millisecond with a
hundred.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping

from keyswitch_engine.errors import DispatchError, Reason
from throttled.asyncio import MemoryStore, Throttled, per_min

from keyswitch_server.caller_tables import CallerLimit

__all__ = ["CallerLimits", "Place"]

_REMEMBERED = 10_000
_RETRY_SECONDS = 1.0
_UNLIMITED = CallerLimit()


class Place:
    """A call's place among those of its caller, from when it is made until it is left as a context."""

    __slots__ = ("_caller", "_calls")

    def __init__(self, calls: Counter[str], caller: str) -> None:
        """Count one more among the *calls* in flight, by caller."""
        self._calls = calls
        self._caller = caller
        calls[caller] += 1

    def __enter__(self) -> None:
        """Go on holding it."""

    def __exit__(self, *_: object) -> None:
        """Leave it; whoever has no other is forgotten."""
        self._calls[self._caller] -= 1
        if not self._calls[self._caller]:
            del self._calls[self._caller]


class CallerLimits:
    """Holds every caller to its own limits, and to nobody else's."""

    def __init__(self, limits: Mapping[str, CallerLimit]) -> None:
        """Hold callers to *limits* by their names, and to that of `*` who have none; by default nobody is limited."""
        self._limits = limits
        self._calls: Counter[str] = Counter()
        self._store = MemoryStore(options={"MAX_SIZE": _REMEMBERED})
        self._rates: dict[int, Throttled] = {}

    async def hold(self, caller: str) -> Place:
        """Count a call of a caller, and return its place, which the call leaves when it ends.

        Raises:
            DispatchError: it is one too many; `CALLER_LIMITED`, with the seconds to wait.
        """
        limit = self._limits.get(caller) or self._limits.get("*", _UNLIMITED)
        most = limit.concurrent_calls
        if most is not None and self._calls[caller] >= most:
            raise _limited(f"{most} calls of this caller are in flight", _RETRY_SECONDS)
        place = Place(self._calls, caller)
        if limit.calls_per_minute is not None:
            with contextlib.ExitStack() as refused:
                refused.push(place)
                await self._count(caller, limit.calls_per_minute)
                refused.pop_all()
        return place

    async def _count(self, caller: str, per_minute: int) -> None:
        """Count a call towards the minute's; refused ones do not count."""
        rate = self._rates.get(per_minute)
        if rate is None:
            quota = per_min(per_minute, burst=per_minute)
            rate = self._rates[per_minute] = Throttled(using="gcra", quota=quota, store=self._store)
        result = await rate.limit(caller)
        if result.limited:
            raise _limited(f"this caller may make {per_minute} calls a minute", result.state.retry_after)


def _limited(message: str, retry_after: float) -> DispatchError:
    """Return the refusal of a call that may be made later."""
    error = DispatchError(Reason.CALLER_LIMITED, f"{message}; try again later")
    error.retry_after = max(retry_after, 0.001)
    return error
