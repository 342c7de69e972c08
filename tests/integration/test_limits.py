from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf import json_format
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch_client import AsyncClient, DeadlineError, TextDelta
from keyswitch_sandbox import Sandbox
from support import ServerProcess

KEYS = {"sandbox": "test-key"}


def limited(**limits: str) -> pb.GenerateRequest:
    return json_format.ParseDict({"limits": limits}, pb.GenerateRequest())


async def closed_by_us(sandbox: Sandbox, model: str, number: int) -> None:
    """Wait until the upstream has seen its socket closed by us."""
    await sandbox.journal.wait_for(
        lambda journal: any(
            entry.number > number and entry.model == model and entry.state == "closed_by_client" for entry in journal
        ),
        seconds=5,
    )


def last_number(sandbox: Sandbox) -> int:
    return max((entry.number for entry in sandbox.journal), default=0)


@pytest.mark.parametrize(
    ("model", "limits", "reason"),
    [
        ("sandbox/stall", {"firstTokenTimeout": "0.3s"}, "FIRST_TOKEN_TIMEOUT"),
        ("sandbox/stall-mid-stream", {"idleTimeout": "0.3s"}, "IDLE_TIMEOUT"),
        ("sandbox/stall", {"totalTimeout": "0.3s"}, "TOTAL_TIMEOUT"),
        ("sandbox/endless", {"totalTimeout": "0.5s"}, "TOTAL_TIMEOUT"),
    ],
)
async def test_a_limit_that_passes_ends_the_call_and_closes_the_upstream_socket(
    client: AsyncClient, sandbox: Sandbox, model: str, limits: dict[str, str], reason: str
) -> None:
    """Each time limit has its own reason, and the provider sees its socket closed."""
    number = last_number(sandbox)
    stream = client.stream(model=model, credentials=KEYS, messages="a b c d e", request=limited(**limits))
    with pytest.raises(DeadlineError) as raised:
        await stream.final()
    assert raised.value.reason == reason
    assert raised.value.receipt.attempts[0].failure_reason == reason
    await closed_by_us(sandbox, model, number)


async def test_the_deadline_of_the_rpc_still_leaves_time_for_the_details(client: AsyncClient, sandbox: Sandbox) -> None:
    """A call that runs into its deadline ends shortly before it, with reason and receipt."""
    number = last_number(sandbox)
    with pytest.raises(DeadlineError) as raised:
        await client.generate(model="sandbox/stall", credentials=KEYS, messages="hi", timeout=0.5)
    assert raised.value.reason == "TOTAL_TIMEOUT"
    await closed_by_us(sandbox, "sandbox/stall", number)


@pytest.mark.parametrize("model", ["sandbox/stall", "sandbox/stall-mid-stream", "sandbox/endless"])
async def test_cancelling_a_stream_closes_the_upstream_socket(
    client: AsyncClient, sandbox: Sandbox, model: str
) -> None:
    """A cancelled RPC, before or in the middle of its answer, ends the call to the provider within a second."""
    number = last_number(sandbox)
    async with client.stream(model=model, credentials=KEYS, messages="a b c d e"):
        await sandbox.journal.wait_for(lambda journal: any(entry.number > number for entry in journal))
    async with asyncio.timeout(1.0):
        await closed_by_us(sandbox, model, number)


async def test_cancelling_a_unary_call_closes_the_upstream_socket(client: AsyncClient, sandbox: Sandbox) -> None:
    """A unary call that is cancelled ends the call to the provider within a second."""
    number = last_number(sandbox)
    task = asyncio.ensure_future(client.generate(model="sandbox/stall", credentials=KEYS, messages="hi"))
    await sandbox.journal.wait_for(lambda journal: any(entry.number > number for entry in journal))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1.0):
        await closed_by_us(sandbox, "sandbox/stall", number)


async def test_a_client_that_disconnects_ends_the_call(server: ServerProcess, sandbox: Sandbox) -> None:
    """Closing the connection in the middle of a stream closes the upstream socket too."""
    number = last_number(sandbox)
    async with AsyncClient(server.address) as leaving:
        stream = leaving.stream(model="sandbox/stall-mid-stream", credentials=KEYS, messages="a b c d e")
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    await closed_by_us(sandbox, "sandbox/stall-mid-stream", number)


async def test_a_reader_that_stops_reading_stops_the_provider(server: ServerProcess, sandbox: Sandbox) -> None:
    """What an endless provider gets to send is bounded once nobody reads, and goes on when somebody does."""
    number = last_number(sandbox)
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    async with grpc.aio.insecure_channel(server.address, options) as channel:
        request = json_format.ParseDict(
            {
                "target": {"model": "sandbox/endless"},
                "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}],
                "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "word"}}]}],
            },
            pb.StreamGenerateRequest(),
        )
        call = DispatchServiceStub(channel).StreamGenerate(request)
        await call.read()
        entry = next(entry for entry in sandbox.journal if entry.number > number)
        sent, still = -1, 0
        async with asyncio.timeout(20):
            while still < 5:  # it has stopped once nothing more was sent for half a second
                await asyncio.sleep(0.1)
                still = still + 1 if entry.bytes_sent == sent else 0
                sent = entry.bytes_sent
        assert sent < 24 * 1024 * 1024  # the kernel buffers of two sockets, and ours; the provider would send 64 MiB
        async with asyncio.timeout(10):
            while entry.bytes_sent == sent:
                await call.read()
        call.cancel()
