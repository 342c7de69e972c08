"""The tries of one call: again at the same target, at a fallback, or two at a time; all within the call's time.

A failure that may pass is tried again at the same target, after the wait that the provider asks for or else after a
random one that doubles. One that another target may not have leads on to the caller's fallbacks, in their order. Once
a part of an answer has come nothing is tried any more: it will be billed, and the caller has seen it.

::

    target ── try ── wait ── try ──▶ fallback ── try ── …     each with its own provider's key
               └─ hedge: no event by then? a second try; the first one with an event cancels the other

A rate limit lets every call with that key at that model wait (`cool_down.py`). When its time has passed one of them
goes, and the others wait for what becomes of it: a key that is used up costs its provider one answer at a time, however
many calls there are, and nobody with another key any time. Few calls wait, for a key or for any other reason, and none
of them for long; the others fail at once.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec

from keyswitch_engine.attempt import AttemptLog, Call
from keyswitch_engine.cool_down import MAX_WAITING, CoolDown, CoolDowns, RateLimited
from keyswitch_engine.errors import DispatchError, LimitExceeded, ProviderError, Reason
from keyswitch_engine.fingerprint import Fingerprints
from keyswitch_engine.plan import Plan

__all__ = ["FALL_BACK", "LONGEST_WAIT", "MAX_ATTEMPTS", "PATIENCE", "Runner"]

C = TypeVar("C", bound=Call[Any])
R = TypeVar("R")

FALL_BACK: Final = frozenset(
    {
        Reason.PROVIDER_RATE_LIMITED,
        Reason.PROVIDER_OVERLOADED,
        Reason.PROVIDER_UNAVAILABLE,
        Reason.FIRST_TOKEN_TIMEOUT,
        Reason.INSUFFICIENT_CREDIT,
        Reason.INVALID_CREDENTIAL,
        Reason.CREDENTIAL_NOT_PERMITTED,
        Reason.MODEL_NOT_FOUND,
        Reason.CONTEXT_OVERFLOW,
    }
)
"""Reasons that another target may not have. Anything else is the request's fault, ours, or that of time."""

MAX_ATTEMPTS: Final = 20
"""Tries of one call, those at all its targets together; a try of several requests is one."""

PATIENCE: Final = 3.0
"""Seconds for which a call waits at a target at most while a fallback is left, which would answer sooner."""

LONGEST_WAIT: Final = 30.0
"""Seconds for which a call waits before a try at most, since it holds one of the server's places meanwhile."""

_BASE, _CAP = 0.5, 8.0
"""Seconds of the longest first wait where the provider names none, and of the longest one at all."""
_SPREAD, _MAX_SPREAD = 0.1, 1.0
"""Part of a wait that the provider asked for by which it may be longer, and in seconds: waiters return one by one."""
_SOON = 1.0
"""Seconds after which a call may be sent again that was refused while a key was being probed."""


