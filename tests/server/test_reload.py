from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pathlib
import signal
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from keyswitch_client import AsyncClient, KeyswitchError, TextDelta
from keyswitch_engine import registry
from keyswitch_engine.registry import Registry, RegistryError
from keyswitch_sandbox import Sandbox
from keyswitch_server import logging
from keyswitch_server.live_registry import LiveRegistry
from support import EGRESS, ServerProcess, http_provider, server_process

STREAMS = 50


def row(name: str, url: str, display: str = "Own") -> str:
    """Return a provider file."""
    return (
        f'schema = 1\nid = "{name}"\nname = "{display}"\nbase_url = "{url}/v1"\ndefault_model = "sandbox/echo"\n'
        '[[dialects]]\nname = "openai-chat"\npath = "/chat/completions"\n'
    )


class Rows:
    """A server whose operator has a directory of provider files, and what it says of them."""

    def __init__(self, folder: pathlib.Path, server: ServerProcess, client: AsyncClient) -> None:
        self.folder = folder
        self.server = server
        self.client = client

    def write(self, name: str, text: str) -> None:
        """Put a file in place as a whole."""
        (self.folder / "draft").write_text(text)
        (self.folder / "draft").rename(self.folder / f"{name}.toml")

    async def fingerprint(self) -> str:
        return (await self.client.registry_info()).fingerprint

    async def changed(self, before: str) -> str:
        """Return the fingerprint as soon as it is another one."""
        return await until(self.fingerprint, lambda now: now != before)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged of an event."""
        lines = [json.loads(line) for line in self.server.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def logged(self, event: str, count: int) -> dict[str, Any]:
        """Return the line that makes it so many of an event."""

        async def found() -> list[dict[str, Any]]:
            return self.lines(event)

        return (await until(found, lambda lines: len(lines) >= count))[count - 1]

    async def answer(self, provider: str) -> str:
        answer = await self.client.generate(provider=provider, credentials={provider: "k"}, messages="well put")
        return answer.text


async def until(look: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    """Look until it is enough, for at most 20 seconds."""
    async with asyncio.timeout(20):
        while not enough(found := await look()):
            await asyncio.sleep(0.01)
    return found


@contextlib.asynccontextmanager
async def serving(tmp_path: pathlib.Path, files: dict[str, str], interval: float = 0.02) -> AsyncIterator[Rows]:
    """Start a server on provider files."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    env = {
        **EGRESS,
        "KEYSWITCH_PROVIDERS": json.dumps([str(folder)]),
        "KEYSWITCH_PROVIDERS_RELOAD_SECONDS": str(interval),
    }
    async with server_process(tmp_path, env) as own, AsyncClient(own.address, timeout=60.0) as client:
        yield Rows(folder, own, client)


