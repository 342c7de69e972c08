from __future__ import annotations

import asyncio
import hashlib
import logging
import pathlib
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from canaries import canary, found, shown_error
from client.own_rows import NOBODY, rows_at, with_rows
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import (
    AsyncClient,
    Client,
    Endpoint,
    InvalidRequestError,
    KeyswitchError,
    LocalOptions,
    UnavailableError,
    tls_credentials,
)
from keyswitch_client.local import LocalDispatch
from keyswitch_client.locality import LocalMode
from keyswitch_client.requests import GenerateArguments, build
from keyswitch_sandbox import Sandbox
from support import ServerProcess, server_process

KEYS = {"sandbox": "k"}


@pytest.fixture
async def model_server() -> AsyncIterator[Sandbox]:
    async with Sandbox(model_server=True) as running:
        yield running


@pytest.fixture
def rows(model_server: Sandbox, tmp_path: pathlib.Path) -> LocalOptions:
    return rows_at(tmp_path, model_server.url, "ollama", "lmstudio", "vllm", "llamacpp")


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("ollama/llama3", ""),
        ("ollama/llama3", "ollama"),
        ("lmstudio/qwen3", ""),
        ("vllm/qwen3", "openai-responses"),
        ("llamacpp/qwen3", "anthropic-messages"),
    ],
)
async def test_local_model_servers_need_no_server_and_no_key(
    model_server: Sandbox, rows: LocalOptions, model: str, dialect: str
) -> None:
    """With nobody at the server's address the installation's own rows lead to the machine's own model server."""
    async with AsyncClient(NOBODY, local=rows) as client:
        answer = await client.generate(model=model, dialect=dialect, messages="hi")
        assert (answer.text, answer.receipt.attempts[0].origin_host) == ("hi", model_server.listening)
        assert "sandbox/echo" in [listed.id for listed in await client.provider_models(model.partition("/")[0])]
        async with client.stream(model=model, dialect=dialect, messages="hi there") as stream:
            assert (await stream.final()).text == "hi there"
        (route,) = (await client.explain(model=model, dialect=dialect, messages="hi")).routes
        assert route.origin_host == model_server.listening
    assert {entry.key_sha256 for entry in model_server.journal} == {""}


async def test_the_other_operations_are_made_here_too(rows: LocalOptions) -> None:
    """Embeddings, counts and checks of credentials of a local provider need no server either."""
    async with AsyncClient(NOBODY, local=rows) as client:
        embedded = await client.embed(["one two", "three"], model="ollama/nomic")
        assert [embedding.values[0] for embedding in embedded.embeddings] == [2.0, 1.0]
        assert await client.count_tokens(model="llamacpp/qwen3", messages="one two three") == 3
        checked = await client.validate_credential("vllm", model="qwen3", credentials={"vllm": "k"})
        assert checked.verdict == pb.CREDENTIAL_VERDICT_VALID


def sync_calls(rows: LocalOptions, url: str) -> list[str]:
    """Make calls with the synchronous client, and return what it answers."""
    with Client(NOBODY, local=rows) as client:
        said = [client.generate(model="ollama/llama3", messages="hi").text]
        with client.stream(endpoint=Endpoint(url, "sandbox/echo"), messages="hi there") as stream:
            said.append("".join(stream.text_deltas()))
        with client.stream(model="ollama/llama3", messages="one two") as stream:
            said.append(stream.final().text)
        with pytest.raises(KeyswitchError) as raised:
            client.generate(endpoint=Endpoint(url, "sandbox/bad-key", "k", label="Desk"), messages="hi")
        said.append(raised.value.message)
        assert "keyswitch-local" in [thread.name for thread in threading.enumerate()]
    return said


async def test_the_synchronous_client_does_the_same_and_leaves_no_thread(
    model_server: Sandbox, rows: LocalOptions
) -> None:
    """Its calls run on a loop of their own, whose thread ends with the client."""
    said = await asyncio.to_thread(sync_calls, rows, model_server.url)
    assert said == ["hi", "hi there", "one two", "Invalid API key for Desk"]
    assert "keyswitch-local" not in [thread.name for thread in threading.enumerate()]


