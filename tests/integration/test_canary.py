from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import html
import importlib.resources
import ipaddress
import json
import os
import pathlib
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from aiohttp import web
from canaries import canary, found, shown_answer, shown_error
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import target_pb2
from keyswitch_client import AsyncClient, KeyswitchError
from keyswitch_engine.dialects import DIALECTS
from keyswitch_sandbox import Sandbox
from keyswitch_sandbox.journal import key_of
from keyswitch_sandbox.scenarios import SCENARIOS
from support import EGRESS, ServerProcess, http_provider, server_process

PROGRAM = (str(pathlib.Path(__file__).resolve().parents[1] / "planted_server.py"),)
SANDBOXED = sorted(set(SCENARIOS) - {"endless", "huge-line", "gzip-bomb", "echo-request"})
"""Scenarios of the sandbox; not those that are only long, or that say what was sent."""
PLANTED = (
    "plant-exception", "plant-exit", "plant-group", "plant-cancel", "plant-task", "plant-loop", "plant-thread",
    "plant-finalizer", "plant-warning", "plant-log",
)  # fmt: skip
LEAKS = (
    "leak-log", "leak-stderr", "leak-base64", "leak-url", "leak-file", "leak-status", "leak-detail", "leak-trailer",
    "leak-answer",
)  # fmt: skip
ECHOES = (
    "echo-body", "echo-header", "echo-nested", "echo-masked", "echo-encoded", "echo-html", "echo-500", "echo-403",
    "echo-429", "echo-huge", "echo-redirect", "echo-text", "echo-event", "echo-split", "echo-fields",
)  # fmt: skip
"""Ways in which a provider quotes the key that it was sent."""


ASKED: list[str] = []
"""Paths and queries of what the hostile provider was asked."""


def masked(key: str) -> str:
    return f"{key[:14]}…{key[-14:]} and {key[:5]}***{key[-14:]} and {key[:14]}..."


def encoded(key: str) -> str:
    raw = key.encode()
    return " ".join(
        [quote(key, safe=""), quote(quote(key, safe=""), safe=""), html.escape(key), json.dumps(json.dumps(key))]
        + [base64.b64encode(b"u" * offset + raw).decode() for offset in range(3)]
    )


async def hostile(http: web.Request) -> web.StreamResponse:
    """Quote the key back, in the way that the model names."""
    body = await http.read()
    ASKED.append(http.path_qs)
    key = key_of(http.headers).removeprefix("Bearer ")
    named = re.search(r"(echo|hang)-[a-z0-9]+", f"{http.path} {body.decode()}")
    way = named[0] if named else ""
    error = {"error": {"message": f"Incorrect API key provided: {key}", "type": key, "code": key, "param": key}}
    match way:
        case "echo-header":
            headers = {
                "x-request-id": key,
                "x-amzn-errortype": key,
                "request-id": key,
                "retry-after": "1",
                "cf-ray": key,
            }
            return web.json_response({"message": "no"}, status=400, headers=headers)
        case "echo-nested":
            inner = {"raw": json.dumps(error), "headers": {"Authorization": [f"Bearer {key}"]}}
            nested = {"error": {"message": json.dumps(inner), "metadata": inner, "details": [{"reason": key}]}}
            return web.json_response(nested, status=400)
        case "echo-masked":
            return web.json_response({"error": {"message": masked(key)}, "message": masked(key)}, status=400)
        case "echo-encoded":
            return web.json_response({"error": {"message": encoded(key)}, "message": encoded(key)}, status=400)
        case "echo-html":
            return web.Response(text=f"<h1>{html.escape(key)}</h1>", content_type="text/html")
        case "echo-500" | "echo-403" | "echo-429":
            return web.json_response(error | {"message": key, "__type": key}, status=int(way[-3:]))
        case "echo-huge":
            return web.json_response({"error": {"message": f"{key} " * 20_000}}, status=400)
        case "echo-redirect":
            return web.Response(status=307, headers={"location": f"https://example.com/{quote(key, safe='')}"})
        case "echo-text":
            return web.Response(text=f"{key}\n{encoded(key)}", headers={"content-type": f'text/plain; a="{bare(key)}"'})
        case "echo-event" | "echo-split":
            text = f"event: error\ndata: {json.dumps(error | {'message': key})}\n\n".encode()
            response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": key})
            await response.prepare(http)
            half = text.index(key[:10].encode()) + 7
            for piece in (text[:half], text[half:]) if way == "echo-split" else (text,):
                await response.write(piece)
                await asyncio.sleep(0)
            return response
        case "echo-fields":  # an answer in chat completions; nonsense in other dialects
            choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": key}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "for": key}
            answer = {"id": key, "model": key, "choices": [choice], "usage": usage, "system_fingerprint": key}
            return web.json_response(answer, headers={"x-request-id": encoded(key)[:200]})
        case "hang-body":
            response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": key})
            await response.prepare(http)
            await asyncio.Event().wait()
    return web.json_response(error | {"message": f"bad {key}", "__type": key}, status=401)


