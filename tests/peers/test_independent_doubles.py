"""Doubles of providers that others wrote, driven through gRPC in every dialect that they speak."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import event_pb2
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch_engine import registry
from support import EGRESS, server_process

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "peers"
ROWS = pathlib.Path(registry.__file__).parent / "providers"
TEXT = "The quick brown fox jumps over the lazy dog near the river bank today."

# provider, dialect, where llmock has it
LLMOCK = [
    ("openai", "openai-chat", "/v1"),
    ("openai", "openai-responses", "/v1"),
    ("anthropic", "anthropic-messages", "/anthropic/v1"),
    ("gemini", "gemini", "/gemini/v1beta"),
    ("cohere", "cohere-v2", "/cohere"),
    ("mistral", "openai-chat", "/mistral/v1"),
    ("groq", "openai-chat", "/groq/openai/v1"),
    ("together", "openai-chat", "/together/v1"),
    ("perplexity", "openai-chat", "/perplexity/v1"),
    ("xai", "openai-chat", "/xai/v1"),
]
# provider, dialect, where aimock has it
AIMOCK = [
    ("openai", "openai-chat", "/v1"),
    ("openai", "openai-responses", "/v1"),
    ("anthropic", "anthropic-messages", "/v1"),
    ("gemini", "gemini", "/v1beta"),
    ("bedrock", "bedrock-converse", ""),
    ("cohere", "cohere-v2", ""),
    ("ollama", "ollama", ""),
    ("openrouter", "openai-chat", "/api/v1"),
]


def install(marker: pathlib.Path, *commands: Sequence[str | pathlib.Path], cwd: pathlib.Path) -> None:
    """Run commands unless a run before made *marker*."""
    if not marker.exists():
        for command in commands:
            done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
        marker.touch()


@pytest.fixture(scope="module")
def llmock_command() -> list[str]:
    folder = CACHE / "python"
    requirements = ROOT / "requirements" / "peers.txt"
    install(
        CACHE / "python-ready",
        [sys.executable, "-m", "venv", folder],
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", requirements],
        cwd=ROOT,
    )
    return [str(folder / "bin" / "llmock"), "serve", "--host", "127.0.0.1", "--log-level", "error"]


@pytest.fixture(scope="module")
def aimock_command() -> list[str]:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine")
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(pathlib.Path(__file__).parent / name, folder / name)
    install(CACHE / "node-ready", ["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder)
    return [str(folder / "node_modules" / ".bin" / "llmock"), "--host", "127.0.0.1", "--log-level", "silent"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(command: list[str], *arguments: str) -> AsyncIterator[str]:
    """Start a double, wait until it answers, and stop it in the end."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *command, "--port", str(port), *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(60):
            while True:
                assert process.returncode is None
                try:
                    async with http.get(f"{url}/health") as answer:
                        if answer.status < 500:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def rows_at(folder: pathlib.Path, url: str, places: list[tuple[str, str, str]]) -> pathlib.Path:
    """Write the built-in rows of some providers anew, with the double's address."""
    folder.mkdir()
    for provider, path in {provider: path for provider, _, path in places}.items():
        row = (ROWS / f"{provider}.toml").read_text()
        row = re.sub(r'(?m)^base_url = ".*"$', f'base_url = "{url}{path}"', row)
        row = re.sub(r"(?ms)^\[(parameters|model_listing)\]\n.*?(?=^\[|\Z)", "", row)
        (folder / f"{provider}.toml").write_text(row)
    return folder


@contextlib.asynccontextmanager
async def stub_to(
    folder: pathlib.Path, url: str, places: list[tuple[str, str, str]]
) -> AsyncIterator[DispatchServiceStub]:
    """Start a server whose providers are at a double."""
    rows = rows_at(folder / "rows", url, places)
    async with (
        server_process(folder, {**EGRESS, "KEYSWITCH_PROVIDERS": json.dumps([str(rows)])}) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield DispatchServiceStub(channel)


def request(provider: str, dialect: str, text: str = "hello", key: str = "test-key", **fields: Any) -> dict[str, Any]:
    """Return a request that is tried once, unless its *fields* say otherwise."""
    credential = {"aws": {"bearerToken": {"token": key}}} if provider == "bedrock" else {"apiKey": {"key": key}}
    model = {"perplexity": "sonar", "bedrock": "anthropic.claude-3-5-sonnet-20241022-v2:0"}.get(provider, "some-model")
    return {
        "target": {"provider": provider, "model": model, "dialect": dialect},
        "credentials": [{"provider": provider, "credential": credential}],
        "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": text}}]}],
        **fields,
        "limits": {"maxAttempts": 1, **fields.get("limits", {})},
    }


async def streamed(stub: DispatchServiceStub, body: dict[str, Any]) -> list[event_pb2.Event]:
    call = stub.StreamGenerate(json_format.ParseDict(body, pb.StreamGenerateRequest()), timeout=20)
    return [event async for response in call for event in response.events]


