from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
import pytest
from client.outcomes import outcome
from client.own_rows import NOBODY
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import AsyncClient, Client, Endpoint, KeyswitchError
from keyswitch_client.locality import LocalMode
from keyswitch_client.loop_thread import LoopThread
from keyswitch_sandbox import Sandbox


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


@pytest.mark.parametrize(
    ("mode", "code"), [("auto", grpc.StatusCode.UNAVAILABLE), ("always", grpc.StatusCode.DEADLINE_EXCEEDED)]
)
async def test_a_look_up_takes_no_longer_than_its_call(
    monkeypatch: pytest.MonkeyPatch, mode: LocalMode, code: grpc.StatusCode
) -> None:
    """With a resolver that hangs, a call ends in its own time: as the server's error, or as out of time."""
    go_on, asked = threading.Event(), threading.Event()

    def look_up(*_: Any, **__: Any) -> list[Any]:
        asked.set()
        go_on.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    endpoint = Endpoint("https://slow.example/v1", "m")

    def sync() -> grpc.StatusCode:
        client = Client(NOBODY, local=mode, retries=False)
        try:
            with pytest.raises(KeyswitchError) as raised:
                client.generate(endpoint=endpoint, messages="hi", timeout=1)
        finally:
            go_on.set()
            client.close()
        return raised.value.code

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    before = time.monotonic()
    async with AsyncClient(NOBODY, local=mode, retries=False) as client:
        with pytest.raises(KeyswitchError) as raised:
            await client.generate(endpoint=endpoint, messages="hi", timeout=1)
    assert (raised.value.code, await asyncio.to_thread(sync), asked.is_set()) == (code, code, True)
    assert time.monotonic() - before < 10


def sessions() -> list[aiohttp.ClientSession]:
    """Return the HTTP sessions that are open, of which every way out has one."""
    return [thing for thing in gc.get_objects() if isinstance(thing, aiohttp.ClientSession) and not thing.closed]


async def test_ways_out_are_bounded_and_none_is_closed_that_is_used(model_server: Sandbox) -> None:
    """After 40 origins 16 sessions are open, on one TLS context, and a stream to the very first is still running."""
    others = {id(session) for session in sessions()}
    request = pb.GenerateRequest()
    request.target.options_json = '{"sandbox": {"tokens": 10000, "interval_ms": 20}}'
    async with AsyncClient(NOBODY, local="auto") as client:
        async with client.stream(**echo(model_server), request=request) as stream:
            deltas = stream.text_deltas()
            await anext(deltas)
            for port in range(1, 41):  # nobody listens there
                with pytest.raises(KeyswitchError, match="cannot be reached"):
                    await client.generate(
                        endpoint=Endpoint(f"http://127.0.0.1:{port}", "m"), messages="hi", max_attempts=1
                    )
            kept = [session for session in sessions() if id(session) not in others]
            assert (len(kept), len({id(session.connector._ssl) for session in kept})) == (16, 1)  # type: ignore[union-attr] # they are open
            assert [entry.state for entry in model_server.journal] == ["open"]
            assert await anext(deltas)
        assert (await client.generate(**echo(model_server))).text == "hi"
    assert [session for session in kept if not session.closed] == []


async def test_leaving_a_local_stream_closes_its_connection(model_server: Sandbox) -> None:
    """Within a second of leaving, the model server sees its client go."""
    request = pb.GenerateRequest()
    request.target.options_json = '{"sandbox": {"tokens": 10000, "interval_ms": 20}}'
    endpoint = Endpoint(model_server.url, "sandbox/echo")
    async with AsyncClient(NOBODY, local="auto") as client:
        async with client.stream(endpoint=endpoint, request=request, messages="hi") as stream:
            async for event in stream.text_deltas():
                assert event
                break
        await model_server.journal.wait_for(lambda journal: [e.state for e in journal] == ["closed_by_client"], 1)


@pytest.mark.parametrize("streamed", [True, False])
async def test_closing_the_client_ends_its_local_calls(model_server: Sandbox, streamed: bool) -> None:
    """A call in flight fails as cancelled, its caller is not, and its connection is closed."""
    client = AsyncClient(NOBODY, local="auto")
    call = asyncio.create_task(
        outcome(client, streamed=streamed, endpoint=Endpoint(model_server.url, "sandbox/stall"), messages="hi")
    )
    await model_server.journal.wait_for(lambda journal: [entry.state for entry in journal] == ["open"], 5)
    await client.close()
    _, failure = await asyncio.wait_for(call, 5)
    assert failure[1].startswith("CANCELLED")
    await model_server.journal.wait_for(lambda journal: [e.state for e in journal] == ["closed_by_client"], 1)
    with pytest.raises(ValueError, match="the client is closed"):
        await client.generate(endpoint=Endpoint(model_server.url, "sandbox/echo"), messages="hi")


async def test_a_local_call_keeps_its_deadline(model_server: Sandbox) -> None:
    """The time for the call ends it here as it does there, with the details of what was tried."""
    before = time.monotonic()
    async with AsyncClient(NOBODY, local="auto") as client:
        with pytest.raises(KeyswitchError) as raised:
            await client.generate(endpoint=Endpoint(model_server.url, "sandbox/stall"), messages="hi", timeout=0.4)
    assert (raised.value.reason, raised.value.code) == ("TOTAL_TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED)
    assert len(raised.value.receipt.attempts) == 1
    assert time.monotonic() - before < 5
