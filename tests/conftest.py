"""Real parts for all tests: a sandbox on loopback, a server in a process of its own, a client."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import AsyncIterator

import grpc
import pytest
from keyswitch_client import AsyncClient
from keyswitch_sandbox import Recordings, Sandbox
from support import EGRESS, ServerProcess, server_process

# what is started in the background of a shell has SIGINT ignored, and so would every command that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)


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
