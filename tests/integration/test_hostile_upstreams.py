from __future__ import annotations

import asyncio
import functools
import gzip
import itertools
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil
import pytest
from google.protobuf import json_format
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import AsyncClient, KeyswitchError
from support import EGRESS, ServerProcess, server_process

MEBIBYTE = 1024 * 1024
SECONDS = {"connectTimeout": "1s", "firstTokenTimeout": "1s", "idleTimeout": "1s", "totalTimeout": "3s"}
TOTAL = 3.0

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
SSE = b"content-type: text/event-stream\r\n"
JSON = b"content-type: application/json\r\n"
EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
WHOLE = b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}'
LAST = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def pour(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a piece again and again, until the other side leaves."""
    while True:
        writer.write(piece)
        await writer.drain()


async def for_ever(reader: asyncio.StreamReader) -> None:
    """Keep the connection open until the other side leaves."""
    while await reader.read(65536):
        pass


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: drop what was not sent
    writer.transport.abort()


ACTS: dict[str, Act] = {}


def act(function: Act) -> Act:
    ACTS[function.__name__.replace("_", "-")] = function
    return function


def says(name: str, *pieces: bytes, stay: bool = False) -> None:
    """Add a server that sends something and closes, or stays."""

    async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        if stay:
            await for_ever(reader)

    ACTS[name] = said


def pours(name: str, head: bytes, piece: bytes, *, chunked: bool = True) -> None:
    """Add a server that begins, and then sends one thing without end."""

    async def poured(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await pour(writer, chunk(piece) if chunked else piece)

    ACTS[name] = poured


EMPTY = b"\r\n"
BLOCK = 64 * 1024
says("stall-before-headers", stay=True)
says("stall-in-headers", OK + JSON, stay=True)
says("stall-before-the-body", OK + SSE + CHUNKED + EMPTY, stay=True)
says("stall-in-the-middle", OK + SSE + CHUNKED + EMPTY + chunk(EVENT), stay=True)
says("half-a-status-line", b"HTTP/1.1 20", stay=True)
says("half-a-status-line-cut", b"HTTP/1.1 20")
says("http-0.9", b"<html>hello</html>\r\n\r\n")
says("noise", bytes(range(256)) * 16)
says("closed-at-once")
says("html-with-200", OK + b"content-type: text/html\r\ncontent-length: 15\r\n\r\n<html>no</html>")
says("no-content-type", OK + b"content-length: 5\r\n\r\nhello")
says("image", OK + b"content-type: image/png\r\ncontent-length: 8\r\n\r\n\x89PNG\r\n\x1a\n")
says(
    "error-in-200",
    OK + JSON + CHUNKED + EMPTY + chunk(b'{"error":{"message":"overloaded","type":"server_error"}}') + b"0\r\n\r\n",
)
says("truncated-chunk", OK + SSE + CHUNKED + EMPTY + b"fff\r\n" + EVENT)
says("bad-chunk-size", OK + SSE + CHUNKED + EMPTY + b"zz\r\n" + EVENT)
says("negative-chunk-size", OK + SSE + CHUNKED + EMPTY + b"-5\r\n" + EVENT)
says("too-short", OK + JSON + b"content-length: 4000\r\n\r\n" + WHOLE)
says("two-lengths", OK + JSON + b"content-length: 5\r\ncontent-length: 9\r\n\r\n" + WHOLE)
says("bad-length", OK + JSON + b"content-length: -1\r\n\r\n" + WHOLE)
says("length-and-chunks", OK + JSON + CHUNKED + b"content-length: 5\r\n\r\n" + chunk(WHOLE) + b"0\r\n\r\n")
says("redirect", b"HTTP/1.1 302 Found\r\nlocation: /v1/elsewhere\r\ncontent-length: 0\r\n\r\n")
says(
    "redirect-to-itself",
    b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/chat/completions\r\ncontent-length: 0\r\n\r\n",
)
says(
    "redirect-abroad",
    b"HTTP/1.1 308 Permanent Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
)
says("switching-protocols", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", stay=True)
says("folded-header", OK + JSON + b"x-a: b\r\n c\r\n\x00: d\r\n\r\n" + WHOLE)
says("huge-header", OK + b"x-huge: " + b"a" * (8 * MEBIBYTE) + EMPTY)
pours("many-headers", OK, b"x-many: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1000, chunked=False)
pours("header-without-end", OK + b"x-endless: ", b"a" * BLOCK, chunked=False)
pours("status-line-without-end", b"HTTP/1.1 200 ", b"a" * BLOCK, chunked=False)
pours("interim-answers", b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 1000, chunked=False)
pours("endless-line", OK + SSE + CHUNKED + EMPTY, b"data: " + b"a" * BLOCK)
pours("endless-event", OK + SSE + CHUNKED + EMPTY, (b"data: " + b"a" * 1000 + b"\n") * 64)
pours("endless-comments", OK + SSE + CHUNKED + EMPTY, b": keep-alive\n\n" * 1000)
pours("endless-blank", OK + JSON + CHUNKED + EMPTY, b" " * BLOCK)
pours("chunk-extension-without-end", OK + SSE + CHUNKED + EMPTY + b"1;", b"a" * BLOCK, chunked=False)
pours("trailers-without-end", OK + SSE + CHUNKED + EMPTY + chunk(EVENT) + b"0\r\n", b"x-a: b\r\n" * 1000, chunked=False)
pours("refusal-without-end", b"HTTP/1.1 429 No\r\n" + JSON + CHUNKED + EMPTY, b'{"error": "' + b"a" * BLOCK)


@functools.cache
def bomb(kind: str) -> bytes:
    """Return 64 MiB of events in a hundred KiB, or in next to nothing where it is packed twice."""
    packer = zlib.compressobj(9, wbits=31 if kind != "deflate" else 15)
    lines = (b"data: " + b" " * 1000 + b"\n") * 1024
    packed = b"".join(packer.compress(lines) for _ in range(64)) + packer.flush()
    return gzip.compress(packed) if kind == "nested" else packed


for kind, encoding in (("gzip", b"gzip"), ("deflate", b"deflate"), ("nested", b"gzip, gzip")):

    async def bombs(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str = kind, encoding: bytes = encoding
    ) -> None:
        body = bomb(kind)
        writer.write(OK + SSE + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (encoding, len(body)))
        writer.write(body)
        await writer.drain()

    ACTS[f"{kind}-bomb"] = bombs


@act
async def byte_drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + SSE + CHUNKED + EMPTY)
    for byte in itertools.cycle(EVENT):
        writer.write(chunk(bytes([byte])))
        await writer.drain()
        await asyncio.sleep(0.02)


@act
async def drip_of_a_status_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in itertools.chain(OK, b"x-a: ", itertools.repeat(97)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


@act
async def reset_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


@act
async def reset_in_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + SSE)
    await writer.drain()
    reset(writer)


@act
async def reset_after_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + SSE + CHUNKED + EMPTY)
    await writer.drain()
    reset(writer)


@act
async def reset_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + SSE + CHUNKED + EMPTY + chunk(EVENT))
    await writer.drain()
    await asyncio.sleep(0)
    reset(writer)


class Upstream:
    """A provider whose behaviour is the key that it is called with."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.open = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                await reader.readexactly(int(length[1]) if length else 0)
                name = (re.search(rb"act-([a-z0-9.-]+)", head) or [b"", b""])[1].decode()
                self.requests.append(name)
                await ACTS[name](reader, writer)
                if name not in KEPT:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()


KEPT = {"sends-two-answers", "sends-another-answer-later", "sends-a-part-of-another", "honest"}
"""Servers that keep the connection for another request."""


def answer(text: bytes) -> bytes:
    body = WHOLE.replace(b'"Hi"', b'"%b"' % text)
    return OK + JSON + b"content-length: %d\r\n\r\n" % len(body) + body


later = asyncio.Event()
"""Lets servers go on that wait until their connection is idle."""


@act
async def sends_another_answer_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"first"))
    await later.wait()
    writer.write(answer(b"smuggled"))


