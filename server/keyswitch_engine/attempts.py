"""The tries of one call: again at the same target, at a fallback, or two at a time; all within the call's time.

A failure that may pass is tried again at the same target, after the wait that the provider asks for or else after a
random one that doubles. One that another target may not have leads on to the caller's fallbacks, in their order. Once
a part of an answer has come nothing is tried any more: it will be billed, and the caller has seen it.

::

    target ── try ── wait ── try ──▶ fallback ── try ── …     each with its own provider's key
               └─ hedge: no event by then? a second try; the first one with an event cancels the other

A rate limit lets every call with that key at that model wait (`cool_down.py`), so that a key that is used up costs its
provider one answer and not one a call, and nobody with another key any time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from keyswitch_engine.attempt import AttemptLog, Call
from keyswitch_engine.cool_down import CoolDowns, RateLimited
from keyswitch_engine.errors import DispatchError, ProviderError, Reason
from keyswitch_engine.fingerprint import Fingerprints
from keyswitch_engine.plan import Plan

__all__ = ["FALL_BACK", "PATIENCE", "Runner"]

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

PATIENCE: Final = 3.0
"""Seconds for which a call waits at a target at most while a fallback is left, which would answer sooner."""

_BASE, _CAP = 0.5, 8.0
"""Seconds of the longest first wait where the provider names none, and of the longest one at all."""
_SPREAD, _MAX_SPREAD = 0.1, 1.0
"""Part of a wait that the provider asked for by which it may be longer, and in seconds: waiters return one by one."""


class Runner:
    """Makes the tries of calls, and remembers between calls which keys have to wait."""

    def __init__(self, fingerprints: Fingerprints, draw: Callable[[], float] = random.random) -> None:
        """Tell keys apart by *fingerprints*; *draw* returns a number from 0 to 1, by which waits are spread."""
        self._fingerprints = fingerprints
        self._draw = draw
        self._cool_downs = CoolDowns()

    async def run(self, plan: Plan[C], log: AttemptLog, attempt: Callable[[C], Awaitable[R]]) -> R:
        """Return what the first successful *attempt* at one of the plan's calls returns; each adds itself to *log*.

        Raises:
            DispatchError: the last target that could be tried failed; the error has every try of the call.
        """
        last = len(plan.calls) - 1
        for position, call in enumerate(plan.calls):
            target = _Target(self, plan, call, log, fallbacks_left=position < last)
            try:
                return await target.run(attempt)
            except DispatchError as error:
                error.attempts = log.lines()
                if position == last or error.answering or error.reason not in FALL_BACK:
                    raise
        raise ValueError("a plan has at least one call")

    def _rate_limited(self, call: Call[Any]) -> RateLimited:
        """Return what a rate limit of a call is about."""
        route = call.route
        return RateLimited(
            call.scope,
            route.provider.id,
            route.surface.origin_host,
            self._fingerprints.of(route.credential),
            route.model,
        )

    def cooling(self, call: Call[Any]) -> float:
        """Return for how many seconds calls like this one have to wait."""
        if not self._cool_downs:  # which spares a fingerprint
            return 0.0
        return self._cool_downs.remaining(self._rate_limited(call), asyncio.get_running_loop().time())

    def cool_down(self, call: Call[Any], seconds: float) -> None:
        """Let calls like this one wait."""
        self._cool_downs.start(self._rate_limited(call), asyncio.get_running_loop().time(), seconds)

    def spread(self, seconds: float) -> float:
        """Return a wait that is a little longer than the one asked for, never shorter."""
        return seconds + self._draw() * min(seconds * _SPREAD, _MAX_SPREAD)

    def backoff(self, tries: int) -> float:
        """Return a wait after so many tries where the provider asks for none: exponential, with full jitter."""
        return self._draw() * min(_BASE * 2.0 ** (tries - 1), _CAP)


class _Target:
    """The tries at one target of a plan."""

    def __init__(
        self, runner: Runner, plan: Plan[Any], call: Call[Any], log: AttemptLog, *, fallbacks_left: bool
    ) -> None:
        self._runner = runner
        self._plan = plan
        self._call = call
        self._log = log
        self._fallbacks_left = fallbacks_left
        self._loop = asyncio.get_running_loop()
        self._before = len(log)

    @property
    def _tries(self) -> int:
        """How many tries were made here; one that took several requests is never repeated."""
        return len(self._log) - self._before

    async def run(self, attempt: Callable[[Any], Awaitable[R]]) -> R:
        """Try until it succeeds, fails for good, or must not be tried again."""
        await self._wait(0.0, None)
        while True:
            spare = self._plan.max_attempts - self._tries
            try:
                if self._plan.hedge_after is None or spare < 2:  # noqa: PLR2004 - a hedge is a second one
                    return await self._once(attempt)
                return await self._hedged(attempt, self._plan.hedge_after)
            except DispatchError as error:
                if not error.retryable or self._tries >= self._plan.max_attempts:
                    raise
                await self._wait(self._delay(error), error)

    async def _once(self, attempt: Callable[[Any], Awaitable[R]]) -> R:
        """Try, and remember a rate limit for the calls that come after."""
        try:
            return await attempt(self._call)
        except DispatchError as error:
            if error.reason is Reason.PROVIDER_RATE_LIMITED:
                self._runner.cool_down(self._call, error.retry_after or self._runner.backoff(self._tries))
            raise

    def _delay(self, error: DispatchError) -> float:
        """Return how long to wait before the next try."""
        if error.retry_after:
            return self._runner.spread(error.retry_after)
        return self._runner.backoff(self._tries)

    async def _wait(self, delay: float, failure: DispatchError | None) -> None:
        """Wait for *delay*, and for as long as the key has to.

        Raises:
            DispatchError: there is no time for that, or a fallback is left that answers sooner. It is the *failure*, or
                the rate limit of others that the key waits for.
        """
        resume = self._loop.time() + delay
        while True:
            now = self._loop.time()
            cooling = self._runner.cooling(self._call)
            wait = max(resume - now, self._runner.spread(cooling))
            if wait <= 0:
                return
            if now + wait >= self._call.due or (self._fallbacks_left and wait > PATIENCE):
                raise failure or self._still_cooling(cooling)
            await asyncio.sleep(wait)
            failure = None  # whoever waited and has to wait on does so for a limit that others ran into

    def _still_cooling(self, seconds: float) -> DispatchError:
        """Return the error of a call that would have to wait for longer than it can; nothing was sent for it."""
        route = self._call.route
        error = ProviderError(
            Reason.PROVIDER_RATE_LIMITED,
            f"{route.provider.name} has asked calls with this key to wait",
        )
        error.provider, error.model, error.retry_after = route.provider.id, route.model, seconds
        return error

    async def _hedged(self, attempt: Callable[[Any], Awaitable[R]], hedge_after: float) -> R:
        """Try, and once more beside it if there is no event by then; the first event ends the other try."""
        since = len(self._log)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._outcome(attempt))]
                await asyncio.wait(tasks, timeout=hedge_after)
                begun = tasks[0].done() or self._log.has_event(since)
                if not begun and not self._runner.cooling(self._call):
                    tasks.append(group.create_task(self._outcome(attempt)))
                outcome = await _first_answer(tasks)
        except BaseExceptionGroup as bugs:  # failures of calls are values in here, so this is none
            raise bugs.exceptions[0] from None
        if isinstance(outcome, DispatchError):
            raise outcome
        return outcome[0]

    async def _outcome(self, attempt: Callable[[Any], Awaitable[R]]) -> tuple[R] | DispatchError:
        """Return a try's result or failure as a value, since a failing task would take its whole group with it."""
        try:
            return (await self._once(attempt),)
        except DispatchError as error:
            return error


async def _first_answer(tasks: Iterable[asyncio.Task[tuple[R] | DispatchError]]) -> tuple[R] | DispatchError:
    """Return the first result; if all fail, a failure for good before one that may pass."""
    failures: list[DispatchError] = []
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.cancelled():  # it lost
                continue
            outcome = task.result()
            if not isinstance(outcome, DispatchError):
                return outcome
            failures.append(outcome)
    return min(failures, key=lambda error: error.retryable)