async def test_a_server_refuses_what_its_client_would_do(tmp_path: pathlib.Path, model_server: Sandbox) -> None:
    """With `never`, a server of default settings answers BLOCKED_ENDPOINT, says who can do it, and nothing is called."""
    endpoint = Endpoint(model_server.url, "sandbox/echo")
    async with server_process(tmp_path, {}) as own, AsyncClient(own.address, local="never") as client:
        for asked in ({"endpoint": endpoint}, {"model": "ollama/llama3"}):
            with pytest.raises(InvalidRequestError) as raised:
                await client.generate(messages="hi", **asked)  # type: ignore[arg-type] # either of two
            assert (raised.value.reason, raised.value.code) == ("BLOCKED_ENDPOINT", grpc.StatusCode.PERMISSION_DENIED)
            assert raised.value.message.endswith(
                ". An endpoint of your own machine or network is dispatched by your client: the command keyswitch does "
                "that by itself, and the library keyswitch_client with local='auto'"
            )
        with pytest.raises(InvalidRequestError) as raised:
            await client.provider_models("ollama")
        assert raised.value.reason == "BLOCKED_ENDPOINT"
        with pytest.raises(InvalidRequestError) as raised:
            await client.validate_credential("vllm", model="m", credentials={"vllm": "k"})
        assert raised.value.reason == "BLOCKED_ENDPOINT"
    assert not list(model_server.journal)


async def test_what_a_server_leaves_to_its_client_is_made_here(
    tmp_path: pathlib.Path, model_server: Sandbox, rows: LocalOptions
) -> None:
    """After BLOCKED_ENDPOINT a local row is called from here, streamed or whole, and whoever wants to know is told."""
    told: list[str] = []
    options = LocalOptions(providers=rows.providers, notify=told.append)
    (tmp_path / "own").mkdir()
    env = with_rows(rows)
    async with server_process(tmp_path / "own", env) as own, AsyncClient(own.address, local=options) as client:
        assert (await client.generate(model="ollama/llama3", messages="hi")).text == "hi"
        async with client.stream(model="ollama/llama3", messages="hi") as stream:
            assert (await stream.final()).text == "hi"
        note = f"the server does not call local endpoints; dispatched from this machine to {model_server.url}"
        assert told == [note] * 2

        def sync() -> str:
            with Client(own.address, local=options) as client, client.stream(model="ollama/x", messages="hi") as stream:
                return stream.final().text

        assert await asyncio.to_thread(sync) == "hi"
    assert len(list(model_server.journal)) == len(told) == 3


async def test_a_row_that_is_elsewhere_at_the_server_is_not_called_here(
    tmp_path: pathlib.Path, model_server: Sandbox, rows: LocalOptions
) -> None:
    """A key and a conversation for the server's provider go to no other origin: its refusal stands, and says why."""
    told: list[str] = []
    options = LocalOptions(providers=rows.providers, notify=told.append)
    (tmp_path / "theirs").mkdir()
    theirs = rows_at(tmp_path / "theirs", "https://gateway.corp.internal", "ollama", "vllm")
    asked: dict[str, Any] = {"model": "ollama/llama3", "messages": "hi", "credentials": {"ollama": "theirs"}}
    async with server_process(tmp_path, with_rows(theirs)) as own, AsyncClient(own.address, local=options) as client:

        def sync() -> None:
            with Client(own.address, local=options) as client:
                client.generate(**asked)

        for call in (
            lambda: client.generate(**asked),
            lambda: client.stream(**asked).final(),
            lambda: client.embed(["x"], model="ollama/nomic", credentials={"ollama": "theirs"}),
            lambda: client.provider_models("ollama", credentials={"ollama": "theirs"}),
            lambda: client.validate_credential("vllm", model="m", credentials={"vllm": "theirs"}),
            lambda: asyncio.to_thread(sync),
        ):
            with pytest.raises(InvalidRequestError) as raised:
                await call()
            assert raised.value.reason == "BLOCKED_ENDPOINT"
            assert raised.value.origins == ("https://gateway.corp.internal",)
            assert raised.value.hint == (
                f"not dispatched from this machine: its rows lead to {model_server.url}, and the server's to "
                "https://gateway.corp.internal; name an endpoint of your own, or dispatch all from this machine "
                "(local='always')"
            )
    assert (told, list(model_server.journal)) == ([], [])