@act
async def sends_a_part_of_another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"first"))
    await later.wait()
    writer.write(b"HTTP/1.1 200 OK\r\nx-smuggled: ")


says("sends-two-answers", answer(b"first") + answer(b"smuggled"))
says("honest", answer(b"honest"))


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    running = Upstream()
    for kind in ("gzip", "deflate", "nested"):  # which takes a while
        bomb(kind)
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0, limit=1 << 20)
    async with server:
        running.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
        yield running


@pytest.fixture(scope="module")
async def exposed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": upstream.url}
    async with server_process(tmp_path_factory.mktemp("exposed"), env) as own:
        yield own


@pytest.fixture(scope="module")
async def caller(exposed: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(exposed.address, retries=False, timeout=20) as client:
        yield client


async def ask(client: AsyncClient, name: str, *, stream: bool, dialect: str = "openai-chat") -> str:
    """Call a provider that behaves in some way; return why that failed."""
    request = json_format.ParseDict({"limits": {**SECONDS, "maxAttempts": 1}}, pb.GenerateRequest())
    arguments = {
        "provider": "sandbox",
        "model": "sandbox/m",
        "dialect": dialect,
        "credentials": {"sandbox": f"act-{name}"},
    }
    try:
        if stream:
            await client.stream(messages="x", request=request, **arguments).final()  # type: ignore[arg-type]
        else:
            await client.generate(messages="x", request=request, **arguments)  # type: ignore[arg-type]
    except KeyswitchError as error:
        return error.reason
    return "OK"


SILENT, IDLE, TOTAL_LIMIT = "FIRST_TOKEN_TIMEOUT", "IDLE_TIMEOUT", "TOTAL_TIMEOUT"
GONE, CUT, NONSENSE = "PROVIDER_UNAVAILABLE", "STREAM_TRUNCATED", "PROVIDER_PROTOCOL_ERROR"
EITHER = f"{CUT} or {NONSENSE}"
"""Depends on what the network delivers at once: whether the answer had begun when it went wrong."""

ENDINGS = {  # of a whole answer, and of a stream where that ends otherwise
    "stall-before-headers": (SILENT,),
    "stall-in-headers": (SILENT,),
    "stall-before-the-body": (SILENT,),
    "stall-in-the-middle": (IDLE,),
    "half-a-status-line": (SILENT,),
    "half-a-status-line-cut": (GONE,),
    "drip-of-a-status-line": (SILENT,),
    "byte-drip": (TOTAL_LIMIT, SILENT),  # a whole answer has begun with its first byte
    "http-0.9": (NONSENSE,),
    "noise": (NONSENSE,),
    "closed-at-once": (GONE,),
    "html-with-200": (NONSENSE,),
    "no-content-type": (NONSENSE, CUT),
    "image": (NONSENSE, CUT),
    "error-in-200": (GONE,),
    "truncated-chunk": (CUT,),
    "bad-chunk-size": (NONSENSE,),
    "negative-chunk-size": (NONSENSE,),
    "too-short": (CUT, "OK"),  # what came is a complete answer, which a stream may end with
    "two-lengths": (NONSENSE,),
    "bad-length": (NONSENSE,),
    "length-and-chunks": (NONSENSE,),
    "redirect": (NONSENSE,),
    "redirect-to-itself": (NONSENSE,),
    "redirect-abroad": (NONSENSE,),
    "switching-protocols": (NONSENSE,),
    "folded-header": (NONSENSE,),
    "huge-header": (NONSENSE,),
    "many-headers": (NONSENSE,),
    "header-without-end": (NONSENSE,),
    "status-line-without-end": (NONSENSE,),
    "interim-answers": (SILENT,),
    "endless-line": (NONSENSE,),
    "endless-event": (NONSENSE,),
    "endless-comments": (NONSENSE, SILENT),
    "endless-blank": (NONSENSE, SILENT),
    "chunk-extension-without-end": (SILENT,),
    "trailers-without-end": (EITHER,),
    "refusal-without-end": ("PROVIDER_RATE_LIMITED",),
    "gzip-bomb": (NONSENSE,),
    "deflate-bomb": (NONSENSE,),
    "nested-bomb": (CUT,),  # packed twice it is no encoding that was offered, and is not unpacked
    "reset-at-once": (GONE,),
    "reset-in-headers": (GONE,),
    "reset-after-headers": (CUT,),
    "reset-in-the-middle": (CUT,),
}
COSTLY = {"interim-answers": 256}
"""MiB of those that may take more than 64: each interim answer is parsed, however many there are."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ENDINGS)
async def test_a_hostile_provider_ends_in_its_error_in_time_and_within_memory(
    upstream: Upstream, exposed: ServerProcess, caller: AsyncClient, name: str, stream: bool
) -> None:
    """Each has one typed error, ends within the call's total limit, costs little memory, and has its connection closed."""
    process = psutil.Process(exposed.process.pid)
    before, began = process.memory_info().rss, time.monotonic()
    reason = await ask(caller, name, stream=stream)
    taken, grown = time.monotonic() - began, process.memory_info().rss - before
    print(f"{name}: {reason}, {taken:.1f} s, {grown / MEBIBYTE:+.1f} MiB")
    assert reason in ENDINGS[name][-1 if stream else 0].split(" or ")
    assert taken < TOTAL + 1
    assert grown < COSTLY.get(name, 64) * MEBIBYTE
    async with asyncio.timeout(5):
        while upstream.open:
            await asyncio.sleep(0.01)


def test_every_hostile_provider_has_its_ending() -> None:
    """No server of this file is left out of the table."""
    assert ENDINGS.keys() == ACTS.keys() - KEPT


FRAMINGS = {
    "openai-chat": (SSE, b"data: ", b"a"),
    "openai-responses": (SSE, b"data: ", b"a"),
    "anthropic-messages": (SSE, b"event: ", b"a"),
    "vertex-rawpredict": (SSE, b"data: ", b"a"),
    "gemini": (SSE, b"data: ", b"a"),
    "gemini as an array": (JSON, b'[{"a":"', b"a"),
    "cohere-v2": (SSE, b"data: ", b"a"),
    "ollama": (b"content-type: application/x-ndjson\r\n", b'{"a":"', b"a"),
    "bedrock-converse": (b"content-type: application/vnd.amazon.eventstream\r\n", b"", b"\x00\xff\xff\xff"),
    "bedrock-invoke": (b"content-type: application/vnd.amazon.eventstream\r\n", b"", b"\x00\xff\xff\xff"),
}


@pytest.mark.parametrize("dialect", FRAMINGS)
async def test_a_frame_without_end_is_cut_off_in_every_framing(
    exposed: ServerProcess, caller: AsyncClient, dialect: str
) -> None:
    """An event, line, object or message that does not end is PROVIDER_PROTOCOL_ERROR long before memory runs out."""
    head, begin, piece = FRAMINGS[dialect]
    pours("frame-without-end", OK + head + CHUNKED + EMPTY + chunk(begin or piece), piece * (BLOCK // len(piece)))
    process = psutil.Process(exposed.process.pid)
    before = process.memory_info().rss
    reason = await ask(caller, "frame-without-end", stream=True, dialect=dialect.partition(" ")[0])
    del ACTS["frame-without-end"]
    assert reason == NONSENSE
    assert process.memory_info().rss - before < 64 * MEBIBYTE


@pytest.mark.parametrize("name", ["sends-two-answers", "sends-another-answer-later", "sends-a-part-of-another"])
async def test_bytes_that_follow_an_answer_are_nobody_elses_answer(
    upstream: Upstream, caller: AsyncClient, name: str
) -> None:
    """What a provider sends on an idle connection reaches no later caller."""
    later.clear()
    arguments = {"provider": "sandbox", "model": "sandbox/m", "messages": "x", "max_attempts": 1}
    first = await caller.generate(credentials={"sandbox": f"act-{name}"}, **arguments)  # type: ignore[arg-type]
    assert first.text == "first"
    later.set()
    for _ in range(5):  # the server's loop has turned by then, and has what was sent
        assert await caller.health() == "SERVING"
    for _ in range(3):
        answered = await caller.generate(credentials={"sandbox": "act-honest"}, **arguments)  # type: ignore[arg-type]
        assert answered.text == "honest"


async def test_an_error_of_a_megabyte_keeps_its_code_a_thousand_times(caller: AsyncClient) -> None:
    """However long an upstream's error is, its status arrives as what it is: details stay below what gRPC would lose."""
    body = b'{"error":{"message":"%b","type":"%b","code":"%b"}}' % (b"m" * MEBIBYTE, b"t" * 5000, b"c" * 5000)
    says("an-error-of-a-megabyte", b"HTTP/1.1 404 No\r\n" + JSON + b"content-length: %d\r\n\r\n" % len(body) + body)
    says(
        "a-long-error",
        b"HTTP/1.1 404 No\r\n"
        + JSON
        + b"content-length: 20042\r\n\r\n"
        + b'{"error":{"message":"\xc3\xa9'
        + b"\xc3\xa9" * 10_000
        + b'","code":"c"}}\n\n\n',
    )
    reasons = set()
    for first in range(0, 1000, 20):
        name = "a-long-error" if first % 40 else "an-error-of-a-megabyte"
        reasons |= set(await asyncio.gather(*(ask(caller, name, stream=bool(number % 2)) for number in range(20))))
    del ACTS["an-error-of-a-megabyte"], ACTS["a-long-error"]
    assert reasons == {"MODEL_NOT_FOUND"}