class Runner:
    """Makes the tries of calls, and remembers between calls which keys have to wait."""

    def __init__(
        self,
        fingerprints: Fingerprints,
        draw: Callable[[], float] = random.random,
        *,
        max_waiting: int = 1000,
    ) -> None:
        """Tell keys apart by *fingerprints*; *draw* returns a number from 0 to 1, by which waits are spread.

        At most *max_waiting* calls wait before a try, whatever for.
        """
        self._fingerprints = fingerprints
        self._draw = draw
        self._cool_downs = CoolDowns()
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, plan: Plan[C], log: AttemptLog, attempt: Callable[[C], Awaitable[R]]) -> R:
        """Return what the first successful *attempt* at one of the plan's calls returns; each adds itself to *log*.

        Raises:
            DispatchError: the last target that could be tried failed; the error has every try of the call.
        """
        left = len(plan.fallbacks)
        target = _Target(self, plan, plan.call, log, fallbacks_left=left)
        while True:
            try:
                return await target.run(attempt)
            except DispatchError as error:
                error.attempts = log.lines()
                if error.reason is Reason.BLOCKED_ENDPOINT:
                    error.origins = plan.origins
                if not left or target.exhausted or error.answering or error.reason not in FALL_BACK:
                    raise
            left -= 1
            target = _Target(self, plan, plan.fallbacks[-left - 1](), log, fallbacks_left=left)

    def _rate_limited(self, call: Call[Any]) -> RateLimited:
        """Return what a rate limit of a call is about."""
        route = call.route
        return RateLimited(
            call.scope,
            call.operation,
            route.provider.id,
            route.surface.origin_host,
            self._fingerprints.of(route.credential),
            route.model,
        )

    def cooling(self, call: Call[Any]) -> CoolDown | None:
        """Return the cool-down that calls like this one have to mind, if there is one."""
        if not self._cool_downs:  # which spares a fingerprint
            return None
        return self._cool_downs.find(self._rate_limited(call), asyncio.get_running_loop().time())

    def cool_down(self, call: Call[Any], seconds: float) -> None:
        """Let calls like this one wait."""
        self._cool_downs.start(self._rate_limited(call), asyncio.get_running_loop().time(), seconds)

    def has_room(self, cooling: CoolDown | None) -> bool:
        """Tell whether one more call may wait, for a key if that has to cool down."""
        return self._waiting < self._max_waiting and (cooling is None or cooling.waiting < MAX_WAITING)

    async def wait(self, cooling: CoolDown | None, seconds: float) -> None:
        """Wait for so long, or at most for so long for news of a key."""
        self._waiting += 1
        try:
            if cooling is None:
                await asyncio.sleep(seconds)
            else:
                await cooling.wait(seconds)
        finally:
            self._waiting -= 1

    def spread(self, seconds: float) -> float:
        """Return a wait that is a little longer than the one asked for, never shorter."""
        return seconds + self._draw() * min(seconds * _SPREAD, _MAX_SPREAD)

    def backoff(self, tries: int) -> float:
        """Return a wait after so many tries where the provider asks for none: exponential, with full jitter."""
        return self._draw() * min(_BASE * 2.0 ** (tries - 1), _CAP)


