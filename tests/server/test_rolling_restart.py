from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import json
import pathlib

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keyswitch_client import AsyncClient, KeyswitchError
from keyswitch_sandbox import Sandbox
from support import EGRESS, ServerProcess, server_process

WORKERS = 48
MOST_CALLS = 8000
"""The sandbox's journal remembers a little more."""


class Load:
    """Callers that call without pause, each call with a key of its own."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.keys: list[str] = []
        self.answered = 0
        self.lost: collections.Counter[str] = collections.Counter()
        self.over = False

    async def call(self, worker: int) -> None:
        number = 0
        while not self.over and len(self.keys) < MOST_CALLS:
            number += 1
            key = f"rolling-{worker}-{number}"
            self.keys.append(key)
            try:
                if number % 2:
                    answer = await self._client.generate(
                        model="sandbox/echo", credentials={"sandbox": key}, messages="a b", max_attempts=1
                    )
                else:
                    answer = await self._client.stream(
                        model="sandbox/echo", credentials={"sandbox": key}, messages="a b", max_attempts=1,
                        options={"sandbox": {"tokens": 2, "interval_ms": 40}},
                    ).final()  # fmt: skip
                self.answered += bool(answer.text)
            except KeyswitchError as error:
                self.lost[str(error)] += 1


def calls_in(server: ServerProcess) -> int:
    return server.log.read_text().count('"event":"call"')


async def test_a_rolling_restart_of_two_servers_loses_no_call_and_bills_none_twice(
    sandbox: Sandbox, tmp_path: pathlib.Path
) -> None:
    """Each server in turn says NOT_SERVING, finishes and exits 0; every call is answered, by one request to its provider."""
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}
    async with contextlib.AsyncExitStack() as stack:

        async def start(name: str, *arguments: str) -> ServerProcess:
            folder = tmp_path / name
            folder.mkdir()
            return await stack.enter_async_context(server_process(folder, env, *arguments))

        servers = [await start("first"), await start("second")]
        client = await stack.enter_async_context(AsyncClient("ipv4:" + ",".join(each.address for each in servers)))
        load = Load(client)
        workers = [asyncio.ensure_future(load.call(number)) for number in range(WORKERS)]
        for turn, old in enumerate(tuple(servers)):
            async with asyncio.timeout(20):
                while calls_in(old) < 100:
                    await asyncio.sleep(0.05)
            async with grpc.aio.insecure_channel(old.address) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                old.process.terminate()
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await asyncio.wait_for(old.process.wait(), 10) == 0
            last = json.loads(old.log.read_text().splitlines()[-1])
            assert (last["event"], last["tasks_left"]) == ("stopped", 0)
            new = await start(f"restarted-{turn}", "--listen", old.address)
            async with asyncio.timeout(20):
                while not calls_in(new):  # until clients are back one does not stop the other one
                    await asyncio.sleep(0.05)
        load.over = True
        await asyncio.gather(*workers)
    assert not load.lost
    assert load.answered == len(load.keys) < MOST_CALLS
    print(f"{len(load.keys)} calls over two restarts")
    sent = collections.Counter(entry.key_sha256 for entry in sandbox.journal)
    assert {sent[hashlib.sha256(f"Bearer {key}".encode()).hexdigest()] for key in load.keys} == {1}
