from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.dispatch import Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, Reason, StreamTruncated
from keyswitch_engine.events import Event, Finished, Started, TextDelta
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.registry import load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

POLICY = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def frame(*words: str, finish: bool = False) -> bytes:
    """Return one HTTP chunk with an event for each word."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    if finish:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    body += b"data: [DONE]\n\n" if finish else b""
    return b"%x\r\n%b\r\n" % (len(body), body)


@contextlib.asynccontextmanager
async def provider(answer: Answer) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A provider on a raw socket: reads requests, answers each with *answer*; yields its port and what it read."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head)
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                await answer(writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1], heads


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    async with Egress(POLICY) as egress:
        yield Dispatcher(egress)


def call(port: int, *, stream: bool = True) -> GenerationCall:
    """Return a call to a provider on a port."""
    registry = load(base_urls={"sandbox": f"http://127.0.0.1:{port}"})
    route = resolve(registry, Target(provider="sandbox"), [ProviderCredential("sandbox", ApiKey(Secret("the-key")))])
    generation = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))
    now = asyncio.get_running_loop().time()
    request = write_request(route, generation, stream=stream)
    return GenerationCall(request=request, route=route, limits=TimeLimits(5, 5, 5, 20), received_at=now)


def words(batch: list[Event]) -> list[str]:
    return [event.text for event in batch if isinstance(event, TextDelta)]


async def test_one_read_is_one_batch_and_a_write_in_flight_gathers_the_next(dispatcher: Dispatcher) -> None:
    """What one read decoded to comes together; everything that arrives during a write is the batch after it, in order."""
    writing, sent = asyncio.Event(), asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + frame("a", "b", "c"))
        await writing.wait()
        for word in "defgh":
            writer.write(frame(word))
            await writer.drain()
        writer.write(frame("i", finish=True) + b"0\r\n\r\n")
        await writer.drain()
        sent.set()

    batches: list[list[Event]] = []

    async def sink(batch: list[Event]) -> None:
        batches.append(batch)
        if len(batches) == 1:
            writing.set()
            await sent.wait()
            for _ in range(20):  # turns of the loop, in which it reads what is in the socket by now
                await asyncio.sleep(0)

    async with provider(answer) as (port, _):
        await dispatcher.stream(call(port), sink)
    assert isinstance(batches[0][0], Started)
    assert words(batches[0]) == ["a", "b", "c"]
    assert [words(batch) for batch in batches[1:]] == [["d", "e", "f", "g", "h", "i"]]
    assert isinstance(batches[-1][-1], Finished)


async def test_a_finished_answer_gives_its_connection_back(dispatcher: Dispatcher) -> None:
    """Two calls to one provider share a connection, and the key travels in its header only."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + frame("a", finish=True))
        await writer.drain()
        writer.write(b"0\r\n\r\n")

    times: list[float | None] = []

    async def sink(batch: list[Event]) -> None:
        times.extend(event.receipt.attempts[0].connect_time for event in batch if isinstance(event, Finished))

    async with provider(answer) as (port, heads):
        await dispatcher.stream(call(port), sink)
        await dispatcher.stream(call(port), sink)
    assert times[0] is not None
    assert times[0] > 0
    assert times[1] == 0.0
    assert [head.count(b"Authorization: Bearer the-key\r\n") for head in heads] == [1, 1]
    assert b"the-key" not in heads[0].partition(b"\r\n")[0]


