from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from keyswitch_engine.attempt import AttemptLog, Call, RunningAttempt
from keyswitch_engine.attempts import Runner
from keyswitch_engine.cool_down import CoolDown
from keyswitch_engine.dispatch import Dispatcher, GenerationCall
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import AttemptOutcome, Event
from keyswitch_engine.plan import Plan
from provoking import WHOLE, Provider, attempts, call, refused, says, whole
from support import http_provider


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with Egress(policy) as egress:
        yield Dispatcher(egress)


async def after(event: asyncio.Event, response: web.Response) -> web.StreamResponse:
    await event.wait()
    return response


async def test_a_hedge_goes_on_where_the_first_try_fails(dispatcher: Dispatcher) -> None:
    """Once both run, the failure of one is no failure of the call, and not a reason for a third."""
    second_came, first_failed = asyncio.Event(), asyncio.Event()

    async def first(request: web.Request) -> web.StreamResponse:
        return await after(second_came, refused(402))

    async def second(request: web.Request) -> web.StreamResponse:
        second_came.set()
        return await after(first_failed, web.json_response(WHOLE))

    async def attempt(asked: GenerationCall) -> list[Event]:
        try:
            return await dispatcher.generate(asked, log)
        except DispatchError:
            first_failed.set()
            raise

    provider = Provider(first, second)
    log = AttemptLog()
    async with http_provider(provider.answer) as url:
        plan = Plan(call=call(url), max_attempts=3, hedge_after=0.05)
        events = await Runner(dispatcher.fingerprints).run(plan, log, attempt)
    assert attempts(events) == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    assert len(provider.times) == 2


async def test_a_failure_for_good_beats_one_that_may_pass(dispatcher: Dispatcher) -> None:
    """If both of two tries fail, one of them out of credit, nothing is tried again, whichever failed last."""
    second_came = asyncio.Event()

    async def first(request: web.Request) -> web.StreamResponse:
        return await after(second_came, refused(402))

    async def second(request: web.Request) -> web.StreamResponse:
        second_came.set()
        return refused(500)

    provider = Provider(first, second)
    async with http_provider(provider.answer) as url:
        with pytest.raises(DispatchError) as raised:
            await whole(dispatcher, Runner(dispatcher.fingerprints), call(url), max_attempts=5, hedge_after=0.05)
    assert raised.value.reason is Reason.INSUFFICIENT_CREDIT
    assert [attempt.outcome for attempt in raised.value.attempts] == [AttemptOutcome.FAILED] * 2
    assert len(provider.times) == 2


async def test_a_key_that_has_to_wait_is_not_hedged_with(dispatcher: Dispatcher) -> None:
    """While a try is under way another call runs into the key's rate limit: no second try is sent with it."""
    came = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        came.set()
        await asyncio.sleep(0.6)  # longer than the hedge waits
        return web.json_response(WHOLE)

    provider = Provider(slow, says(lambda: refused(429, **{"Retry-After": "60"})))
    runner = Runner(dispatcher.fingerprints)
    async with http_provider(provider.answer) as url:
        hedged = asyncio.ensure_future(whole(dispatcher, runner, call(url), hedge_after=0.3))
        await came.wait()
        with pytest.raises(DispatchError):
            await whole(dispatcher, runner, call(url))
        assert attempts(await hedged) == [AttemptOutcome.SUCCEEDED]
    assert len(provider.times) == 2


async def test_a_bug_in_a_hedged_try_is_told_as_itself(dispatcher: Dispatcher) -> None:
    """What is no failure of a call passes through unwrapped, and ends the other try."""
    ended: list[str] = []

    async def attempt(asked: GenerationCall) -> None:
        if not begun.is_set():
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("first")
        raise LookupError("a bug")

    begun = asyncio.Event()
    plan = Plan(call=call("http://127.0.0.1:9"), max_attempts=2, hedge_after=0.01)
    with pytest.raises(LookupError):
        await Runner(dispatcher.fingerprints).run(plan, AttemptLog(), attempt)
    assert ended == ["first"]


async def test_a_first_event_just_before_the_rival_runs_ends_it(dispatcher: Dispatcher) -> None:
    """The rival's task is there, but has not run yet when the first try has its event: it is not begun."""
    event = asyncio.Event()
    tries: list[int] = []

    class Late(Runner):
        """Lets the first try have its event at the last moment before its rival's task begins."""

        def cooling(self, call: Call[Any]) -> CoolDown | None:
            if tries:
                event.set()
            return super().cooling(call)

    async def attempt(asked: GenerationCall) -> list[Event]:
        tries.append(len(tries))
        running = RunningAttempt(asked, None, "", log)
        if len(tries) == 1:
            await event.wait()
        running.saw_event()
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # an answer takes several steps, in which a rival could do harm
        running.succeeded()
        return []

    log = AttemptLog()
    plan = Plan(call=call("http://127.0.0.1:9"), max_attempts=2, hedge_after=0.01)
    async with asyncio.timeout(5):
        assert await Late(dispatcher.fingerprints).run(plan, log, attempt) == []
    assert tries == [0]
    assert [line.outcome for line in log.lines()] == [AttemptOutcome.SUCCEEDED]


async def test_a_try_that_has_lost_ends_no_other() -> None:
    """An event that a cancelled try still sees changes nothing for the one that answers."""
    log = AttemptLog()
    running: list[RunningAttempt] = []

    async def tries() -> None:
        running.append(RunningAttempt(call("http://127.0.0.1:9"), None, "", log))
        await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(tries()) for _ in range(2)]
    await asyncio.sleep(0)
    for attempt in running:
        attempt.saw_event()
    assert [task.cancelling() for task in tasks] == [0, 1]
    running[0].succeeded()
    assert [line.outcome for line in log.lines()] == [AttemptOutcome.SUCCEEDED, AttemptOutcome.CANCELLED]
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_of_two_failures_that_may_pass_the_one_with_the_longest_wait_is_told(dispatcher: Dispatcher) -> None:
    """A delay that the provider asked for is not lost because the other try failed first and without one."""
    second_came, first_failed = asyncio.Event(), asyncio.Event()

    async def first(request: web.Request) -> web.StreamResponse:
        return await after(second_came, refused(500))

    async def second(request: web.Request) -> web.StreamResponse:
        second_came.set()
        return await after(first_failed, refused(503, **{"Retry-After": "7"}))

    async def attempt(asked: GenerationCall) -> list[Event]:
        try:
            return await dispatcher.generate(asked, log)
        finally:
            first_failed.set()

    log = AttemptLog()
    async with http_provider(Provider(first, second).answer) as url:
        plan = Plan(call=call(url), max_attempts=2, hedge_after=0.05)
        with pytest.raises(DispatchError) as raised:
            await Runner(dispatcher.fingerprints).run(plan, log, attempt)
    assert (raised.value.upstream_status, raised.value.retry_after) == (503, 7.0)