def bare(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", key)


def certificate(folder: pathlib.Path, name: str, host: str, issuer: Any = None) -> tuple[ssl.SSLContext, Any]:
    """Return a server's context with a certificate for *host*, by an issuer or by itself, and what issues more."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    now = dt.datetime.now(tz=dt.UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1)).add_extension(x509.SubjectAlternativeName([alternative]), False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True).sign(signer, hashes.SHA256())
    )  # fmt: skip
    pem, private = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context, (subject, key)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a connection and say nothing, not even TLS."""
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


@contextlib.asynccontextmanager
async def listening(context: ssl.SSLContext | None) -> AsyncIterator[str]:
    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


class Running(NamedTuple):
    """A server with all its providers, and where everything that it writes is."""

    server: ServerProcess
    folder: pathlib.Path
    env: dict[str, str]


@contextlib.asynccontextmanager
async def everything(sandbox: Sandbox, folder: pathlib.Path) -> AsyncIterator[Running]:
    """Run a server whose providers fail in all ways there are."""
    row = importlib.resources.files("keyswitch_engine").joinpath("providers/sandbox.toml").read_text()
    for name in ("rows", "tmp", "home", "tls"):
        (folder / name).mkdir()
    unknown, _ = certificate(folder / "tls", "unknown", "127.0.0.1")
    _, root = certificate(folder / "tls", "root", "root.example")
    other, _ = certificate(folder / "tls", "other", "other.example", root)
    async with (
        http_provider(hostile) as echoing, listening(unknown) as untrusted, listening(other) as elsewhere,
        listening(None) as mute,
    ):  # fmt: skip
        places = {"hostile": echoing, "untrusted": untrusted, "elsewhere": elsewhere, "mute": mute}
        for name, url in (places | {"refused": "https://127.0.0.1:1"}).items():
            lines = [
                line for line in row.splitlines() if not re.match("vendor_token|default_model|models|matchers", line)
            ]
            own = "\n".join(lines).replace('"sandbox"', f'"{name}"', 1).replace('"http://127.0.0.1:50552"', f'"{url}"')
            (folder / "rows" / f"{name}.toml").write_text(own)
        env = {
            **EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_LOG_LEVEL": "debug",
            "KEYSWITCH_PROVIDERS": json.dumps([str(folder / "rows")]), "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "home"), "SSL_CERT_FILE": str(folder / "tls" / "root.pem"),
        }  # fmt: skip
        async with server_process(folder, env, program=PROGRAM) as server:
            yield Running(server, folder, env)


def limited(**seconds: float) -> pb.GenerateRequest:
    request = pb.GenerateRequest()
    for name, value in seconds.items():
        getattr(request.limits, f"{name}_timeout").CopyFrom(Duration(nanos=int(value * 1e9)))
    return request


async def told(client: AsyncClient, provider: str, model: str, dialect: str, *, stream: bool, **more: Any) -> list[str]:
    """Make a call with a key of its own, and return everything by which its caller could see that key."""
    arguments: dict[str, Any] = {
        "provider": provider, "model": model, "dialect": dialect, "messages": "a b c d",
        "credentials": {provider: more.pop("key", None) or canary()}, "timeout": 20.0, **more,
    }  # fmt: skip
    try:
        answer = await (client.stream(**arguments).final() if stream else client.generate(**arguments))
    except (KeyswitchError, ValueError) as error:
        del arguments
        return [*shown_error(error)]
    return [*shown_answer(answer)]


def failures(dialect: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every failure: the provider, the model, and what else the call asks for."""
    for scenario in SANDBOXED:
        yield "sandbox", f"sandbox/{scenario}", {"timeout": 0.6} if scenario.startswith("stall") else {}
    yield from (("hostile", way, {"max_attempts": 1}) for way in ECHOES)
    yield from ((name, "echo-body", {"timeout": 0.6}) for name in ("untrusted", "elsewhere", "mute", "refused"))
    yield "mute", "connect", {"request": limited(connect=0.3, first_token=0.3, idle=0.3, total=0.4)}
    yield "sandbox", "sandbox/stall", {"request": limited(first_token=0.3)}
    yield "hostile", "hang-body", {"request": limited(first_token=0.3)}
    yield "sandbox", "sandbox/stall-mid-stream", {"request": limited(idle=0.3)}
    yield "sandbox", "sandbox/slow", {"request": limited(total=0.1)}
    yield "sandbox", "sandbox/no-such-model", {}
    yield "sandbox", "sandbox/rate-limited", {"max_attempts": 2, "timeout": 0.6}
    fallback = target_pb2.Target(provider="hostile", model="echo-429", dialect=dialect)
    own = {"sandbox": canary(), "hostile": canary()}
    yield "sandbox", "sandbox/overloaded", {"max_attempts": 2, "fallbacks": [fallback], "credentials": own}
    for bad in ("\r\nX-Injected: 1", "\0", "\t", "é", " ", "x" * 4096):
        yield "sandbox", "sandbox/echo", {"key": canary() + bad}


async def cancelled(client: AsyncClient, provider: str, model: str, dialect: str, events: int) -> list[str]:
    """Leave a stream after some events, or while it cannot be written since nobody reads; return what its objects show."""
    stream = client.stream(
        provider=provider, model=model, dialect=dialect, credentials={provider: canary()}, messages="a b c d"
    )
    shown: list[str] = []
    try:
        async with asyncio.timeout(0.5), stream:
            async for _ in stream.messages():
                if events <= 0:
                    await asyncio.Event().wait()
                events -= 1
    except (TimeoutError, KeyswitchError) as error:
        shown += shown_error(error)
    return [*shown, repr(stream), repr(stream._call), str(vars(stream))]


async def everything_told(client: AsyncClient) -> tuple[list[str], int]:
    """Drive every dialect through every failure; return what their callers saw, and how many calls that were."""
    shown: list[str] = []
    made = 0
    for dialect in DIALECTS:
        calls = [
            told(client, provider, model, dialect, stream=stream, **dict(more))
            for stream in (False, True)
            for provider, model, more in failures(dialect)
        ]
        for provider, model, events in (
            ("sandbox", "sandbox/stall", 9), ("hostile", "hang-body", 9), ("sandbox", "sandbox/stall-mid-stream", 9),
            ("sandbox", "sandbox/endless", 0),
        ):  # fmt: skip
            calls.append(cancelled(client, provider, model, dialect, events))
        results = await asyncio.gather(*calls)
        made += len(results)
        assert all(results)
        shown += [text for result in results for text in result]
    for way in PLANTED:
        shown += await told(client, "sandbox", way, "", stream=False)
    return shown, made + len(PLANTED)


async def commanded(running: Running, *arguments: str, provider: str = "hostile") -> list[str]:
    """Run a command with a key, and return what it printed."""
    env = {**os.environ, **running.env, "A_KEY": canary(), "KEYSWITCH_SERVER": running.server.address}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyswitch_cli", *arguments, "--api-key", f"{provider}=env:A_KEY",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env,
    )  # fmt: skip
    out, err = await process.communicate()
    assert out or err
    return [out.decode(), err.decode()]


COMMANDS: Sequence[tuple[str, ...]] = (
    ("generate", "hi", "-p", "hostile", "-m", "echo-body", "-v"),
    ("generate", "hi", "-p", "hostile", "-m", "echo-encoded", "-v", "--no-stream"),
    ("generate", "hi", "-p", "hostile", "-m", "echo-fields", "--json", "--no-stream"),
    ("generate", "hi", "-p", "hostile", "-m", "plant-exception", "--no-stream"),
    ("explain", "-p", "hostile", "-m", "x", "--body", "--json"),
    ("explain", "-p", "hostile", "-m", "x", "--body", "--offline"),
)


def written(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yield every file that anything wrote, the server's log among them."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file), file.read_text("utf-8", "replace")


def in_log(running: Running, event: str) -> int:
    return running.server.log.read_text().count(f'"event":"{event}"')


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells of."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_key_is_found_nowhere(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Whatever goes wrong in whatever dialect, no log, file, status, message, exception or command has the key."""
    async with everything(sandbox, tmp_path) as running:
        async with AsyncClient(running.server.address) as client:
            shown, made = await everything_told(client)
            shown += [repr(client), str(vars(client))]
        for printed in await asyncio.gather(*(commanded(running, *arguments) for arguments in COMMANDS)):
            shown += printed
    hits = [hit for text in shown for hit in found("shown", text)]
    hits += [hit for url in ASKED for hit in found("url", url)]
    hits += [hit for file, text in written(tmp_path) for hit in found(file, text)]
    assert not hits, f"{len(hits)} hits, first of all {hits[:5]}"
    assert made > len(DIALECTS) * 2 * 50
    assert len(ASKED) > len(DIALECTS) * 2 * len(ECHOES)
    assert in_log(running, "call") > made * 0.98  # few are left so soon that they never come to a handler
    assert in_log(running, "incident") >= 4  # of the handlers that fail
    assert in_log(running, "library message") >= 5  # of tasks, threads, finalizers, warnings and libraries


@pytest.mark.parametrize("way", LEAKS)
async def test_a_leak_is_found(leaking: Running, way: str) -> None:
    """The search finds a key that does leak, through each way out by itself."""
    async with AsyncClient(leaking.server.address) as client:
        before = dict(written(leaking.folder))
        shown = await told(client, "sandbox", way, "", stream=False)
        await eventually(lambda: in_log(leaking, "call") > before[str(leaking.server.log)].count('"event":"call"'))
    hits = [hit for text in shown for hit in found("shown", text)]
    for file, text in written(leaking.folder):
        hits += found(file, text.removeprefix(before.get(file, "")))
    assert hits


@pytest.fixture(scope="module")
async def leaking(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("leaking")
    async with everything(sandbox, folder) as running:
        yield running
