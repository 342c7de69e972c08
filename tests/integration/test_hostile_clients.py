from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import pathlib
import sys
import time
from collections.abc import AsyncIterator

import grpc
import psutil
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import AsyncClient, TextDelta
from keyswitch_sandbox import Sandbox
from keyswitch_server.tokens import hashed, new_token
from raw_http2 import RawPeer, frame, framed, raw_peer
from support import EGRESS, ServerProcess, server_process

MEBIBYTE = 1024 * 1024
SERVICE = "/keyswitch.v1.DispatchService/"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
WATCH = "/grpc.health.v1.Health/Watch"
MAX_CALLS = 20
SLOW_REQUESTS = 4
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
OK = 0
BAD_REQUEST, DEADLINE, EXHAUSTED, UNIMPLEMENTED = (
    grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], grpc.StatusCode.UNIMPLEMENTED.value[0],
)  # fmt: skip


class Attacked:
    """A server with short limits, and what an honest caller has of it meanwhile."""

    def __init__(self, server: ServerProcess, client: AsyncClient) -> None:
        self.address = server.address
        self.server = server
        self._process = psutil.Process(server.process.pid)
        self._client = client

    @property
    def memory(self) -> int:
        return self._process.memory_info().rss

    async def serves_others(self) -> None:
        """Answer Health and a call of somebody else's, each within a second."""
        async with asyncio.timeout(1):
            assert await self._client.health() == "SERVING"
        async with asyncio.timeout(1):
            answer = await self._client.generate(
                model="sandbox/echo", credentials={"sandbox": "other"}, messages="still here"
            )
        assert answer.text == "still here"

    def logged(self, reason: str) -> int:
        return self.server.log.read_text().count(f'"reason":"{reason}"')


@pytest.fixture(scope="module")
async def attacked(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Attacked]:
    env = {
        **EGRESS,
        "KEYSWITCH_SANDBOX_URL": sandbox.url,
        "KEYSWITCH_REQUEST_TIMEOUT": "2",
        "KEYSWITCH_WRITE_TIMEOUT": "1",
        "KEYSWITCH_MAX_CALLS": str(MAX_CALLS),
        "KEYSWITCH_MAX_MESSAGE_BYTES": str(256 * MEBIBYTE),  # of which four may be slow
        "KEYSWITCH_GRACE_SECONDS": "1",
    }
    folder = tmp_path_factory.mktemp("attacked")
    async with server_process(folder, env) as own, AsyncClient(own.address, retries=False) as client:
        running = Attacked(own, client)
        for _ in range(20):  # what a server needs at all is not an attack's
            await asyncio.gather(*(running.serves_others() for _ in range(10)))
        yield running


@contextlib.asynccontextmanager
async def bounded(attacked: Attacked, name: str, mebibytes: float) -> AsyncIterator[None]:
    """Hold that an attack takes no more than so much memory at any time, and nobody else's answers during or after it."""
    await attacked.serves_others()
    before, began = attacked.memory, time.monotonic()
    peak = before

    async def look() -> None:
        nonlocal peak
        while True:
            peak = max(peak, attacked.memory)
            await asyncio.sleep(0.02)

    looking = asyncio.ensure_future(look())
    yield
    await attacked.serves_others()
    looking.cancel()
    after, took = attacked.memory, time.monotonic() - began
    peak = max(peak, after)
    print(
        f"{name}: {before / MEBIBYTE:.0f} MiB, {peak / MEBIBYTE:.0f} at most, {after / MEBIBYTE:.0f} after {took:.1f} s"
    )
    assert peak - before < mebibytes * MEBIBYTE


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


async def test_a_storm_of_resets_is_survived(attacked: Attacked) -> None:
    """Five thousand calls that are reset as soon as they begin cost nothing that stays."""
    async with bounded(attacked, "rapid reset, 5,000 calls", 64):
        request = framed(body("stall"))
        for _ in range(10):
            async with raw_peer(attacked.address) as peer:
                for number in range(500):
                    stream = peer.call(f"{SERVICE}StreamGenerate")
                    if number % 2:
                        peer.h2.send_data(stream, request, end_stream=True)
                    peer.h2.reset_stream(stream)
                peer.flush()
                await peer.writer.drain()
                await attacked.serves_others()