@pytest.mark.parametrize(
    ("host", "same"), [("localhost", True), ("127.9.9.9", True), ("[::1]", True), ("10.9.9.9", False)]
)
async def test_loopback_has_several_names(
    tmp_path: pathlib.Path, model_server: Sandbox, rows: LocalOptions, host: str, same: bool
) -> None:
    """The server's row may say `localhost` where the user's has an address of loopback; another port is another place."""
    (tmp_path / "theirs").mkdir()
    port = int(model_server.url.rpartition(":")[2])
    rows_at(tmp_path / "theirs", f"http://{host}:{port}", "ollama")
    theirs = rows_at(tmp_path / "theirs", f"http://localhost:{port - 1}", "vllm")
    options = LocalOptions(providers=rows.providers, notify=lambda _: None)
    async with server_process(tmp_path, with_rows(theirs)) as own, AsyncClient(own.address, local=options) as client:
        asked = [client.generate(model=model, messages="hi") for model in ("ollama/llama3", "vllm/qwen3")]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [getattr(answer, "text", "refused") for answer in answers] == ["hi" if same else "refused", "refused"]


async def test_every_target_of_a_plan_is_compared(
    tmp_path: pathlib.Path, model_server: Sandbox, rows: LocalOptions
) -> None:
    """A fallback that the server never came to is elsewhere there too; where all are the same the plan is made here."""
    told: list[str] = []
    options = LocalOptions(providers=rows.providers, notify=told.append)
    (tmp_path / "theirs").mkdir()
    rows_at(tmp_path / "theirs", model_server.url, "ollama", "lmstudio")
    theirs = rows_at(tmp_path / "theirs", "https://gateway.corp.internal", "vllm")
    async with server_process(tmp_path, with_rows(theirs)) as own, AsyncClient(own.address, local=options) as client:
        with pytest.raises(InvalidRequestError) as raised:
            await client.generate(model="ollama/llama3", fallbacks=["vllm/qwen3"], messages="hi")
        assert raised.value.origins == (model_server.url, "https://gateway.corp.internal")
        assert (told, list(model_server.journal)) == ([], [])
        answer = await client.generate(model="ollama/llama3", fallbacks=["lmstudio/qwen3"], messages="hi")
        assert (answer.text, len(told)) == ("hi", 1)