@pytest.mark.parametrize("begun", [b"", HEAD + b"ffff\r\ndata: "])
async def test_nothing_of_the_transport_is_behind_its_failures(dispatcher: Dispatcher, begun: bytes) -> None:
    """A connection that is reset, before the answer or in it, leaves an error alone: the frames hold what was sent."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        await writer.drain()
        writer.transport.abort()

    async def sink(batch: list[Event]) -> None:
        pass

    async with provider(answer) as (port, _):
        with pytest.raises(DispatchError) as raised:
            await dispatcher.stream(call(port), sink)
    assert raised.value.reason in {Reason.PROVIDER_UNAVAILABLE, Reason.STREAM_TRUNCATED}
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)


async def test_nothing_comes_from_the_environment_and_nothing_is_kept(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Proxies and netrc of the environment are not used, and a provider's cookie does not come back."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login hidden password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    head = HEAD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: tenant=1; Path=/\r\n\r\n")

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head + frame("a", finish=True) + b"0\r\n\r\n")

    async def sink(batch: list[Event]) -> None:
        pass

    async with provider(answer) as (port, heads):
        await dispatcher.stream(call(port), sink)
        await dispatcher.stream(call(port), sink)
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()
    assert b"hidden" not in b"".join(heads)


async def test_an_error_whose_body_breaks_off_is_still_that_error(dispatcher: Dispatcher) -> None:
    """A 401 is a bad key, even if its explanation never arrives whole."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    async with provider(answer) as (port, _):
        with pytest.raises(DispatchError) as raised:
            await dispatcher.generate(call(port, stream=False))
    assert raised.value.reason is Reason.INVALID_CREDENTIAL


async def test_a_key_that_a_provider_quotes_is_told_nobody(dispatcher: Dispatcher) -> None:
    """Wherever an error quotes the key, in message, code or request id, what is passed on does not."""
    body = b'{"error":{"message":"the-key is bad","code":"the-key"}}'

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 400 Bad\r\nX-Request-Id: the-key\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)

    async with provider(answer) as (port, _):
        with pytest.raises(DispatchError) as raised:
            await dispatcher.generate(call(port, stream=False))
    assert raised.value.message == "Sandbox: [redacted] is bad"
    assert "the-key" not in repr(vars(raised.value))


async def test_a_limit_that_passes_after_the_end_changes_nothing(dispatcher: Dispatcher) -> None:
    """Once `Finished` was written, a provider that keeps its connection open cannot turn the call into a failure."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + frame("a", finish=True))  # and never the last chunk

    seen: list[Event] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 1.0

    async def sink(batch: list[Event]) -> None:
        seen.extend(batch)
        if isinstance(batch[-1], Finished):
            while loop.time() < deadline:  # nothing else runs meanwhile: the limit has passed when the write is done
                pass

    async with provider(answer) as (port, _):
        await dispatcher.stream(msgspec.structs.replace(call(port), deadline=deadline), sink)
    assert isinstance(seen[-1], Finished)


FINISHED = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize(("body", "complete"), [(FINISHED + b"data: [DONE]", True), (FINISHED, False)])
async def test_a_connection_that_breaks_after_the_marker_alone_is_no_failure(
    dispatcher: Dispatcher, body: bytes, *, complete: bool
) -> None:
    """With the marker the answer was complete, however its connection ended; after a finish reason more may follow."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"%x\r\n%b\r\n" % (len(body), body))
        await writer.drain()
        writer.transport.abort()

    seen: list[Event] = []

    async def sink(batch: list[Event]) -> None:
        seen.extend(batch)

    async with provider(answer) as (port, _):
        with contextlib.nullcontext() if complete else pytest.raises(StreamTruncated):
            await dispatcher.stream(call(port), sink)
    assert words(seen) == ["a"]
    assert isinstance(seen[-1], Finished) is complete


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (EgressPolicy(), False),
        (EgressPolicy((), frozenset({"127.0.0.1"})), False),
        (EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset()), False),
        (EgressPolicy((ipaddress.ip_network("10.0.0.0/8"),), frozenset({"127.0.0.1"})), False),
        (POLICY, True),
    ],
)
async def test_a_private_address_needs_both_allowances(policy: EgressPolicy, allowed: bool) -> None:
    """Plain http by name, and the network by address: one without the other opens no socket."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + frame("a", finish=True) + b"0\r\n\r\n")

    async def sink(batch: list[Event]) -> None:
        pass

    async with provider(answer) as (port, heads), Egress(policy) as egress:
        if allowed:
            await Dispatcher(egress).stream(call(port), sink)
        else:
            with pytest.raises(DispatchError) as raised:
                await Dispatcher(egress).stream(call(port), sink)
            assert raised.value.reason is Reason.BLOCKED_ENDPOINT
    assert bool(heads) is allowed


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1", "[::ffff:127.0.0.1]", "localhost"]
)
async def test_special_addresses_are_refused_at_the_socket(host: str) -> None:
    """Link-local, unspecified, multicast, mapped and named loopback addresses never get a socket."""
    wide = EgressPolicy((ipaddress.ip_network("10.0.0.0/8"),), frozenset({host.strip("[]")}))
    async with Egress(wide) as egress:
        registry = load(base_urls={"sandbox": f"http://{host}:9"})
        route = resolve(registry, Target(provider="sandbox"), [ProviderCredential("sandbox", ApiKey(Secret("k")))])
        blocked = GenerationCall(
            request=write_request(route, Generation((Message(Role.USER, (Part(TextPart("hi")),)),)), stream=False), route=route,
            limits=TimeLimits(5, 5, 5, 20), received_at=asyncio.get_running_loop().time(),
        )  # fmt: skip
        with pytest.raises(DispatchError) as raised:
            await Dispatcher(egress).generate(blocked)
    assert raised.value.reason is Reason.BLOCKED_ENDPOINT


async def test_comments_are_neither_the_first_token_nor_a_reason_to_wait_longer(dispatcher: Dispatcher) -> None:
    """A provider that only keeps the connection alive passes the limit for the first token all the same."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(b"10\r\n: PROCESSING...\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def sink(batch: list[Event]) -> None:
        raise AssertionError(batch)

    async with provider(answer) as (port, _):
        asked = msgspec.structs.replace(call(port), limits=TimeLimits(5, 0.3, 5, 20))
        with pytest.raises(DispatchError) as raised:
            await dispatcher.stream(asked, sink)
    assert raised.value.reason is Reason.FIRST_TOKEN_TIMEOUT
    assert raised.value.attempts[0].first_token_time is None