class Talker:
    """A provider that goes on talking to every caller until it is told to end, and keeps what it said to each."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.said: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        caller = (await request.json())["messages"][-1]["content"]
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        pieces = 0
        self.said[caller] = ""
        while pieces == 0 or not self.end.is_set():
            piece = f" {caller}.{pieces}"
            await self.write(response, {"delta": {"content": piece}})
            self.said[caller] += piece
            pieces += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.end.wait(), 0.05)
        await self.write(response, {"delta": {}, "finish_reason": "stop"})
        await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    async def write(response: web.StreamResponse, choice: dict[str, Any]) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, **choice}]}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


async def test_no_stream_is_disturbed_by_reloads(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """50 streams end whole, while files are added, changed, broken, mended and removed and new calls follow each."""
    talker = Talker()
    async with http_provider(talker.answer) as url, serving(tmp_path, {"talker": row("talker", url)}) as rows:
        first = await rows.fingerprint()
        begun = [asyncio.Event() for _ in range(STREAMS)]

        async def read(number: int) -> str:
            text = ""
            async with rows.client.stream(
                provider="talker", credentials={"talker": "k"}, messages=f"caller{number}"
            ) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        text += event.text
                        begun[number].set()
            assert stream.stop_reason == "STOP"
            return text

        reading = [asyncio.create_task(read(number)) for number in range(STREAMS)]
        await asyncio.gather(*(event.wait() for event in begun))

        rows.write("late", row("late", sandbox.url))
        added = await rows.changed(first)
        assert await rows.answer("late") == "well put"
        assert "late" in {provider.id for provider in await rows.client.providers()}

        rows.write("talker", row("talker", sandbox.url))  # from under the streams
        moved = await rows.changed(added)
        assert await rows.answer("talker") == "well put"
        assert len(talker.said) == STREAMS

        rows.write("late", row("late", sandbox.url).replace("default_model", "defualt_model"))
        refused = await rows.logged("registry not reloaded", 1)
        assert refused["level"] == "error"
        assert refused["problem"].startswith(f"{rows.folder / 'late.toml'}:5: defualt_model: ")
        for _ in range(20):
            assert await rows.answer("late") == "well put"
            assert await rows.fingerprint() == moved == refused["registry"]

        rows.write("late", row("late", sandbox.url, "Mended"))
        mended = await rows.changed(moved)
        assert [found.display_name for found in await rows.client.providers("mended")] == ["Mended"]

        (rows.folder / "late.toml").unlink()
        removed = await rows.changed(mended)
        with pytest.raises(KeyswitchError) as raised:
            await rows.answer("late")
        assert raised.value.reason == "UNKNOWN_PROVIDER"

        assert not any(task.done() for task in reading)
        talker.end.set()
        texts = await asyncio.gather(*reading)
        assert texts == [talker.said[f"caller{number}"] for number in range(STREAMS)]
        assert len({first, added, moved, mended, removed}) == 5
        reloads = [(line["registry_before"], line["registry"]) for line in rows.lines("registry reloaded")]
        assert reloads == [(first, added), (added, moved), (moved, mended), (mended, removed)]
        assert len(rows.lines("registry not reloaded")) == 1


async def test_half_a_file_is_taken_up_when_it_is_whole(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """A file that is still being written is refused, and loaded once the rest is there."""
    async with serving(tmp_path, {}) as rows:
        before = await rows.fingerprint()
        text = row("slow", sandbox.url)
        file = rows.folder / "slow.toml"
        file.write_text(text[:70])
        assert "slow.toml" in (await rows.logged("registry not reloaded", 1))["problem"]
        assert await rows.fingerprint() == before
        with file.open("a") as rest:
            rest.write(text[70:])
        await rows.changed(before)
        assert await rows.answer("slow") == "well put"


async def test_a_directory_that_vanishes_takes_nothing_along(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Without its directory the last registry stays, which is told once; when it is back, it counts again."""
    async with serving(tmp_path, {"own": row("own", sandbox.url)}) as rows:
        before = await rows.fingerprint()
        away = tmp_path / "away"
        rows.folder.rename(away)
        refused = await rows.logged("registry not reloaded", 1)
        assert refused["problem"] == f"{rows.folder}: no such directory of provider files"
        assert await rows.answer("own") == "well put"
        (away / "own.toml").write_text(row("own", sandbox.url, "Back"))
        away.rename(rows.folder)
        await rows.changed(before)
        assert len(rows.lines("registry not reloaded")) == 1