@pytest.mark.parametrize("target", [NOBODY, "unix:///nowhere/keyswitch.sock", "keyswitch.invalid:50551"])
async def test_where_nobody_listens_a_local_call_is_made_here_and_logged(
    rows: LocalOptions, model_server: Sandbox, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    """A refused connection, a socket that is not there and a name without an address are nobody; the log tells of it."""
    options = LocalOptions(mode="auto", providers=rows.providers)

    def sync() -> str:
        with Client(target, local=options, retries=False, insecure=True) as client:
            return client.generate(model="ollama/llama3", messages="hi").text

    async with AsyncClient(target, local=options, retries=False, insecure=True) as client:
        assert (await client.generate(model="ollama/llama3", messages="hi")).text == "hi"
    assert await asyncio.to_thread(sync) == "hi"
    note = f"no server is there; dispatched from this machine to {model_server.url}"
    line = ("keyswitch_client", logging.WARNING, note)
    assert [told for told in caplog.record_tuples if told[0] == "keyswitch_client"] == [line] * 2


async def test_a_server_that_cannot_prove_itself_is_there(
    server: ServerProcess, rows: LocalOptions, model_server: Sandbox
) -> None:
    """A handshake of TLS that fails is UNAVAILABLE, and moves no call to this machine."""
    told: list[str] = []
    options = LocalOptions(mode="auto", providers=rows.providers, notify=told.append)
    async with AsyncClient(server.address, tls=tls_credentials(), local=options, retries=False) as client:
        with pytest.raises(UnavailableError, match="handshake failed"):
            await client.generate(model="ollama/llama3", messages="hi")
    assert (told, list(model_server.journal)) == ([], [])


async def test_what_a_server_serves_is_never_made_here(
    sandbox: Sandbox, server: ServerProcess, rows: LocalOptions, model_server: Sandbox
) -> None:
    """A local row that the server has too is the server's, and so is every failure that is not about the address."""
    told: list[str] = []
    own = rows_at(rows.providers[0], model_server.url, "sandbox")
    options = LocalOptions(providers=own.providers, notify=told.append)
    async with AsyncClient(server.address, local=options) as client:
        answer = await client.generate(model="sandbox/echo", credentials=KEYS, messages="hi")
        assert answer.receipt.attempts[0].origin_host == sandbox.listening
        for model in ("sandbox/unavailable", "sandbox/reset", "sandbox/overloaded"):
            with pytest.raises(KeyswitchError):
                await client.generate(model=model, credentials=KEYS, messages="hi", max_attempts=1)
        with pytest.raises(InvalidRequestError, match=r"MODEL_REQUIRED|PROVIDER_REQUIRED"):
            await client.generate(messages="hi")
    assert (told, list(model_server.journal)) == ([], [])


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "openai/gpt-4o", "credentials": {"openai": "k"}},
        {"model": "ollama/llama3", "fallbacks": ["openai/gpt-4o"], "credentials": {"openai": "k"}},
        {"model": "no-such-model"},
        {"endpoint": Endpoint("https://models.invalid/v1", "m")},
    ],
)
async def test_without_a_server_nothing_else_is_made_here(rows: LocalOptions, asked: dict[str, Any]) -> None:
    """A public provider, a plan that needs one, an unknown model and an endpoint of no address stay the server's."""
    async with AsyncClient(NOBODY, local=rows, retries=False) as client:
        with pytest.raises(UnavailableError) as raised:
            await client.generate(messages="hi", **asked)
    assert raised.value.reason == ""


@pytest.mark.parametrize("mode", ["auto", "always"])
async def test_want_of_tls_keeps_no_call_from_this_machine(model_server: Sandbox, mode: LocalMode) -> None:
    """Beside a server that nothing may be sent to, local calls are made; what would be sent is refused, key and all."""
    there = "gateway.example:50551"
    endpoint = Endpoint(model_server.url, "sandbox/echo")
    asked: dict[str, Any] = {"model": "openai/gpt-4o", "messages": "hi", "credentials": {"openai": canary()}}

    def sync() -> list[BaseException]:
        with Client(there, token=canary(), local=mode) as client:
            assert client.generate(endpoint=endpoint, messages="hi").text == "hi"
            assert client.stream(endpoint=endpoint, messages="hi").final().text == "hi"
            calls = [client.health, client.providers]
            if mode == "auto":
                calls += [lambda: client.generate(**asked), lambda: client.stream(**asked).final()]
            return [refused(call) for call in calls]

    def refused(call: Callable[[], object]) -> BaseException:
        with pytest.raises(ValueError, match="without TLS, keys and tokens are sent to this machine") as raised:
            call()
        return raised.value

    errors = await asyncio.to_thread(sync)
    async with AsyncClient(there, token=canary(), local=mode) as client:
        assert (await client.generate(endpoint=endpoint, messages="hi")).text == "hi"
        assert (await client.stream(endpoint=endpoint, messages="hi").final()).text == "hi"
        calls: list[Callable[[], Awaitable[object]]] = [client.health, client.providers]
        if mode == "auto":
            calls += [lambda: client.generate(**asked), lambda: client.stream(**asked).final()]
        for call in calls:
            with pytest.raises(ValueError, match="without TLS, keys and tokens are sent to this machine") as raised:
                await call()
            errors.append(raised.value)
    assert [hit for error in errors for text in shown_error(error) for hit in found("shown", text)] == []