async def test_a_reader_that_never_reads_loses_its_place_and_its_provider(attacked: Attacked, sandbox: Sandbox) -> None:
    """Its calls end as CALLER_TIMEOUT, the provider is left, others get their places; what is kept of each is bounded."""
    told = attacked.logged("CALLER_TIMEOUT")
    number = max((entry.number for entry in sandbox.journal), default=0)
    rounds = 3
    async with (
        bounded(attacked, f"{rounds * MAX_CALLS} readers that never read", rounds * MAX_CALLS * 0.5),
        raw_peer(attacked.address, window=0) as peer,
    ):
        streams: list[int] = []
        for turn in range(1, rounds + 1):
            for _ in range(MAX_CALLS):
                streams.append(peer.call(f"{SERVICE}StreamGenerate"))
                await peer.send(streams[-1], framed(body("endless")))
            async with asyncio.timeout(8):
                while attacked.logged("CALLER_TIMEOUT") < told + turn * MAX_CALLS:
                    await asyncio.sleep(0.02)
            await attacked.serves_others()
        await sandbox.journal.wait_for(
            lambda journal: all(entry.state != "open" for entry in journal if entry.number > number)
        )
        peer.h2.increment_flow_control_window(1 << 30)
        peer.h2.update_settings({4: 1 << 24})
        peer.flush()
        for stream in streams:
            assert await peer.status(stream) == (DEADLINE, "Sandbox: the caller did not read its answer")


async def test_calls_of_headers_alone_take_no_place_and_end(attacked: Attacked) -> None:
    """Without a request few calls may wait for long, the others are OVERLOADED at once; and all of them end."""
    async with bounded(attacked, "900 calls of headers alone", 60), raw_peer(attacked.address) as peer:
        streams = [peer.call(f"{SERVICE}Generate") for _ in range(900)]
        await attacked.serves_others()
        ends = [await peer.status(stream, 5) for stream in streams]
    late = (DEADLINE, "the request did not arrive within 2 s")
    crowded = (EXHAUSTED, "too many requests are slow to arrive; try again later")
    assert (ends.count(late), ends.count(crowded)) == (SLOW_REQUESTS, 900 - SLOW_REQUESTS)


@pytest.mark.parametrize(
    ("sent", "end", "status"),
    [
        (b"", True, BAD_REQUEST),
        (framed(b"abc", claims=100), True, BAD_REQUEST),
        (framed(b"abc", claims=100), False, DEADLINE),
        (framed(b"\xff\xff\xff"), True, BAD_REQUEST),
        (framed(b"abc", claims=300 * MEBIBYTE), False, EXHAUSTED),
        (framed(b"abc", claims=0xFFFFFFFF), False, EXHAUSTED),
    ],
    ids=["no message", "cut", "unfinished", "garbage", "too large", "4 GiB"],
)
@pytest.mark.parametrize("method", [f"{SERVICE}Generate", f"{SERVICE}StreamGenerate", "/grpc.health.v1.Health/Check"])
async def test_a_request_that_is_none_has_its_status(
    attacked: Attacked, method: str, sent: bytes, end: bool, status: int
) -> None:
    """What is not sent, cut off, unfinished, garbage or too large ends with a status, in every service."""
    async with bounded(attacked, f"request {sent[:8]!r}", 8), raw_peer(attacked.address) as peer:
        stream = peer.call(method)
        await peer.send(stream, sent, end=end)
        assert (await peer.status(stream))[0] == status


@pytest.mark.parametrize(("method", "end"), [(f"{SERVICE}Generate", DEADLINE), (REFLECTION, OK)])
async def test_a_large_request_that_never_ends_is_bounded(attacked: Attacked, method: str, end: int) -> None:
    """Of requests that are slow to arrive few are kept; the others, and what was kept of them, are given up in a second."""
    async with bounded(attacked, "40 unfinished requests of 8 MiB", 400), raw_peer(attacked.address) as peer:
        streams = [peer.call(method) for _ in range(40)]
        part = framed(b"", claims=200 * MEBIBYTE) + bytes(8 * MEBIBYTE)
        await asyncio.gather(*(peer.send(stream, part, end=False) for stream in streams))
        ends = [(await peer.status(stream, 20))[0] for stream in streams]
    assert (ends.count(end), ends.count(EXHAUSTED)) == (SLOW_REQUESTS, 40 - SLOW_REQUESTS)