async def test_files_behind_links_are_watched(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """A mounted config map changes by one link that leads elsewhere, and its files are links through it."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "own.toml").write_text(row("own", sandbox.url, version))
    async with serving(tmp_path, {}) as rows:
        data = rows.folder / "..data"
        data.symlink_to(tmp_path / "one")
        (rows.folder / "own.toml").symlink_to(pathlib.Path("..data") / "own.toml")
        one = (await rows.logged("registry reloaded", 1))["registry"]
        (rows.folder / "..data_tmp").symlink_to(tmp_path / "two")
        (rows.folder / "..data_tmp").rename(data)
        await rows.changed(one)
        assert (await rows.client.providers("own"))[0].display_name == "two"


async def test_a_hangup_reloads_at_once(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """With an interval of 0 nothing is looked at until SIGHUP, which also tells again of what is still bad."""
    async with serving(tmp_path, {}, interval=0) as rows:
        before = await rows.fingerprint()
        rows.write("own", row("own", sandbox.url))
        for _ in range(50):
            assert await rows.fingerprint() == before
        rows.server.process.send_signal(signal.SIGHUP)
        after = await rows.changed(before)
        rows.write("own", "schema = 3\n")
        for count in (1, 2):
            rows.server.process.send_signal(signal.SIGHUP)
            await rows.logged("registry not reloaded", count)
        assert await rows.fingerprint() == after
        assert await rows.answer("own") == "well put"


async def test_a_hangup_without_provider_files_is_survived(tmp_path: pathlib.Path) -> None:
    """A server without directories reads its keys again, goes on, and stops cleanly."""
    async with server_process(tmp_path, {}) as own, AsyncClient(own.address) as client:
        rows = Rows(tmp_path, own, client)
        own.process.send_signal(signal.SIGHUP)
        await rows.logged("registry reloaded", 1)
        assert await client.health() == "SERVING"
        own.process.terminate()
        assert await asyncio.wait_for(own.process.wait(), 10) == 0


async def test_a_server_that_watches_stops_cleanly(tmp_path: pathlib.Path) -> None:
    """The watching ends with the server, without a word in the log."""
    async with serving(tmp_path, {}) as rows:
        await rows.fingerprint()
        rows.server.process.terminate()
        assert await asyncio.wait_for(rows.server.process.wait(), 10) == 0
        assert [line["event"] for line in map(json.loads, rows.server.log.read_text().splitlines())] == [
            "egress_opened",
            "listening",
            "call",
            "stopping",
            "stopped",
        ]


async def test_a_bug_in_a_reload_is_an_incident(tmp_path: pathlib.Path) -> None:
    """What is no error of a file is logged by its type, the registry stays, and the next change is looked at."""
    out = io.StringIO()
    log = logging.configure("info", out)
    found: list[Registry | ZeroDivisionError] = [registry.load(), ZeroDivisionError("hidden-in-the-text")]

    def load() -> Registry:
        match found.pop(0):
            case Registry() as loaded:
                return loaded
            case error:
                raise error

    live = LiveRegistry(load, [tmp_path], log)
    first = live()

    async def incidents() -> int:
        return out.getvalue().count('"incident"')

    async with live.watched(0.01):
        (tmp_path / "a.toml").touch()
        await until(incidents, bool)
        assert live() is first
        found.append(registry.load())
        (tmp_path / "b.toml").touch()

        async def in_force() -> Registry:
            return live()

        await until(in_force, lambda now: now is not first)
    assert "ZeroDivisionError" in out.getvalue()
    assert "hidden-in-the-text" not in out.getvalue()


class Loads:
    """Loads registries, and does what a test wants done meanwhile."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.threads: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> Registry:
        self.threads.append(threading.get_ident())
        loaded = registry.load([self.folder])
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return loaded


def put(folder: pathlib.Path, name: str, display: str) -> None:
    (folder / f"{name}.toml").write_text(row(name, "https://own.example", display))


def display(live: LiveRegistry) -> str:
    return live().providers["own"].name


async def test_what_changes_while_it_is_read_is_read_again(tmp_path: pathlib.Path) -> None:
    """Neither at the start nor at a reload does a registry stay that was read while its files changed."""
    put(tmp_path, "own", "one")
    loads = Loads(tmp_path)
    loads.meanwhile = lambda: put(tmp_path, "own", "second")
    live = LiveRegistry(loads, [tmp_path], logging.configure("error", io.StringIO()))
    assert display(live) == "second"
    async with live.watched(0):
        loads.meanwhile = lambda: put(tmp_path, "own", "the fourth")
        put(tmp_path, "own", "third one")
        live.reload()

        async def shown() -> str:
            return display(live)

        await until(shown, lambda name: name == "the fourth")


async def test_reloads_run_beside_the_loop_and_only_when_asked_if_told_so(tmp_path: pathlib.Path) -> None:
    """Loading is no work of the loop's thread; with an interval of 0 a change is not looked for, however long it lies."""
    put(tmp_path, "own", "one")
    loads = Loads(tmp_path)
    live = LiveRegistry(loads, [tmp_path], logging.configure("error", io.StringIO()))
    async with live.watched(0.01):
        put(tmp_path, "own", "second")

        async def name() -> str:
            return display(live)

        await until(name, lambda shown: shown == "second")
    assert threading.get_ident() not in loads.threads[1:]
    looked = len(loads.threads)
    async with live.watched(0), asyncio.timeout(20):
        put(tmp_path, "own", "third one")
        started = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < started + 1.5:  # longer than the usual interval
            await asyncio.sleep(0.05)
        assert len(loads.threads) == looked


async def test_a_write_that_puts_the_time_back_is_noticed(tmp_path: pathlib.Path) -> None:
    """A file of the same size and time as before is still another one by the change of its inode."""
    put(tmp_path, "own", "one")
    live = LiveRegistry(Loads(tmp_path), [tmp_path], logging.configure("error", io.StringIO()))
    before = (tmp_path / "own.toml").stat()
    async with live.watched(0.01):
        put(tmp_path, "own", "two")
        os.utime(tmp_path / "own.toml", ns=(before.st_atime_ns, before.st_mtime_ns))

        async def name() -> str:
            return display(live)

        await until(name, lambda shown: shown == "two")


async def test_what_failed_for_another_reason_is_tried_again(tmp_path: pathlib.Path) -> None:
    """A change that could not be loaded since something else was amiss is in force once that is mended, told of once."""
    put(tmp_path, "own", "one")
    loads = Loads(tmp_path)
    out = io.StringIO()
    live = LiveRegistry(loads, [tmp_path], logging.configure("info", out))

    def amiss() -> None:
        raise RegistryError("platform_keys.own: the file cannot be read")

    loads.meanwhile = amiss
    async with live.watched(0.01):
        put(tmp_path, "own", "second")

        async def name() -> str:
            return display(live)

        await until(name, lambda shown: shown == "second")
    assert out.getvalue().count("registry not reloaded") == 1


async def test_a_pipe_among_the_files_is_refused(tmp_path: pathlib.Path) -> None:
    """What is no regular file would be waited for, and is an error instead."""
    os.mkfifo(tmp_path / "own.toml")
    with pytest.raises(RegistryError, match="no regular file"):
        LiveRegistry(Loads(tmp_path), [tmp_path], logging.configure("error", io.StringIO()))
