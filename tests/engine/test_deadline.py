from __future__ import annotations

import asyncio
import time

import pytest
from keyswitch_engine.deadline import TimeLimits, Watch
from keyswitch_engine.errors import LimitExceeded, Reason

LIMITS = TimeLimits(connect=1, first_token=0.05, idle=0.1, total=5)


async def test_the_first_token_has_its_limit() -> None:
    """Without any progress the first-token limit ends the work."""
    now = asyncio.get_running_loop().time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, now, now + 5):
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.FIRST_TOKEN_TIMEOUT


async def test_progress_moves_the_limit_and_silence_ends_it() -> None:
    """Steady progress outlives both limits; then silence is IDLE_TIMEOUT."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, start, start + 5) as watch:
        for _ in range(10):
            watch.heard()
            watch.answering()
            await asyncio.sleep(0.03)
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.IDLE_TIMEOUT
    assert loop.time() - start > 0.3


async def test_bytes_that_keep_a_connection_alive_begin_no_answer() -> None:
    """Comments hold off neither the limit for the first token, nor are they the first token."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, start, start + 5) as watch:
        while True:
            watch.heard()
            await asyncio.sleep(0.01)
    assert raised.value.reason is Reason.FIRST_TOKEN_TIMEOUT


async def test_a_blocked_write_is_bounded_by_the_total_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the caller is written to, the provider's silence is not its fault; the write has some grace to end."""
    monkeypatch.setattr("keyswitch_engine.deadline.WRITE_GRACE", 0.2)
    start = asyncio.get_running_loop().time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, start, start + 0.3) as watch:
        watch.answering()
        watch.writing(active=True)
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.TOTAL_TIMEOUT
    assert asyncio.get_running_loop().time() - start >= 0.5


async def test_a_write_has_a_limit_of_its_own() -> None:
    """A caller that does not read is told so, however much time the call has left; slow writes add nothing up."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    limits = TimeLimits(connect=1, first_token=1, idle=1, total=60, write=0.2)
    with pytest.raises(LimitExceeded) as raised, Watch(limits, start, start + 60) as watch:
        watch.answering()
        for _ in range(4):
            watch.writing(active=True)
            await asyncio.sleep(0.1)
            watch.writing(active=False)
        watch.writing(active=True)
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.CALLER_TIMEOUT
    assert 0.6 <= loop.time() - start < 1


async def test_a_write_that_ends_late_is_followed_by_the_limit() -> None:
    """Once the caller has taken what was being written, the total limit that passed meanwhile ends the work."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(LimitExceeded) as raised, Watch(LIMITS, start, start + 0.1) as watch:
        watch.answering()
        watch.writing(active=True)
        await asyncio.sleep(0.2)
        watch.writing(active=False)
        await asyncio.sleep(3)
    assert raised.value.reason is Reason.TOTAL_TIMEOUT
    assert loop.time() - start < 1


async def test_a_tiny_limit_is_not_looked_at_all_the_time() -> None:
    """However short the idle limit, waiting for the first token takes no more than some looks a second."""
    loop = asyncio.get_running_loop()
    start, used = loop.time(), time.process_time()
    with pytest.raises(LimitExceeded), Watch(TimeLimits(1, 0.5, 1e-9, 5), start, start + 5):
        await asyncio.sleep(3)
    assert time.process_time() - used < 0.25


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Cancelling the task is not a limit, even with a limit about to pass."""

    async def work() -> None:
        now = asyncio.get_running_loop().time()
        with Watch(TimeLimits(1, 60, 60, 60), now, now + 60):
            started.set()
            await asyncio.sleep(60)

    started = asyncio.Event()
    task = asyncio.ensure_future(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
