from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys

import pytest
from cli.running import environment

DEMO = pathlib.Path(__file__).resolve().parents[2] / "tools" / "demo.py"


async def start(**env: str) -> asyncio.subprocess.Process:
    """Start the demo as the leader of a process group of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, str(DEMO), start_new_session=True, env=environment(env=env),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def finish(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Wait for the demo's end, and see that nothing of its group is left."""
    out, err = await asyncio.wait_for(process.communicate(), 60)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return out.decode(), err.decode()


async def test_the_demo_streams_one_generation() -> None:
    """The demo prints the sentence and its receipt, exits 0, and leaves no process."""
    process = await start()
    out, err = await finish(process)
    assert process.returncode == 0, err
    assert out.startswith("Every token of this sentence")
    assert "succeeded at sandbox" in err


async def test_the_demo_shows_why_it_failed() -> None:
    """When a part does not start, the demo shows its log, exits 1, and leaves no process."""
    process = await start(KEYSWITCH_MAX_CALLS="none")
    _, err = await finish(process)
    assert process.returncode == 1
    assert "error: max_calls: " in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
async def test_the_demo_takes_everything_down_with_it(number: signal.Signals, status: int) -> None:
    """Stopped in the middle of the answer, the demo leaves no process."""
    process = await start()
    assert process.stdout is not None
    assert await process.stdout.readexactly(5) == b"Every"
    process.send_signal(number)
    await finish(process)
    assert process.returncode == status
