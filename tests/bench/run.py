"""CPU a unit of work, of the server alone: a whole answer, a burst of 50 events, an event of a paced stream.

The upstream is $MOCK_UPSTREAM, a C program, if it is there and a compiler too, else the sandbox. Everything is on
loopback and in processes of its own; CPU is user and system time of the server's process divided by units, so it holds
on a noisy machine where rates do not. A bare grpc.aio server that answers the same calls with constants stands beside
it: the ratio says what keyswitch adds to its transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator

import grpc
import psutil
from google.protobuf import json_format
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub

HERE = pathlib.Path(__file__).resolve().parent
ROUNDS = 3
UNARY, BURST, PACED = 2000, 600, 200
BURST_EVENTS, PACED_EVENTS, PACED_MS = 50, 100, 20
CONCURRENT = 32


@dataclasses.dataclass(frozen=True)
class Upstream:
    """An upstream, with the tuning that makes it send what is measured."""

    burst: str
    paced: str
    burst_options: str = ""
    paced_options: str = ""
    whole_options: str = ""


@contextlib.contextmanager
def process(*command: str, env: dict[str, str] | None = None, ready: bool = True) -> Iterator[tuple[int, str]]:
    """Run a command; yield its id and, where it prints one, the address that it listens on."""
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **(env or {})}
    )
    try:
        line = started.stdout.readline() if ready and started.stdout is not None else b""
        yield started.pid, json.loads(line)["listening"] if line else ""
    finally:
        started.terminate()
        started.wait(10)


@contextlib.contextmanager
def upstream(scratch: pathlib.Path) -> Iterator[Upstream]:
    """Start the upstream."""
    source = os.environ.get("MOCK_UPSTREAM", "")
    compiler = shutil.which("cc")
    if source and compiler:
        mock = str(scratch / "mock_upstream")
        subprocess.run([compiler, "-O2", "-o", mock, source], check=True)
        ports = (free_port(), free_port())
        with (
            process(mock, str(ports[0]), str(BURST_EVENTS), ready=False),
            process(mock, str(ports[1]), str(PACED_EVENTS), str(PACED_MS), ready=False),
        ):
            for port in ports:
                wait_port(port)
            print("upstream: mock_upstream.c")
            yield Upstream(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
        return
    with process(sys.executable, "-m", "keyswitch_cli", "sandbox", "--listen", "127.0.0.1:0") as (_, address):
        print("upstream: the sandbox (set MOCK_UPSTREAM, and install a C compiler, for the lean one)")
        url = f"http://{address}"
        yield Upstream(
            url, url, f'{{"sandbox":{{"tokens":{BURST_EVENTS}}}}}',
            f'{{"sandbox":{{"tokens":{PACED_EVENTS},"interval_ms":{PACED_MS}}}}}', '{"sandbox":{"tokens":20}}',
        )  # fmt: skip


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_port(port: int) -> None:
    """Wait until somebody listens."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return


def request(options: str) -> pb.GenerateRequest:
    """Return the request that is sent all the time."""
    message = json_format.ParseDict(
        {
            "target": {"provider": "sandbox", "model": "sandbox/echo"},
            "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "bench"}}}],
            "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "Say hello to the whole wide world."}}]}],
        },
        pb.GenerateRequest(),
    )
    message.target.options_json = options
    return message


async def load(count: int, concurrent: int, one: Callable[[], Awaitable[None]]) -> None:
    """Make *count* calls, *concurrent* at a time."""
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*(worker() for _ in range(concurrent)))


async def measure(pid: int, address: str, kind: str, options: str) -> float:
    """Return CPU microseconds a unit."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = DispatchServiceStub(channel)
        whole = request(options)
        streamed = pb.StreamGenerateRequest.FromString(whole.SerializeToString())

        async def unary() -> None:
            await stub.Generate(whole)

        async def stream() -> None:
            last = None
            async for response in stub.StreamGenerate(streamed):
                last = response
            if last is None or not last.events[-1].HasField("finished"):
                raise RuntimeError("a stream did not finish")

        one = unary if kind == "unary" else stream
        count = {"unary": UNARY, "burst": BURST, "paced": PACED}[kind]
        concurrent = PACED if kind == "paced" else CONCURRENT
        await load(concurrent, concurrent, one)  # warm-up
        server = psutil.Process(pid)
        before = sum(server.cpu_times()[:2])
        await load(count, concurrent, one)
        used = sum(server.cpu_times()[:2]) - before
        return used / count / (PACED_EVENTS if kind == "paced" else 1) * 1e6


def main() -> None:
    """Measure in turns and print medians."""
    figures: dict[tuple[str, str], list[float]] = {}
    memory = 0.0
    with tempfile.TemporaryDirectory() as scratch, upstream(pathlib.Path(scratch)) as up:
        plans = (
            ("unary", up.burst, up.whole_options),
            ("burst", up.burst, up.burst_options),
            ("paced", up.paced, up.paced_options),
        )
        serve = (sys.executable, "-m", "keyswitch_cli", "serve", "--listen", "127.0.0.1:0")
        for _ in range(ROUNDS):
            for kind, url, options in plans:
                env = {
                    "KEYSWITCH_SANDBOX_URL": url,
                    "KEYSWITCH_EGRESS_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
                    "KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": '["127.0.0.1"]',
                }
                with process(*serve, env=env) as (pid, address):
                    figures.setdefault(("keyswitch", kind), []).append(
                        asyncio.run(measure(pid, address, kind, options))
                    )
                    memory = max(memory, psutil.Process(pid).memory_info().rss / 1e6)
                if kind == "paced":
                    continue
                with process(sys.executable, str(HERE / "bare.py")) as (pid, address):
                    figures.setdefault(("bare grpc.aio", kind), []).append(
                        asyncio.run(measure(pid, address, kind, options))
                    )
    print(f"{'CPU microseconds, median of ' + str(ROUNDS):34} {'unary':>8} {'burst':>8} {'paced event':>12}")
    for name in ("keyswitch", "bare grpc.aio"):
        cells = [
            statistics.median(figures[name, kind]) if (name, kind) in figures else None
            for kind in ("unary", "burst", "paced")
        ]
        print(f"{name:34} " + " ".join(f"{cell:8.0f}" if cell is not None else f"{'-':>8}" for cell in cells))
    print(f"largest resident memory: {memory:.0f} MB")


if __name__ == "__main__":
    main()
