"""What several tests need to start real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from aiohttp import web

__all__ = ["EGRESS", "ServerProcess", "http_provider", "server_process"]

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
    folder: pathlib.Path, env: Mapping[str, str], *arguments: str, program: Sequence[str] = ("-m", "keyswitch_cli")
) -> AsyncIterator[ServerProcess]:
    """Start a server, wait until it listens, and stop it in the end."""
    log = folder / "server.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *program, "serve", "--listen", "127.0.0.1:0", *arguments,
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
        process._transport.close()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def http_provider(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Start a provider that answers every request with *answer*; yield its URL."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=1.0)  # some hang
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    yield f"http://{host}:{port}"
    await runner.cleanup()