async def test_the_answer_has_the_providers_id_however_it_begins(dispatcher: Dispatcher) -> None:
    """A comment before the first event, in a read of its own, does not make up an id."""
    proceed = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"10\r\n: PROCESSING...\n\r\n")
        await writer.drain()
        await proceed.wait()
        body = b'data: {"id":"theirs","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        await writer.drain()

    batches: list[list[Event]] = []

    async def sink(batch: list[Event]) -> None:
        batches.append(batch)

    async with provider(answer) as (port, _):
        running = asyncio.ensure_future(dispatcher.stream(call(port), sink))
        for _ in range(50):
            await asyncio.sleep(0)
        proceed.set()
        await running
    assert isinstance(batches[0][0], Started)
    assert batches[0][0].response_id == "theirs"


@pytest.mark.parametrize("status", [b"202 Accepted", b"204 No Content", b"206 Partial Content", b"304 Not Modified"])
async def test_a_success_that_is_no_answer_is_a_protocol_error(dispatcher: Dispatcher, status: bytes) -> None:
    """Only 200 and 201 bring an answer."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with provider(answer) as (port, _):
        with pytest.raises(DispatchError) as raised:
            await dispatcher.generate(call(port, stream=False))
    assert raised.value.reason is Reason.PROVIDER_PROTOCOL_ERROR
    assert raised.value.upstream_status == int(status[:3])


async def test_odd_bytes_in_a_request_id_cost_nothing_but_the_id(dispatcher: Dispatcher) -> None:
    """An id that is not printable is left out, and the answer stays one."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.replace(b"\r\n\r\n", b"\r\nX-Request-Id: a\xff\xfeb\r\n\r\n") + frame("a", finish=True))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with provider(answer) as (port, _):
        events = await dispatcher.generate(call(port, stream=False))
    assert isinstance(events[-1], Finished)
    assert events[-1].receipt.attempts[0].upstream_request_id == ""
