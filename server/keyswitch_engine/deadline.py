"""The time limits of one call, watched by one timer."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

import msgspec

from keyswitch_engine.errors import LimitExceeded, Reason

__all__ = ["DEADLINE_MARGIN", "WRITE_GRACE", "TimeLimits", "Watch"]

DEADLINE_MARGIN = 0.05
"""Seconds by which a call ends before the RPC's own deadline, so that the details of the failure still arrive."""
WRITE_GRACE = 10.0
"""Seconds for which a write to the caller may outlast the total limit: no status can follow a message cut off."""
_RESOLUTION = 0.05
"""Seconds between two looks at least while what is waited for may change, however short a limit is asked for."""


class TimeLimits(msgspec.Struct, frozen=True):
    """Limits in seconds."""

    connect: float
    """Until a connection is usable."""
    first_token: float
    """From the start of an attempt to the first event."""
    idle: float
    """Between two reads of the answer."""
    total: float
    """For everything."""
    write: float = math.inf
    """For one write to the caller, who may read as slowly as that and not more so."""


_WORDS = {
    Reason.FIRST_TOKEN_TIMEOUT: "the provider did not begin to answer within the first-token limit",
    Reason.IDLE_TIMEOUT: "the provider went silent in the middle of its answer",
    Reason.TOTAL_TIMEOUT: "the call took longer than its total limit or the deadline allow",
    Reason.CALLER_TIMEOUT: "the caller did not read its answer",
}


class Watch:
    """Ends the current task's work when a limit passes, by raising `LimitExceeded` from its `with` block.

    Progress is noted by storing a time. The one timer looks at it when it fires and waits again for what is left, so a
    token costs an attribute and not a timer; `asyncio.timeout` would have to be rescheduled for each.
    """

    __slots__ = (
        "_answering",
        "_cancelling",
        "_due",
        "_last",
        "_limits",
        "_loop",
        "_passed",
        "_started",
        "_task",
        "_timer",
        "_writing",
        "_writing_since",
    )

    def __init__(self, limits: TimeLimits, started: float, deadline: float) -> None:
        """Watch from *started*; *deadline* is when the total limit passes. Times are on the loop's clock."""
        self._limits = limits
        self._started = self._last = started
        self._due = deadline
        self._answering = False
        self._writing = False
        self._writing_since = 0.0
        self._passed: Reason | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("a watch needs a task")
        self._cancelling = self._task.cancelling()
        self._check()
        return self

    def heard(self) -> None:
        """Note that the provider sent something, be it only to keep the connection alive."""
        self._last = self._loop.time()

    def answering(self) -> None:
        """Note that the answer has begun; from here on the idle limit counts, and not the one for the first token."""
        self._answering = True

    def writing(self, *, active: bool) -> None:
        """Note that the caller is being written to, during which the provider is not expected to make progress."""
        self._writing = active
        if active:
            self._writing_since = self._loop.time()
        else:
            self._last = self._loop.time()
            if self._last >= self._due:
                self._check()

    @property
    def passed(self) -> bool:
        """Whether a limit has passed; the work ends where it next waits."""
        return self._passed is not None

    def stop(self) -> None:
        """Stop watching: the answer is complete, and no limit can undo that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> tuple[float, Reason]:
        """Return the limit that passes first if nothing more happens."""
        if self._writing:
            latest, when = self._due + WRITE_GRACE, self._writing_since + self._limits.write
            return (when, Reason.CALLER_TIMEOUT) if when < latest else (latest, Reason.TOTAL_TIMEOUT)
        if self._answering:
            when, reason = self._last + self._limits.idle, Reason.IDLE_TIMEOUT
        else:
            when, reason = self._started + self._limits.first_token, Reason.FIRST_TOKEN_TIMEOUT
        return (when, reason) if when < self._due else (self._due, Reason.TOTAL_TIMEOUT)

    def _check(self) -> None:
        """Cancel the task if a limit has passed; else wait for what is left."""
        self.stop()
        when, reason = self._next()
        now = self._loop.time()
        if now >= when and self._task is not None:
            self._passed = reason
            self._task.cancel()
        else:
            soon = now + max(min(self._limits.idle, self._limits.write), _RESOLUTION)
            self._timer = self._loop.call_at(min(when, soon), self._check)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching; turn our own cancellation into the limit that caused it, and leave others' alone."""
        self.stop()
        if self._passed is None or self._task is None:
            return
        others = self._task.uncancel() > self._cancelling
        if kind is asyncio.CancelledError and not others:
            raise LimitExceeded(self._passed, _WORDS[self._passed]) from None
