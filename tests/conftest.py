"""Real parts for all tests: a sandbox on loopback, a server in a process of its own, a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest

from keyswitch_client import AsyncClient
from keyswitch_sandbox import Recordings, Sandbox

EGRESS = {
    "KEYSWITCH_EGRESS_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
    "KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": '["127.0.0.1"]',
}


class ServerProcess:
    """A `keyswitch serve` of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, log: pathlib.Path) -> None:
        self.process = process
        self.address = address
        self.log = log


@contextlib.asynccontextmanager
async def server_process(
    folder: pathlib.Path, env: Mapping[str, str], *arguments: str
) -> AsyncIterator[ServerProcess]:
    """Start a server, wait until it listens, and stop it in the end."""
    log = folder / "server.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "keyswitch_cli", "serve", "--listen", "127.0.0.1:0", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=stderr, env={**os.environ, **env},
        )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        assert line, log.read_text()
        yield ServerProcess(process, json.loads(line)["listening"], log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001 - else its pipe is closed by the collector, loudly


@pytest.fixture(scope="session")
def recordings_folder() -> pathlib.Path:
    """The folder of recorded traffic; tests that need it are skipped where it is absent."""
    folder = os.environ.get("RECORDINGS", "")
    if not folder:
        pytest.skip("there is no folder of recordings; set RECORDINGS")
    return pathlib.Path(folder).resolve()


@pytest.fixture(scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    folder = os.environ.get("RECORDINGS", "")
    recordings = Recordings(pathlib.Path(folder), "random:7") if folder else None
    async with Sandbox(recordings=recordings) as running:
        yield running


@pytest.fixture(scope="session")
async def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    async with server_process(folder, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as running:
        yield running


@pytest.fixture(scope="session")
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, timeout=30.0) as running:
        yield running


@pytest.fixture(scope="session")
async def channel(server: ServerProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as running:
        yield running