async def test_an_idle_stream_of_requests_ends_in_silence(attacked: Attacked) -> None:
    """Reflection that was answered and asks nothing more is over after `request_timeout`, without a failure."""
    async with raw_peer(attacked.address) as peer:
        stream = peer.call(REFLECTION)
        await peer.send(stream, framed(b"\x3a\x00"), end=False)
        assert await peer.status(stream) == (OK, "")
        assert peer.data[stream] > 0


async def test_slow_requests_of_some_leave_room_for_others(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Peers without a token, and a caller with too many slow requests, do not keep another's slow one from arriving."""
    tokens = {"blue": new_token(), "red": new_token()}
    listed = tmp_path / "tokens.toml"
    listed.write_text("".join(f'{name} = ["{hashed(token)}"]\n' for name, token in tokens.items()))
    env = {
        **EGRESS,
        "KEYSWITCH_SANDBOX_URL": sandbox.url,
        "KEYSWITCH_TOKENS": str(listed),
        "KEYSWITCH_MAX_MESSAGE_BYTES": str(256 * MEBIBYTE),  # of which four may be slow, one of a caller
    }
    request, half = framed(body("echo")), 20
    async with (
        server_process(tmp_path, env) as own,
        raw_peer(own.address) as stranger,
        raw_peer(own.address) as red,
        raw_peer(own.address) as blue,
    ):
        probes = [stranger.call("/grpc.health.v1.Health/Check") for _ in range(40)]
        hoarded = [red.call(f"{SERVICE}Generate", ("authorization", f"Bearer {tokens['red']}")) for _ in range(8)]
        await red.until(lambda: len(red.over) == 7)
        slow = blue.call(f"{SERVICE}StreamGenerate", ("authorization", f"Bearer {tokens['blue']}"))
        await blue.send(slow, request[:half], end=False)
        crowded = (EXHAUSTED, "too many requests are slow to arrive; try again later")
        assert [await red.status(stream) for stream in hoarded if stream in red.over] == [crowded] * 7
        another = [stranger.call("/grpc.health.v1.Health/Check") for _ in range(40)]
        late = (DEADLINE, "the request did not arrive within 2 s")
        assert [await stranger.status(stream) for stream in (*probes, *another)] == [late] * 80
        await blue.send(slow, request[half:])
        assert await blue.status(slow) == (OK, "")


async def test_a_compressed_bomb_is_refused(attacked: Attacked) -> None:
    """A request of little that unpacks to more than the limit is RESOURCE_EXHAUSTED, without being unpacked."""
    bomb = gzip.compress(bytes(300 * MEBIBYTE), 1)
    async with bounded(attacked, "gzip bomb of 300 MiB", 300), raw_peer(attacked.address) as peer:
        stream = peer.call(f"{SERVICE}Generate", ("grpc-encoding", "gzip"))
        await peer.send(stream, framed(bomb, compressed=True))
        assert await peer.status(stream, 20) == (EXHAUSTED, "Decompressed message larger than max")


FLOOD = """
import asyncio, grpc, sys, time
from grpc_health.v1 import health_pb2, health_pb2_grpc

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        health, longest = health_pb2_grpc.HealthStub(channel), 0.0
        await health.Check(health_pb2.HealthCheckRequest())
        print("ready", flush=True)
        asyncio.get_running_loop().add_reader(sys.stdin, lambda: sys.exit(print(longest)))
        while True:
            began = time.monotonic()
            await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_ten_thousand_calls_at_once_are_refused_but_for_those_that_have_a_place(attacked: Attacked) -> None:
    """All but `max_calls` are OVERLOADED and told when to come back, while Health answers within a second."""
    watcher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FLOOD, attacked.address, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    await watcher.stdout.readline()
    stall = body("stall")
    async with bounded(attacked, "10,000 calls at once", 100):
        async with contextlib.AsyncExitStack() as stack:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(attacked.address, options)) for _ in range(10)
            ]
            calls = [channels[n % 10].unary_stream(f"{SERVICE}StreamGenerate")(stall) for n in range(10_000)]
            codes = [asyncio.ensure_future(call.code()) for call in calls]
            done: set[asyncio.Task[grpc.StatusCode]] = set()
            async with asyncio.timeout(60):
                while len(done) < 10_000 - MAX_CALLS:
                    done, _ = await asyncio.wait(codes, timeout=0.1)
            watcher.stdin.close()
            slowest = float(await watcher.stdout.readline())
            refused = [call for call, code in zip(calls, codes, strict=True) if code.done()]
            assert {code.result() for code in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert len(refused) == 10_000 - MAX_CALLS
            assert {dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] for call in refused[:100]} == {
                "1000"
            }
            for call in calls:
                call.cancel()
            await asyncio.wait(codes)
        async with asyncio.timeout(5):
            while attacked.server.log.read_text().count('"code":"CANCELLED"') < MAX_CALLS:
                await asyncio.sleep(0.02)
        await watcher.wait()
    print(f"slowest Health: {slowest * 1000:.0f} ms")
    assert slowest < 1.0


async def test_watches_are_bounded_and_closed_windows_freeze_nothing(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """One connection has a hundred watches; with all windows closed a change is heard at once by who reads."""
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_GRACE_SECONDS": "1"}
    async with (
        server_process(tmp_path, env) as own,
        raw_peer(own.address, window=0) as frozen,
        raw_peer(own.address) as many,
        grpc.aio.insecure_channel(own.address) as channel,
    ):
        for peer in (frozen, many):
            for _ in range(100):
                await peer.send(peer.call(WATCH), framed(b""))
        over = many.call(WATCH)
        await many.send(over, framed(b""))
        assert await many.status(over) == (EXHAUSTED, "too many watches on one connection")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        own.process.terminate()
        async with asyncio.timeout(1):
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
        assert await asyncio.wait_for(own.process.wait(), 10) == 0


async def test_a_stopping_server_waits_for_nobody_who_is_silent(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Calls without a request, idle reflection, watches and open connections end, although others had half a minute."""
    async with (
        server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as own,
        raw_peer(own.address) as peer,
    ):
        silent = [peer.call(f"{SERVICE}Generate") for _ in range(10)]
        reflection = peer.call(REFLECTION)
        await peer.send(reflection, framed(b"\x3a\x00"), end=False)
        watch = peer.call(WATCH)
        await peer.send(watch, framed(b""))
        await peer.until(lambda: watch in peer.data and reflection in peer.data)
        own.process.terminate()
        assert await asyncio.wait_for(own.process.wait(), 10) == 0
        for stream in (*silent, reflection):
            assert await peer.status(stream) == (grpc.StatusCode.UNAVAILABLE.value[0], "the server is stopping")
        assert await peer.status(watch) == (0, "")


async def test_a_stopping_server_waits_for_no_watch_that_is_not_read(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """With watches in a closed window it exits soon after its last call, which has its whole answer before."""
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}
    async with (
        server_process(tmp_path, env) as own,
        raw_peer(own.address, window=0) as frozen,
        AsyncClient(own.address, retries=False) as client,
    ):
        watches = [frozen.call(WATCH) for _ in range(10)]
        for watch in watches:
            await frozen.send(watch, framed(b""))
        await frozen.until(lambda: frozen.headers.keys() == set(watches))
        stream = client.stream(
            model="sandbox/echo", credentials={"sandbox": "k"}, messages="x",
            options={"sandbox": {"tokens": 40, "interval_ms": 50}},
        )  # fmt: skip
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        own.process.terminate()
        assert (await stream.final()).text == "".join(f" tok{number}" for number in range(40))
        async with asyncio.timeout(2.5):
            assert await own.process.wait() == 0


async def flood(peer: RawPeer, data: bytes, times: int) -> None:
    """Send something again and again, until the server has had enough of it."""
    with contextlib.suppress(OSError):
        for _ in range(times):
            if peer.closed:
                break
            peer.writer.write(data)
            await peer.writer.drain()


FLOODS = {  # what is sent, how often, and how many MiB it may cost
    "pings": (frame(PING, 0, 0, bytes(8)) * 100, 50, 8),
    "settings": (frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\xff\xff") * 100, 50, 8),
    "continuations": (frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 2000) * 10, 2000, 128),
    "resets of nothing": (frame(RST_STREAM, 0, 1, bytes(4)) * 100, 50, 8),
    "empty data": (frame(DATA, 0, 1, b"") * 100, 50, 8),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_floods_of_frames_are_cut_off_or_cost_nothing(attacked: Attacked, name: str) -> None:
    """Thousands of frames that mean nothing leave others their answers, and no memory taken."""
    data, times, mebibytes = FLOODS[name]
    async with bounded(attacked, f"flood of {name}", mebibytes), raw_peer(attacked.address) as peer:
        if name == "continuations":
            peer.writer.write(frame(HEADERS, 0, 1, b"\x00\x01a\x01b"))
        elif name != "pings":
            peer.call(f"{SERVICE}Generate")
        await flood(peer, data, times)
        await attacked.serves_others()
        if name in ("pings", "continuations"):
            await peer.until(lambda: peer.closed or peer.goaway is not None)


MALFORMED = {
    "http/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "noise": bytes(range(256)) * 256,
    "bad compression": frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
    "odd settings": frame(SETTINGS, 0, 0, b"\x00"),
    "huge frame": frame(PING, 0, 0, b"", claims=0xFFFFFF),
    "continuation of nothing": frame(CONTINUATION, 4, 1, b""),
    "data on stream 0": frame(DATA, 0, 0, b"x"),
    "even stream": frame(HEADERS, 4, 2, b"\x82"),
}
IGNORED = {"data on stream 0", "even stream"}
"""What gRPC drops without a word."""


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_frames_end_their_connection_alone(attacked: Attacked, name: str) -> None:
    """What is not HTTP/2 closes its own connection or is dropped, and nobody else's answer is lost."""
    async with bounded(attacked, f"malformed: {name}", 8), raw_peer(attacked.address) as peer:
        await flood(peer, MALFORMED[name], 1)
        if name not in IGNORED:
            await peer.until(lambda: peer.closed or peer.goaway is not None)


async def test_metadata_has_a_limit_that_is_no_matter_of_chance(attacked: Attacked) -> None:
    """Headers of 12 KiB always pass, those of 20 KiB never do."""
    async with bounded(attacked, "metadata", 8), raw_peer(attacked.address) as peer:
        for _ in range(15):
            stream = peer.call(f"{SERVICE}Generate", ("x-large", "a" * 12 * 1024))
            await peer.send(stream, framed(b"\xff"))
            assert (await peer.status(stream))[0] == BAD_REQUEST
            stream = peer.call(f"{SERVICE}Generate", ("x-large", "a" * 20 * 1024))
            await peer.send(stream, framed(b"\xff"))
            assert (await peer.status(stream))[0] == EXHAUSTED


@pytest.mark.parametrize(
    "path",
    [
        "//keyswitch.v1.DispatchService/Generate", "/keyswitch.v1.DispatchService/Generate/", "/keyswitch.v1.dispatchservice/Generate",
        "/keyswitch.v1.DispatchService/./Generate", "/a/../keyswitch.v1.DispatchService/Generate", "/keyswitch.v1.DispatchService/Generate?x",
        "/keyswitch.v1.DispatchService/%47enerate", "/keyswitch.v1.DispatchService/Generate\x00", "*", "/", "",
    ],
)  # fmt: skip
async def test_a_path_that_is_not_a_methods_name_is_no_method(attacked: Attacked, path: str) -> None:
    """Methods are found by their exact name, so that none is reached around a rule that holds for its name."""
    async with raw_peer(attacked.address) as peer:
        stream = peer.call(path)
        await peer.send(stream, framed(b"\xff"))
        assert (await peer.status(stream))[0] == UNIMPLEMENTED


async def test_authority_and_content_type_open_nothing(attacked: Attacked) -> None:
    """Another host's name and another content type make no difference: the request is read by the same rules."""
    async with raw_peer(attacked.address) as peer:
        for fields, pseudo in (
            ([], {"authority": "internal.example"}),
            ([("content-type", "application/json")], {}),
            ([("content-type", "text/plain")], {}),
        ):
            stream = peer.call(f"{SERVICE}Generate", *fields, **pseudo)
            await peer.send(stream, framed(b"\xff"))
            assert (await peer.status(stream))[0] == BAD_REQUEST


async def test_none_of_it_was_an_incident(attacked: Attacked) -> None:
    """Attacks are no bugs of ours: no incident, and no traceback of a library, was logged for any of them."""
    await attacked.serves_others()
    log = attacked.server.log.read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]  # the others are gRPC's own
    assert not [line for line in lines if line["event"] in ("incident", "library message")]