async def whole(stub: DispatchServiceStub, body: dict[str, Any]) -> pb.GenerateResponse:
    return await stub.Generate(json_format.ParseDict(body, pb.GenerateRequest()), timeout=20)


def text_of(events: list[event_pb2.Event]) -> str:
    return "".join(event.block_delta.text for event in events)


def failure_of(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """Return the reason, and the seconds after which a retry makes sense."""
    (data,) = (value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay = None
    for detail in status_pb2.Status.FromString(bytes(data)).details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return info.reason, delay


@pytest.fixture(scope="module")
async def llmock(
    llmock_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[DispatchServiceStub, str]]:
    async with (
        running(llmock_command) as url,
        stub_to(tmp_path_factory.mktemp("llmock"), url, LLMOCK) as stub,
    ):
        yield stub, url


async def behave(url: str, *behaviors: dict[str, Any]) -> None:
    """Tell llmock what to do next."""
    async with aiohttp.ClientSession() as http:
        async with http.delete(f"{url}/_llmock/scenario"):
            pass
        async with http.post(f"{url}/_llmock/scenario", json={"behaviors": behaviors}) as answer:
            assert answer.status < 300, await answer.text()


@pytest.mark.parametrize(("provider", "dialect", "path"), LLMOCK)
async def test_llmock_is_understood_whole_and_streamed(
    llmock: tuple[DispatchServiceStub, str], provider: str, dialect: str, path: str
) -> None:
    """Text comes as it was told to the double, with a stop reason and counts."""
    stub, url = llmock
    await behave(url, {"type": "reply", "text": TEXT, "times": 2})
    events = await streamed(stub, request(provider, dialect))
    assert text_of(events).strip() == TEXT
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_STOP
    response = await whole(stub, request(provider, dialect))
    assert response.message.parts[0].text.text == TEXT
    assert response.finished.usage.reported.output_tokens > 0


TOOL = {
    "function": {"name": "weather", "parametersJsonSchema": '{"type":"object","properties":{"city":{"type":"string"}}}'}
}


@pytest.mark.parametrize(("provider", "dialect", "path"), [row for row in LLMOCK if row[0] != "perplexity"])
async def test_llmock_calls_tools(
    llmock: tuple[DispatchServiceStub, str], provider: str, dialect: str, path: str
) -> None:
    """A call comes with its name and arguments."""
    stub, url = llmock
    await behave(
        url, {"type": "reply", "tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}], "times": 2}
    )
    response = await whole(stub, request(provider, dialect, tools=[TOOL]))
    (call,) = [part.tool_call for part in response.message.parts if part.HasField("tool_call")]
    assert (call.name, json.loads(call.arguments_json)) == ("weather", {"city": "Paris"})
    events = await streamed(stub, request(provider, dialect, tools=[TOOL]))
    assert json.loads("".join(event.block_delta.arguments for event in events)) == {"city": "Paris"}
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_TOOL_CALLS


STATUSES = {
    401: "INVALID_CREDENTIAL",
    402: "INSUFFICIENT_CREDIT",
    403: "CREDENTIAL_NOT_PERMITTED",
    404: "MODEL_NOT_FOUND",
    429: "PROVIDER_RATE_LIMITED",
    500: "PROVIDER_UNAVAILABLE",
    503: "PROVIDER_UNAVAILABLE",
    529: "PROVIDER_OVERLOADED",
}


@pytest.mark.parametrize(("provider", "dialect", "path"), LLMOCK)
async def test_llmock_failures_have_their_reasons(
    llmock: tuple[DispatchServiceStub, str], provider: str, dialect: str, path: str
) -> None:
    """Each status, in each provider's own body, leads to its reason; a delay is passed on."""
    stub, url = llmock
    found = {}
    for status in STATUSES:
        await behave(url, {"type": "fail", "status": status, "retry_after": 3 if status == 429 else None})
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await whole(
                stub, request(provider, dialect, key=f"test-key-{dialect}-{status}")
            )  # a rate limit makes it wait
        found[status], delay = failure_of(raised.value)
        if status == 429:
            assert delay == 3.0
    overloaded = {503: found[503]} if found[503] == "PROVIDER_OVERLOADED" else {}  # by the wording of some bodies
    assert found == STATUSES | overloaded


async def verdict(url: str) -> dict[str, Any]:
    """Return how llmock judges what it was sent since the last reset."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/_llmock/verdict") as answer:
        found: dict[str, Any] = await answer.json()
        return found


@pytest.mark.parametrize(("provider", "dialect", "path"), LLMOCK)
async def test_llmock_finds_nothing_wrong_with_retries(
    llmock: tuple[DispatchServiceStub, str], provider: str, dialect: str, path: str
) -> None:
    """By its verdict Retry-After is waited for, what may pass is tried again, and what cannot is not."""
    stub, url = llmock
    async with aiohttp.ClientSession() as http, http.post(f"{url}/_llmock/reset"):
        pass
    limited = {"type": "fail", "status": 429, "retry_after": 1}
    await behave(url, limited, {"type": "fail", "status": 500}, {"type": "reply", "text": TEXT})
    asked = request(provider, dialect, key=f"retried-{dialect}", limits={"maxAttempts": 3})
    response = await whole(stub, asked)
    assert response.message.parts[0].text.text == TEXT
    statuses = [attempt.upstream_status for attempt in response.finished.receipt.attempts]
    assert statuses == [429, 500, 200]
    for status in (400, 401, 402, 403, 404):
        await behave(url, {"type": "fail", "status": status})
        with pytest.raises(grpc.aio.AioRpcError):
            await whole(stub, request(provider, dialect, f"hello {status}", limits={"maxAttempts": 3}))
    judged = await verdict(url)
    assert (judged["passed"], judged["findings"], judged["calls"], judged["attempts"]) == (True, [], 6, 8)


@pytest.mark.parametrize(("provider", "dialect", "path"), LLMOCK)
@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed", "stall"])
async def test_llmock_streams_that_break_never_finish(
    llmock: tuple[DispatchServiceStub, str], provider: str, dialect: str, path: str, kind: str
) -> None:
    """A stream that is cut off, cut short, damaged or silent after two chunks is told as that."""
    stub, url = llmock
    await behave(
        url,
        {"type": "reply", "text": TEXT},
        {"type": "stream_fault", "kind": kind, "after_chunks": 2, "stall_seconds": 5},
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await streamed(stub, request(provider, dialect, limits={"idleTimeout": "0.5s"}))
    reason, _ = failure_of(raised.value)
    assert reason in {
        "malformed": {"PROVIDER_PROTOCOL_ERROR", "STREAM_TRUNCATED"},
        "stall": {"IDLE_TIMEOUT"},
    }.get(kind, {"STREAM_TRUNCATED"})


@pytest.fixture(scope="module")
async def aimock(
    aimock_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DispatchServiceStub]:
    folder = tmp_path_factory.mktemp("aimock")
    calls = {"toolCalls": [{"name": "weather", "arguments": {"city": "Paris"}}]}
    failures = [
        {"match": {"userMessage": f"fail {status}"}, "response": {"error": {"message": "it failed"}, "status": status}}
        for status in (401, 404, 429, 500)
    ]
    fixtures = [
        *failures,
        {
            "match": {"userMessage": "cut"},
            "response": {"content": TEXT},
            "truncateAfterChunks": 3,
            "chunkSize": 5,
            "latency": 60,
        },
        {"match": {"userMessage": "weather"}, "response": calls},
        {"match": {"userMessage": "hello"}, "response": {"content": TEXT}, "chunkSize": 7},
    ]
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}))
    async with (
        running(aimock_command, "--fixtures", str(folder / "fixtures.json")) as url,
        stub_to(folder, url, AIMOCK) as stub,
    ):
        yield stub


@pytest.mark.parametrize(("provider", "dialect", "path"), AIMOCK)
async def test_aimock_is_understood_whole_and_streamed(
    aimock: DispatchServiceStub, provider: str, dialect: str, path: str
) -> None:
    """Text comes as it stands in the double's fixture."""
    events = await streamed(aimock, request(provider, dialect))
    assert text_of(events) == TEXT
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_STOP
    assert (await whole(aimock, request(provider, dialect))).message.parts[0].text.text == TEXT


@pytest.mark.parametrize(("provider", "dialect", "path"), AIMOCK)
async def test_aimock_calls_tools(aimock: DispatchServiceStub, provider: str, dialect: str, path: str) -> None:
    """A call comes with its name and arguments."""
    events = await streamed(aimock, request(provider, dialect, "weather", tools=[TOOL]))
    assert json.loads("".join(event.block_delta.arguments for event in events)) == {"city": "Paris"}
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_TOOL_CALLS


@pytest.mark.parametrize(("provider", "dialect", "path"), AIMOCK)
async def test_aimock_failures_have_their_reasons(
    aimock: DispatchServiceStub, provider: str, dialect: str, path: str
) -> None:
    """Each status in each provider's body leads to its reason."""
    for status in (401, 404, 429, 500):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await whole(aimock, request(provider, dialect, f"fail {status}", f"test-key-{dialect}-{status}"))
        assert failure_of(raised.value)[0] == STATUSES[status], status


@pytest.mark.parametrize(("provider", "dialect", "path"), AIMOCK)
async def test_aimock_streams_that_are_cut_short_never_finish(
    aimock: DispatchServiceStub, provider: str, dialect: str, path: str
) -> None:
    """A stream without its end is truncated."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await streamed(aimock, request(provider, dialect, "cut"))
    assert failure_of(raised.value)[0] == "STREAM_TRUNCATED"


async def test_aimock_is_understood_whole_through_invoke(aimock: DispatchServiceStub) -> None:
    """InvokeModel's whole answers are read; its streams lack the base64 envelope that AWS puts around each event."""
    response = await whole(aimock, request("bedrock", "bedrock-invoke"))
    assert response.message.parts[0].text.text == TEXT
