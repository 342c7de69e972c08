"""Which keys a provider has asked to wait, so that calls with them do not ask again before the time.

A rate limit belongs to one key at one model: whoever calls with another key, or on behalf of another caller, is not
held up by it. Keys are known here by their fingerprints only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MAX_COOL_DOWNS", "CoolDowns", "RateLimited"]

MAX_COOL_DOWNS: Final = 10_000
"""How many are kept; beyond that the oldest are forgotten, which costs a call that is refused once more."""


class RateLimited(NamedTuple):
    """What a rate limit is about."""

    scope: str
    """On whose behalf the call is made; calls of different scopes know nothing of each other's limits."""
    provider: str
    origin: str
    key_fingerprint: str
    model: str


class CoolDowns:
    """Until when calls wait. Times are on the loop's clock."""

    def __init__(self) -> None:
        """Start with none."""
        self._until: dict[RateLimited, float] = {}

    def __len__(self) -> int:
        """Return how many are kept, those included that have passed and were not asked for since."""
        return len(self._until)

    def start(self, limited: RateLimited, now: float, seconds: float) -> None:
        """Let calls wait for *seconds*, or for as long as they have to already if that is longer."""
        until = max(now + seconds, self._until.pop(limited, 0.0))
        if len(self._until) >= MAX_COOL_DOWNS:
            self._forget(now)
        self._until[limited] = until

    def remaining(self, limited: RateLimited, now: float) -> float:
        """Return for how many seconds calls still wait; 0 if they need not."""
        until = self._until.get(limited)
        if until is None:
            return 0.0
        if until <= now:
            del self._until[limited]
            return 0.0
        return until - now

    def _forget(self, now: float) -> None:
        """Forget what has passed, and where that makes no room, the oldest."""
        self._until = {limited: until for limited, until in self._until.items() if until > now}
        while len(self._until) >= MAX_COOL_DOWNS:
            del self._until[next(iter(self._until))]