class _Target:
    """The tries at one target of a plan."""

    def __init__(
        self, runner: Runner, plan: Plan[Any], call: Call[Any], log: AttemptLog, *, fallbacks_left: int
    ) -> None:
        self._runner = runner
        self._plan = plan
        self._call = call
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._before = len(log)
        self._patience = PATIENCE if fallbacks_left else LONGEST_WAIT
        self._due = call.due
        if plan.shares_time and fallbacks_left:
            now = self._loop.time()
            self._due = now + (call.due - now) / (fallbacks_left + 1)

    @property
    def exhausted(self) -> bool:
        """Whether no other target can be tried either."""
        return len(self._log) >= MAX_ATTEMPTS or self._loop.time() >= self._call.due

    @property
    def _tries(self) -> int:
        """How many tries were made here; one that took several requests is never repeated."""
        return len(self._log) - self._before

    @property
    def _spare(self) -> int:
        """How many more tries may be made here."""
        return min(self._plan.max_attempts - self._tries, MAX_ATTEMPTS - len(self._log))

    async def run(self, attempt: Callable[[Any], Awaitable[R]]) -> R:
        """Try until it succeeds, fails for good, or must not be tried again."""
        probed = await self._turn(0.0, None)
        while True:
            try:
                return await self._try(attempt, probed)
            except DispatchError as error:
                if not error.retryable or self._spare < 1:
                    raise
                probed = await self._turn(self._delay(error), error)

    async def _try(self, attempt: Callable[[Any], Awaitable[R]], probed: CoolDown | None) -> R:
        """Try, hedged where the plan says so; if that probes a key, tell the calls that wait for it."""
        if probed is not None:
            self._log.on_accepted = lambda: probed.passed(self._loop.time())
        try:
            if self._plan.hedge_after is None or self._spare < 2:  # noqa: PLR2004 - a hedge is a second one
                return await self._once(attempt)
            return await self._hedged(attempt, self._plan.hedge_after)
        except DispatchError as error:
            refused_otherwise = error.upstream_status is not None and error.reason is not Reason.PROVIDER_RATE_LIMITED
            if probed is not None and refused_otherwise:
                probed.passed(self._loop.time())
            raise
        finally:
            if probed is not None:
                self._log.on_accepted = None
                probed.end_probe(self._loop.time())

    async def _once(self, attempt: Callable[[Any], Awaitable[R]]) -> R:
        """Try, and remember a rate limit for the calls that come after."""
        try:
            return await attempt(self._call if self._due == self._call.due else self._hurried())
        except DispatchError as error:
            if error.reason is Reason.PROVIDER_RATE_LIMITED:
                self._runner.cool_down(self._call, error.retry_after or self._runner.backoff(self._tries))
            raise

    def _hurried(self) -> Call[Any]:
        """Return the call with what is left of this target's share of the time to begin to answer.

        Raises:
            LimitExceeded: nothing is left.
        """
        left = self._due - self._loop.time()
        if left <= 0:
            error = LimitExceeded(Reason.FIRST_TOKEN_TIMEOUT, "this target's share of the time was over before a try")
            error.provider, error.model = self._call.route.provider.id, self._call.route.model
            raise error
        limits = msgspec.structs.replace(self._call.limits, first_token=min(left, self._call.limits.first_token))
        return msgspec.structs.replace(self._call, limits=limits)

    def _delay(self, error: DispatchError) -> float:
        """Return how long to wait before the next try."""
        if error.retry_after:
            return self._runner.spread(error.retry_after)
        return self._runner.backoff(self._tries)

    async def _turn(self, delay: float, failure: DispatchError | None) -> CoolDown | None:
        """Wait for *delay*, and for as long as the key has to; return the cool-down that the next try probes, if any.

        Raises:
            DispatchError: there is no time for that, a fallback is left that answers sooner, or too many wait already.
                It is the *failure*, or the rate limit of others that the key waits for.
        """
        now = self._loop.time()
        resume, give_up = now + delay, min(self._due, now + self._patience)
        while True:
            cooling = self._runner.cooling(self._call)
            ready = resume if cooling is None else max(resume, cooling.until)
            free = ready <= now and (cooling is None or not cooling.probed)
            if free and (now < give_up or (failure is None and cooling is None)):
                if cooling is not None:
                    cooling.probe(now)
                return cooling
            if max(ready, now) >= give_up or not self._runner.has_room(cooling):
                told = ready if cooling is None or cooling.probed else max(ready, cooling.asked_until)
                raise failure or self._still_cooling(max(told - now, _SOON))
            until = ready if cooling is None else min(max(resume, cooling.opens), give_up)
            await self._runner.wait(cooling, until - now)
            if cooling is not None:
                failure = None  # whoever waited and has to wait on does so for a limit that others ran into
            now = self._loop.time()

    def _still_cooling(self, seconds: float) -> DispatchError:
        """Return the error of a call that would have to wait for longer than it can; nothing was sent for it."""
        route = self._call.route
        error = ProviderError(
            Reason.PROVIDER_RATE_LIMITED,
            f"{route.provider.name}: this key has run into the rate limit of {route.model}; "
            f"try again in {math.ceil(seconds)} s, with another key, or with a fallback",
        )
        error.provider, error.model, error.retry_after = route.provider.id, route.model, seconds
        return error

    async def _hedged(self, attempt: Callable[[Any], Awaitable[R]], hedge_after: float) -> R:
        """Try, and once more beside it if there is no event by then; the first event ends the other try."""
        since = len(self._log)
        try:
            async with asyncio.TaskGroup() as group:
                tasks: list[asyncio.Task[tuple[R] | DispatchError | None]] = [
                    group.create_task(self._outcome(attempt, None))
                ]
                await asyncio.wait(tasks, timeout=hedge_after)
                begun = tasks[0].done() or self._log.has_event(since)
                if not begun and self._runner.cooling(self._call) is None:
                    tasks.append(group.create_task(self._outcome(attempt, since)))
                outcome = await _first_answer(tasks)
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as bugs:  # failures of calls are values in here, so this is none
            raise bugs.exceptions[0] from None
        if isinstance(outcome, DispatchError):
            raise outcome
        return outcome[0]

    async def _outcome(
        self, attempt: Callable[[Any], Awaitable[R]], rivals: int | None
    ) -> tuple[R] | DispatchError | None:
        """Return a try's result or failure as a value, since a failing task would take its whole group with it.

        If *rivals* is given and one of the tries after the first so many has an event by the time that this task runs,
        the try has lost already: it is not made, and there is none.
        """
        if rivals is not None and self._log.has_event(rivals):
            return None
        try:
            return (await self._once(attempt),)
        except DispatchError as error:
            return error


async def _first_answer(tasks: Iterable[asyncio.Task[tuple[R] | DispatchError | None]]) -> tuple[R] | DispatchError:
    """Return the first result; if all fail, a failure for good, or else the one that asks for the longest wait."""
    failures: list[DispatchError] = []
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            outcome = None if task.cancelled() else task.result()
            if outcome is None:  # it lost
                continue
            if not isinstance(outcome, DispatchError):
                return outcome
            failures.append(outcome)
    return min(failures, key=lambda error: (error.retryable, -(error.retry_after or 0.0)))