async def test_a_plan_for_two_places_is_refused(model_server: Sandbox) -> None:
    """A local target with a provider's model as its fallback is refused, and says what to do; nothing is called."""
    async with AsyncClient(NOBODY, local="auto") as client:
        with pytest.raises(InvalidRequestError) as raised:
            await client.generate(
                endpoint=Endpoint(model_server.url, "sandbox/echo"), fallbacks=["openai/gpt-4o"], messages="hi"
            )
        async with client.stream(
            endpoint=Endpoint(model_server.url, "sandbox/echo"), fallbacks=["openai/gpt-4o"], messages="hi"
        ) as stream:
            with pytest.raises(InvalidRequestError):
                await stream.final()
    assert (raised.value.reason, raised.value.violations[0][0]) == ("INVALID_REQUEST", "fallbacks")
    assert "local='always'" in raised.value.message
    assert not list(model_server.journal)


async def test_local_fallbacks_are_tried_here_each_with_its_own_key(model_server: Sandbox) -> None:
    """Two origins in one plan each get their own key, and no key of a provider that came beside them."""
    async with Sandbox() as other, AsyncClient(NOBODY, local="auto") as client:
        request = pb.GenerateRequest()
        second = Endpoint(other.url, "sandbox/echo", "second", label="Two").message()
        request.fallbacks.add().custom_endpoint.CopyFrom(second)
        answer = await client.generate(
            endpoint=Endpoint(model_server.url, "sandbox/unavailable", "first"), credentials={"openai": "third"},
            request=request, max_attempts=1, messages="hi",
        )  # fmt: skip
        assert [attempt.origin_host for attempt in answer.receipt.attempts] == [
            model_server.listening,
            other.listening,
        ]
        for server, key in ((model_server, "first"), (other, "second")):
            digest = hashlib.sha256(f"Bearer {key}".encode()).hexdigest()
            assert [entry.key_sha256 for entry in server.journal] == [digest]


async def test_metadata_addresses_are_refused_here_too() -> None:
    """Link-local addresses are called from nowhere: `auto` and `always` end in BLOCKED_ENDPOINT without a connection."""
    for mode in ("auto", "always"):
        async with AsyncClient(NOBODY, local=LocalOptions(mode=mode)) as client:  # type: ignore[arg-type] # both are
            with pytest.raises(InvalidRequestError) as raised:
                await client.generate(endpoint=Endpoint("http://169.254.169.254/v1", "m"), messages="hi")
            assert raised.value.reason == "BLOCKED_ENDPOINT"
            assert raised.value.message.endswith("from here: its address is not public")  # and not: ask your client


async def test_always_reaches_public_addresses_and_the_named_origin_alone(model_server: Sandbox) -> None:
    """A row of this installation whose address is local is called, a public row that is moved to a name is not."""
    async with AsyncClient(NOBODY, local="always") as client:
        answer = await client.generate(endpoint=Endpoint(model_server.url, "sandbox/echo"), messages="hi")
        assert answer.text == "hi"
        with pytest.raises(KeyswitchError) as raised:
            await client.generate(model="nobody/m", messages="hi")
        assert raised.value.reason == "UNROUTABLE_MODEL"


