from __future__ import annotations

import asyncio
import base64
import pathlib
import urllib.parse

import psutil
import pytest
from keyswitch_client import AsyncClient, KeyswitchError, ProviderError
from keyswitch_engine.dialects import DIALECTS
from keyswitch_sandbox import Sandbox
from keyswitch_sandbox.scenarios import SCENARIOS
from support import EGRESS, ServerProcess, server_process


@pytest.mark.parametrize(
    ("model", "stream", "reason"),
    [
        ("huge-line", True, "PROVIDER_PROTOCOL_ERROR"),
        ("gzip-bomb", False, "PROVIDER_PROTOCOL_ERROR"),
        ("gzip-bomb", True, "PROVIDER_PROTOCOL_ERROR"),
        ("many-headers", False, "PROVIDER_PROTOCOL_ERROR"),
        ("many-headers", True, "PROVIDER_PROTOCOL_ERROR"),
    ],
)
async def test_a_provider_that_sends_too_much_is_cut_off(
    client: AsyncClient, server: ServerProcess, model: str, stream: bool, reason: str
) -> None:
    """Endless lines, bombs and headers by the thousand end in a typed error, within memory."""
    arguments = {"model": f"sandbox/{model}", "credentials": {"sandbox": "k"}, "messages": "x"}
    with pytest.raises(ProviderError) as raised:
        if stream:
            await client.stream(**arguments).final()  # type: ignore[arg-type] # plain strings
        else:
            await client.generate(**arguments)  # type: ignore[arg-type] # plain strings
    assert raised.value.reason == reason
    assert psutil.Process(server.process.pid).memory_info().rss < 250e6


QUIET = {"endless", "huge-line", "gzip-bomb", "echo-request"}
"""Scenarios that are long, and without an error of their own."""


async def told(client: AsyncClient, key: str, dialect: str, scenario: str) -> list[str]:
    """Return everything that a caller sees of one scenario, whole and streamed."""
    shown: list[str] = []
    seconds = 0.5 if scenario.startswith("stall") else 20.0
    target = {"model": f"sandbox/{scenario}", "dialect": dialect}
    arguments = {**target, "credentials": {"sandbox": key}, "messages": "a b c d", "timeout": seconds}
    for call in (client.generate, lambda **given: client.stream(**given).final()):
        try:
            answer = await call(**arguments)  # type: ignore[arg-type] # strings and one number
            shown += [str(answer.response), repr(answer)]
        except KeyswitchError as error:
            shown += [str(error), repr(error), repr(vars(error)), repr(error.__cause__), repr(error.__context__)]
    return shown


async def test_a_key_is_found_nowhere(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Whatever goes wrong in whatever dialect, whole or streamed, no log, status, message, repr or str has the key."""
    canary = "canary-9f3a+71=/c2"
    shapes = (canary, base64.b64encode(canary.encode()).decode().rstrip("="), urllib.parse.quote(canary, safe=""))
    scenarios = sorted(set(SCENARIOS) - QUIET)
    shown: list[str] = []
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_LOG_LEVEL": "debug"}
    async with server_process(tmp_path, env) as own, AsyncClient(own.address) as client:
        for dialect in DIALECTS:
            told_of = await asyncio.gather(*(told(client, canary, dialect, scenario) for scenario in scenarios))
            assert all(told_of)
            shown += [text for texts in told_of for text in texts]
        for bad in ("bad key with spaces " + canary, canary + "\r\nX-Injected: 1"):
            with pytest.raises(KeyswitchError) as raised:
                await client.generate(model="sandbox/echo", credentials={"sandbox": bad}, messages="x")
            shown.append(repr(vars(raised.value)))
        log = own.log.read_text()
    assert log.count('"event":"call"') >= len(DIALECTS) * len(scenarios) * 2
    for shape in shapes:
        assert shape not in log
        assert not [text for text in shown if shape in text]
