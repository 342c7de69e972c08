from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from keyswitch_client import AsyncClient, Client, Endpoint, KeyswitchError
from keyswitch_client.loop_thread import LoopThread
from keyswitch_sandbox import Sandbox

NOBODY = "127.0.0.1:1"
"""Where no server is."""


@pytest.fixture
async def model_server() -> AsyncIterator[Sandbox]:
    async with Sandbox(model_server=True) as running:
        yield running


def echo(server: Sandbox, scenario: str = "echo") -> dict[str, Any]:
    """Return the arguments of a call that is answered, or does what else *scenario* says."""
    return {"endpoint": Endpoint(server.url, f"sandbox/{scenario}"), "messages": "hi"}


def threads() -> list[str]:
    """Return the names of the local calls' threads that run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("keyswitch-local")]


async def test_a_client_closed_before_its_first_local_call_stays_closed(model_server: Sandbox) -> None:
    """Whole or streamed, a call after `close` is refused; nothing is called, and no thread or session is left."""
    for opened in (False, True):
        client = AsyncClient(NOBODY, local="auto")
        if opened:
            await client.generate(**echo(model_server))
        await client.close()
        with pytest.raises(ValueError, match="the client is closed"):
            await client.generate(**echo(model_server))
        with pytest.raises(ValueError, match="the client is closed"):
            await client.stream(**echo(model_server)).final()
        await client.close()

        def sync(*, opened: bool = opened) -> None:
            client = Client(NOBODY, local="auto")
            if opened:
                client.generate(**echo(model_server))
            client.close()
            with pytest.raises(ValueError, match="the client is closed"):
                client.generate(**echo(model_server))
            with pytest.raises(ValueError, match="the client is closed"):
                client.stream(**echo(model_server)).final()
            client.close()

        await asyncio.to_thread(sync)
    assert threads() == []
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(warning.message) for warning in left if warning.category is ResourceWarning] == []
    assert len(list(model_server.journal)) == 2


async def test_a_close_during_the_first_local_call_ends_it(
    model_server: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is closed while the engine is being loaded answers no call, and leaves no thread."""
    opening, go_on = threading.Event(), threading.Event()
    from keyswitch_client import local  # noqa: PLC0415 - loads the engine, which the calls do

    def load(*arguments: Any, real: Callable[..., Any] = local.load) -> Any:
        opening.set()
        go_on.wait(10)
        return real(*arguments)

    monkeypatch.setattr(local, "load", load)
    client = Client(NOBODY, local="auto")
    call = asyncio.create_task(asyncio.to_thread(client.generate, **echo(model_server, "stall")))
    await asyncio.to_thread(opening.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(client.close))
    go_on.set()
    await asyncio.wait_for(closing, 10)
    # it was refused, or had begun and was cancelled, whichever came first
    with pytest.raises((ValueError, KeyswitchError), match=r"the client is closed|CANCELLED"):
        await asyncio.wait_for(call, 10)
    assert (threads(), [entry.state for entry in model_server.journal if entry.state == "open"]) == ([], [])


async def test_a_thread_that_is_closed_ends_what_runs_on_it() -> None:
    """Whatever still runs is cancelled and has ended when `close` returns; nothing begins after it."""
    thread, running, ended = LoopThread(), threading.Event(), threading.Event()

    async def work() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # to clean up takes a step of the loop's
            ended.set()

    waiting = asyncio.create_task(asyncio.to_thread(lambda: thread.run(work())))
    await asyncio.to_thread(running.wait, 10)
    await asyncio.to_thread(thread.close)
    assert ended.is_set()
    with pytest.raises(Exception, match="the call was cancelled"):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(ValueError, match="the client is closed"):
        thread.run(work())
    thread.close()
    assert threads() == []