async def test_a_name_is_local_if_it_has_private_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the request's own is looked up, a row's never is: its text decides."""
    addresses: dict[str, list[str]] = {"desk.example": ["10.0.0.7"], "both.example": ["10.0.0.7", "8.8.8.8"]}

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    local = await LocalDispatch.open(LocalOptions())
    for name, taken in (("desk", True), ("both", False), ("none", False)):
        endpoint = Endpoint(f"https://{name}.example/v1", "m")
        asked = build(pb.GenerateRequest, GenerateArguments(endpoint=endpoint, messages="x"))
        assert await local.takes(asked) == ((f"https://{name}.example",) if taken else ())
    addresses["api.openai.com"] = ["10.0.0.7"]
    public = GenerateArguments(model="openai/gpt-4o", credentials={"openai": "k"}, messages="x")
    assert await local.takes(build(pb.GenerateRequest, public)) == ()
    await local.close()


async def test_without_the_engine_it_says_what_to_install(tmp_path: pathlib.Path) -> None:
    """A local endpoint, and a server's BLOCKED_ENDPOINT, name the extra; no other failure is about it."""
    code = """
import sys
sys.modules["aiohttp"] = sys.modules["yarl"] = None
from keyswitch_client import Client, Endpoint, KeyswitchError
for address, asked in (
    ("127.0.0.1:1", {"endpoint": Endpoint("http://127.0.0.1:9", "m")}),
    (sys.argv[1], {"model": "ollama/llama3"}),
    ("127.0.0.1:1", {"model": "ollama/llama3"}),
    ("127.0.0.1:1", {"endpoint": Endpoint("http://127.0.0.1:9", "m"), "fallbacks": ["openai/gpt-4o"]}),
):
    try:
        Client(address, local="auto").generate(messages="hi", **asked)
    except KeyswitchError as error:
        print(type(error).__name__, error.reason or error.code.name, "keyswitch[local]" in str(error) + error.hint)
"""
    async with server_process(tmp_path, {}) as own:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, own.address, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out.decode().splitlines() == [
        "UnsupportedError UNIMPLEMENTED True",
        "InvalidRequestError BLOCKED_ENDPOINT True",
        "UnavailableError UNAVAILABLE False",
        "InvalidRequestError INVALID_REQUEST False",
    ]


async def test_a_bug_ends_a_local_call_as_one_of_the_servers_does(
    model_server: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure has an incident's id and nothing else; the log has it too, with places and no text."""

    async def broken(*_: Any) -> None:
        raise RuntimeError("canary-in-a-text")

    monkeypatch.setattr("keyswitch_bridge.calls.Calls.stream", broken)
    async with (
        AsyncClient(NOBODY, local="auto") as client,
        client.stream(endpoint=Endpoint(model_server.url, "m"), messages="x") as s,
    ):
        with pytest.raises(KeyswitchError) as raised:
            await s.final()
    incident = re.fullmatch(r"internal error; incident ([0-9a-f]{16})", raised.value.message)
    assert incident is not None
    assert (raised.value.reason, raised.value.code) == ("INTERNAL", grpc.StatusCode.INTERNAL)
    assert f"incident {incident[1]}: RuntimeError at " in caplog.text
    assert "canary" not in caplog.text


async def test_rows_that_are_invalid_are_told_of_where_they_are_needed(
    tmp_path: pathlib.Path, model_server: Sandbox
) -> None:
    """A file of the user's own that does not load is a hint beside the server's error, and no endpoint's business."""
    (tmp_path / "mine.toml").write_text("schema = 1\nid = 7\n")
    broken = LocalOptions(mode="auto", providers=(tmp_path,))
    endpoint = Endpoint(model_server.url, "sandbox/echo")
    asked: dict[str, Any] = {"model": "openai/gpt-4o", "credentials": {"openai": "k"}, "messages": "hi"}

    def sync() -> UnavailableError:
        with Client(NOBODY, local=broken, retries=False) as client, pytest.raises(UnavailableError) as raised:
            client.generate(**asked)
        return raised.value

    async with AsyncClient(NOBODY, local=broken, retries=False) as client:
        assert (await client.generate(endpoint=endpoint, messages="hi")).text == "hi"
        with pytest.raises(UnavailableError) as raised:
            await client.generate(**asked)
    for error in (raised.value, await asyncio.to_thread(sync)):
        assert (error.code, "mine.toml" in error.hint) == (grpc.StatusCode.UNAVAILABLE, True)
    async with AsyncClient(NOBODY, local=LocalOptions(mode="always", providers=(tmp_path,))) as client:
        assert (await client.generate(endpoint=endpoint, messages="hi")).text == "hi"
        for call in (client.generate(**asked), client.provider_models("ollama")):
            with pytest.raises(KeyswitchError, match=r"mine\.toml") as refused:
                await call
            assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
