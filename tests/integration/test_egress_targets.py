from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from egress_targets import REFUSED
from keyswitch_client.errors import KeyswitchError
from listening import Listeners, endpoint, generate, origin, stream
from support import ServerProcess, server_process


@pytest.fixture(scope="module")
def listeners() -> Iterator[Listeners]:
    running = Listeners()
    yield running
    running.close()


@pytest.fixture(scope="module")
async def strict(listeners: Listeners, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server whose operator allows nothing but the port at which the listeners wait."""
    env = {"KEYSWITCH_EGRESS_PORTS": json.dumps([listeners.port])}
    async with server_process(tmp_path_factory.mktemp("strict"), env) as running:
        yield running


@pytest.fixture
async def channel(strict: ServerProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(strict.address) as running:
        yield running


async def test_a_custom_endpoint_at_any_target_of_the_table_is_refused_without_a_connection(
    channel: grpc.aio.Channel, listeners: Listeners
) -> None:
    """A caller who names one gets INVALID_ENDPOINT or BLOCKED_ENDPOINT, and nothing on this machine is connected to."""
    limit = asyncio.Semaphore(16)

    async def outcome(target: str) -> str:
        async with limit:
            answer = await generate(
                channel, custom_endpoint=endpoint(target.replace("{port}", str(listeners.port)), "k")
            )
        return answer.reason if isinstance(answer, KeyswitchError) else "answered"

    outcomes = await asyncio.gather(*(outcome(target) for target, _, _ in REFUSED))
    pasted = {target for target, _, _ in REFUSED if target != target.strip()}  # space around a pasted URL is cut off
    wrong = {
        target: (reason, got)
        for (target, reason, _), got in zip(REFUSED, outcomes, strict=True)
        if got != reason and not (target in pasted and got == "BLOCKED_ENDPOINT")
    }
    assert (wrong, listeners.connections()) == ({}, 0)


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages"])
async def test_a_refusal_says_who_dispatches_it(channel: grpc.aio.Channel, listeners: Listeners, dialect: str) -> None:
    """Whole and streamed, a local endpoint's error names command and library, and neither its URL nor its key."""
    local = endpoint(f"http://localhost:{listeners.port}/secret-path", "key-of-the-endpoint", dialect=dialect)
    for ask in (generate, stream):
        error = await ask(channel, custom_endpoint=local)
        assert isinstance(error, KeyswitchError)
        assert (error.reason, error.code) == ("BLOCKED_ENDPOINT", grpc.StatusCode.PERMISSION_DENIED)
        assert "keyswitch_client" in error.message
        assert not {"secret-path", "key-of-the-endpoint", str(listeners.port)} & set(error.message.split())
    assert listeners.connections() == 0


async def test_the_operators_allowance_is_told_at_the_start(tmp_path: pathlib.Path) -> None:
    """Networks, hosts and ports that are open stand in the first line of the log, a warning; without them there is none."""
    env = {
        "KEYSWITCH_EGRESS_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
        "KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": '["LocalHost.:8080"]',
        "KEYSWITCH_EGRESS_PORTS": "[8443]",
        "KEYSWITCH_LOG_LEVEL": "warning",
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with server_process(tmp_path / "a", env) as opened, server_process(tmp_path / "b", {}) as closed:
        logs = [[json.loads(line) for line in one.log.read_text().splitlines()] for one in (opened, closed)]
    warned = logs[0][0]
    assert (warned["event"], warned["level"]) == ("egress_opened", "warning")
    assert warned["egress_private_networks"] == ["127.0.0.0/8"]
    assert (warned["egress_plain_http_hosts"], warned["egress_ports"]) == (["localhost:8080"], [8443])
    assert [line["event"] for line in logs[1]][:1] == ["listening"]


@pytest.mark.parametrize(
    ("hosts", "open_ports"),
    [('["127.0.0.1"]', "both"), ('["127.0.0.1:{port}"]', "named"), ('["localhost"]', "none")],
)
async def test_an_operator_opens_a_host_at_any_port_or_at_one(
    tmp_path: pathlib.Path, hosts: str, open_ports: str
) -> None:
    """HOST opens every port of a host for plain http, HOST:PORT that one, and neither another spelling of the host."""
    async with origin() as named, origin() as other:
        env = {
            "KEYSWITCH_EGRESS_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
            "KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": hosts.replace("{port}", str(named.port)),
        }
        async with (
            server_process(tmp_path, env) as running,
            grpc.aio.insecure_channel(running.address) as channel,
        ):
            for place in (named, other):
                await generate(channel, custom_endpoint=endpoint(place.url))
        reached = {"both": (1, 1), "named": (1, 0), "none": (0, 0)}[open_ports]
        assert (len(named.seen), len(other.seen)) == reached
