"""How much a provider may send, at each place where it could send without end; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.dispatch import Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import Event
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.registry import load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

MIB = 1024 * 1024
SSE, JSON, NDJSON, AWS = (
    "text/event-stream",
    "application/json",
    "application/x-ndjson",
    "application/vnd.amazon.eventstream",
)


def head(kind: str, *more: str) -> bytes:
    """Return the head of an answer whose body ends with its connection."""
    return "\r\n".join(("HTTP/1.1 200 OK", f"Content-Type: {kind}", "Connection: close", *more, "", "")).encode()


def repeated(piece: bytes, mebibytes: int) -> Iterable[bytes]:
    """Return a body of so many MiB, made as it is sent."""
    return (piece * (MIB // len(piece)) for _ in range(mebibytes))


def bomb(piece: bytes, mebibytes: int) -> Iterable[bytes]:
    """Return a small body that unpacks to so many MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for part in repeated(piece, mebibytes):
        yield packer.compress(part)
    yield packer.flush()


CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
PRELUDE = struct.pack(">II", 25 * MIB, 0)
CASES: dict[str, tuple[str, bool, Callable[[], Iterable[bytes]]]] = {
    "one header": ("openai-chat", True, lambda: [head(SSE, "X-Long: " + "x" * (65 * 1024))]),
    "many headers": ("openai-chat", True, lambda: [head(SSE, *(f"X-{number}: {'x' * 60000}" for number in range(200)))]),
    "the status line": ("openai-chat", True, lambda: [b"HTTP/1.1 200 " + b"x" * (65 * 1024) + b"\r\n\r\n"]),
    "one line of events": ("openai-chat", True, lambda: [head(SSE), b"data: ", *repeated(b"x", 20)]),
    "one event": ("openai-chat", True, lambda: [head(SSE), *repeated(b"data: " + b"x" * 1018 + b"\n", 20)]),
    "one line of NDJSON": ("ollama", True, lambda: [head(NDJSON), b'{"a": "', *repeated(b"x", 20)]),
    "one message of AWS": (
        "bedrock-converse", True, lambda: [head(AWS), PRELUDE + struct.pack(">I", zlib.crc32(PRELUDE)), *repeated(b"x", 26)]
    ),
    "a whole answer": ("openai-chat", False, lambda: [head(JSON), b'{"a": "', *repeated(b"x", 40)]),
    "a whole answer, packed": ("openai-chat", False, lambda: [head(JSON, "Content-Encoding: gzip"), *bomb(b" ", 200)]),
    "a stream, packed": ("openai-chat", True, lambda: [head(SSE, "Content-Encoding: gzip"), *bomb(b"\n", 200)]),
    "comments, packed": ("openai-chat", True, lambda: [head(SSE, "Content-Encoding: gzip"), *bomb(b": x\n", 200)]),
    "events, deflated": (
        "openai-chat", True, lambda: [head(SSE, "Content-Encoding: deflate"), zlib.compress(CHUNK * (40 * MIB // len(CHUNK)))]
    ),
}  # fmt: skip
"""What is without end: the dialect, whether it is streamed, and what is sent."""


@contextlib.asynccontextmanager
async def provider(pieces: Iterable[bytes]) -> AsyncIterator[int]:
    """A provider on a raw socket that answers with *pieces* and closes; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]


def call(port: int, dialect: str, *, stream: bool) -> GenerationCall:
    registry = load(base_urls={"sandbox": f"http://127.0.0.1:{port}"})
    route = resolve(
        registry, Target(provider="sandbox", dialect=dialect), [ProviderCredential("sandbox", ApiKey(Secret("k")))]
    )
    generation = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))
    now = asyncio.get_running_loop().time()
    request = write_request(route, generation, stream=stream)
    return GenerationCall(request=request, route=route, limits=TimeLimits(10, 30, 30, 60), received_at=now)


@pytest.mark.parametrize("case", CASES)
async def test_what_has_no_end_is_cut_off(case: str) -> None:
    """It ends in PROVIDER_PROTOCOL_ERROR within memory that does not follow what is sent."""
    dialect, streamed, pieces = CASES[case]
    seen = 0

    async def sink(batch: list[Event]) -> None:
        nonlocal seen
        seen += len(batch)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with provider(pieces()) as port, Egress(EgressPolicy.only(f"http://127.0.0.1:{port}")) as egress:
        dispatcher, asked = Dispatcher(egress), call(port, dialect, stream=streamed)
        with pytest.raises(DispatchError) as raised:
            await (dispatcher.stream(asked, sink) if streamed else dispatcher.generate(asked))
    assert raised.value.reason is Reason.PROVIDER_PROTOCOL_ERROR, raised.value.message
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150 * 1024  # KiB; a whole answer may be 32 MiB, in pieces and joined


async def test_a_packed_answer_within_bounds_is_read() -> None:
    """A provider that packs although it was asked not to is understood."""
    body = CHUNK + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    events: list[Event] = []

    async def sink(batch: list[Event]) -> None:
        events.extend(batch)

    packed = [head(SSE, "Content-Encoding: gzip"), gzip.compress(body)]
    async with provider(packed) as port, Egress(EgressPolicy.only(f"http://127.0.0.1:{port}")) as egress:
        await Dispatcher(egress).stream(call(port, "openai-chat", stream=True), sink)
    assert [type(event).__name__ for event in events][-1] == "Finished"


async def test_an_error_is_read_only_in_part() -> None:
    """Of a refusal without end as much is read as an explanation takes, packed or not."""
    told = json.dumps({"error": {"message": "x" * 200_000}}).encode()
    for more in ([], ["Content-Encoding: gzip"]):
        content = [gzip.compress(told + b" " * 50 * MIB)] if more else [told, *repeated(b" ", 50)]
        refusal = [head(JSON, *more).replace(b"200 OK", b"400 Bad Request"), *content]
        async with provider(refusal) as port, Egress(EgressPolicy.only(f"http://127.0.0.1:{port}")) as egress:
            with pytest.raises(DispatchError) as raised:
                await Dispatcher(egress).generate(call(port, "openai-chat", stream=False))
        assert raised.value.reason is Reason.PROVIDER_REJECTED_REQUEST
        assert len(raised.value.message) < 5000
