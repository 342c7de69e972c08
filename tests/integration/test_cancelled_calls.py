from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psutil
from google.protobuf import json_format
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_sandbox import Sandbox
from support import EGRESS, server_process

AT_ONCE = 125
MEBIBYTE = 1024 * 1024
SERVICE = "/keyswitch.v1.DispatchService/"


def body(model: str) -> bytes:
    request: pb.StreamGenerateRequest = json_format.ParseDict(
        {
            "target": {"model": f"sandbox/{model}"},
            "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}],
            "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "a b c d"}}]}],
        },
        pb.StreamGenerateRequest(),
    )
    return request.SerializeToString()


STALL, MIDDLE, ENDLESS = body("stall"), body("stall-mid-stream"), body("endless")


async def at_once(channel: grpc.aio.Channel) -> None:
    """Leave as soon as the request is on its way."""
    call = channel.unary_stream(f"{SERVICE}StreamGenerate")(STALL)
    await asyncio.sleep(0)
    call.cancel()


async def without_a_request(channel: grpc.aio.Channel) -> None:
    """Leave with nothing but headers sent."""
    call: Any = channel.stream_unary(f"{SERVICE}Generate")()
    await asyncio.sleep(0)
    call.cancel()


async def before_the_answer(channel: grpc.aio.Channel) -> None:
    """Leave while the provider keeps us waiting."""
    call = channel.unary_stream(f"{SERVICE}StreamGenerate")(STALL)
    await call.initial_metadata()
    call.cancel()


async def of_a_whole_answer(channel: grpc.aio.Channel) -> None:
    """Leave a call that has one answer; on the wire it is a stream of one, whose headers can be waited for."""
    call = channel.unary_stream(f"{SERVICE}Generate")(STALL)
    await call.initial_metadata()
    call.cancel()


async def in_the_middle(channel: grpc.aio.Channel) -> None:
    """Leave while the provider is silent in the middle of its answer."""
    call = channel.unary_stream(f"{SERVICE}StreamGenerate")(MIDDLE)
    await call.read()
    call.cancel()


async def while_written_to(channel: grpc.aio.Channel) -> None:
    """Leave without having read what the provider does not stop sending."""
    call = channel.unary_stream(f"{SERVICE}StreamGenerate")(ENDLESS)
    await call.initial_metadata()
    await asyncio.sleep(0)
    call.cancel()


STAGES: list[Callable[[grpc.aio.Channel], Awaitable[None]]] = [
    at_once, before_the_answer, in_the_middle, without_a_request, of_a_whole_answer, in_the_middle, at_once,
    while_written_to,
]  # fmt: skip


async def test_ten_thousand_cancelled_calls_leave_nothing_behind(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Cancelled at every stage, calls leave no memory, socket or task; the server stops without waiting for any."""
    async with server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as own:
        process = psutil.Process(own.process.pid)
        async with grpc.aio.insecure_channel(own.address) as channel:

            async def cancel(count: int) -> None:
                for first in range(0, count, AT_ONCE):
                    stages = (STAGES[number % len(STAGES)] for number in range(first, first + AT_ONCE))
                    await asyncio.gather(*(stage(channel) for stage in stages))

            async def settled() -> tuple[int, int]:
                """Wait until no call is open at the provider; return memory and open files."""
                await sandbox.journal.wait_for(lambda journal: all(entry.state != "open" for entry in journal))
                async with asyncio.timeout(5):
                    while len(process.net_connections("tcp")) > 2:  # one that listens, and ours
                        await asyncio.sleep(0.02)
                return process.memory_info().rss, process.num_fds()

            await cancel(1000)
            memory, files = await settled()
            began = time.monotonic()
            await cancel(10_000)
            memory_after, files_after = await settled()
        print(
            f"10000 cancelled calls: {time.monotonic() - began:.1f} s, {memory / MEBIBYTE:.1f} to "
            f"{memory_after / MEBIBYTE:.1f} MiB, {files} to {files_after} files"
        )
        own.process.terminate()
        assert await asyncio.wait_for(own.process.wait(), 5) == 0
        lines = [json.loads(line) for line in own.log.read_text().splitlines()]
    assert memory_after - memory < 16 * MEBIBYTE
    assert files_after <= files
    assert lines[-1]["tasks_left"] == 0
    assert not [line for line in lines if line["event"] in ("incident", "library message")]
    assert {line["code"] for line in lines if line["event"] == "call"} == {"CANCELLED"}
