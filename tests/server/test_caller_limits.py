from __future__ import annotations

import asyncio
import contextlib

import pytest
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_server.caller_limits import CallerLimits
from keyswitch_server.caller_tables import CallerLimit


async def calls(limits: CallerLimits, caller: str, count: int) -> list[float]:
    """Make calls, one after another; return the seconds that each refused one was told to wait."""
    waits = []
    for _ in range(count):
        try:
            with await limits.hold(caller):
                pass
        except DispatchError as error:
            assert (error.reason, error.retryable) == (Reason.CALLER_LIMITED, True)
            assert error.retry_after is not None
            waits.append(error.retry_after)
    return waits


async def test_one_callers_flood_is_nobody_elses() -> None:
    """Each caller has its own minute; who is over it is told exactly when there is room again."""
    limits = CallerLimits({"*": CallerLimit(calls_per_minute=60), "busy": CallerLimit(calls_per_minute=6)})
    waits = await calls(limits, "busy", 20)
    assert len(waits) == 14
    assert all(9 < wait <= 10 for wait in waits)
    assert await calls(limits, "other", 60) == []
    assert await calls(limits, "third", 60) == []
    assert len(await calls(limits, "other", 1)) == 1


async def test_room_comes_back() -> None:
    """Who waits as long as told is let in."""
    limits = CallerLimits({"*": CallerLimit(calls_per_minute=600)})
    waits = await calls(limits, "a", 610)
    assert waits
    assert max(waits) <= 0.1
    async with asyncio.timeout(5):
        while await calls(limits, "a", 1):
            await asyncio.sleep(0.01)


async def test_calls_in_flight_are_counted_and_forgotten() -> None:
    """At most so many are held at once; whatever ends one, its place is free again, and nothing of it is kept."""
    limits = CallerLimits({"two": CallerLimit(concurrent_calls=2)})
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(await limits.hold("two"))
        assert await calls(limits, "two", 3) == [1.0, 1.0, 1.0]
        for _ in range(50):
            stack.enter_context(await limits.hold("unlimited"))
    with pytest.raises(ZeroDivisionError), await limits.hold("two"):
        raise ZeroDivisionError
    assert await calls(limits, "two", 1) == []
    assert not limits._calls


async def test_a_refused_call_takes_no_place() -> None:
    """Who is over the minute's calls does not use up those at once."""
    limits = CallerLimits({"*": CallerLimit(concurrent_calls=1, calls_per_minute=1)})
    assert len(await calls(limits, "a", 5)) == 4
    assert not limits._calls


async def test_endless_names_cost_no_memory() -> None:
    """Of all callers that ever were, at most ten thousand are remembered."""
    limits = CallerLimits({"*": CallerLimit(calls_per_minute=10)})
    for number in range(12_000):
        with await limits.hold(f"user-{number}"):
            pass
    assert len(limits._store._backend.get_client()) == 10_000
    assert len(limits._store._backend.expire_info) == 10_000
    assert not limits._calls
