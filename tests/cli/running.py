"""The `keyswitch` command as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from support import ServerProcess

__all__ = ["KEYSWITCH", "environment", "run", "run_on_terminal"]

KEYSWITCH = (sys.executable, "-m", "keyswitch_cli")


def environment(server: ServerProcess | None = None, env: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the environment for the command: buffered as users have it, or flushing would go untested."""
    address = {"KEYSWITCH_SERVER": server.address} if server else {}
    return {**os.environ, "PYTHONUNBUFFERED": "", **address, **env}


async def run(
    *arguments: str,
    server: ServerProcess | None = None,
    stdin: str | bytes = "",
    env: Mapping[str, str] = MappingProxyType({}),
    executable: Sequence[str] = KEYSWITCH,
) -> tuple[int, str, str]:
    """Run the command; return exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env=environment(server, env),
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin.encode() if isinstance(stdin, str) else stdin), 30)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode(), err.decode()


async def run_on_terminal(*arguments: str, server: ServerProcess) -> tuple[int, str]:
    """Run the command with both outputs on one terminal; return exit status and what the terminal got."""
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=environment(server),
    )  # fmt: skip
    os.close(theirs)
    try:
        shown = await asyncio.wait_for(asyncio.to_thread(_read_all, ours), 30)
    finally:
        os.close(ours)
    return await process.wait(), shown.decode().replace("\r\n", "\n")


def _read_all(terminal: int) -> bytes:
    """Read until nobody holds the other side; Linux reports that as an error, others as the end."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            piece = b""
        if not piece:
            return shown
        shown += piece
