from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import ssl
import sys

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keyswitch.v1 import dispatch_service_pb2, registry_service_pb2
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.registry_service_pb2_grpc import RegistryServiceStub
from keyswitch_client import (
    AsyncClient,
    InvalidRequestError,
    KeyswitchError,
    ProviderError,
    RateLimitedError,
    TextDelta,
)
from keyswitch_sandbox import Sandbox
from support import EGRESS, ServerProcess, server_process

KEYS = {"sandbox": "the-callers-key"}
SERVICES = ["", "keyswitch.v1.DispatchService", "keyswitch.v1.RegistryService"]


@pytest.mark.parametrize("service", SERVICES)
async def test_health_answers_per_service(channel: grpc.aio.Channel, client: AsyncClient, service: str) -> None:
    """Every service, and the server as a whole, is SERVING."""
    response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    assert await client.health(service) == "SERVING"


async def test_health_of_an_unknown_service(channel: grpc.aio.Channel) -> None:
    """Check says NOT_FOUND, Watch says SERVICE_UNKNOWN, List knows all."""
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Check(health_pb2.HealthCheckRequest(service="none"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="none"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    listed = await stub.List(health_pb2.HealthListRequest())
    assert sorted(listed.statuses) == SERVICES


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes(channel: grpc.aio.Channel, version: str) -> None:
    """Both versions of reflection name the services and hand out their descriptors."""
    from grpc_reflection.v1alpha import reflection_pb2  # noqa: PLC0415 - the same messages serve both

    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="keyswitch.v1.DispatchService"),
            ]
        )
    )
    listed = await call.read()
    assert set(SERVICES[1:]) <= {service.name for service in listed.list_services_response.service}
    described = await call.read()
    assert described.file_descriptor_response.file_descriptor_proto
    call.cancel()


async def test_buf_lists_and_describes_by_reflection(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """`buf curl` finds services and methods without the .proto files."""
    buf = str(pathlib.Path(sys.executable).parent / "buf")
    for flag, words in (("--list-services", "keyswitch.v1.DispatchService"), ("--list-methods", "StreamGenerate")):
        process = await asyncio.create_subprocess_exec(
            buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", flag, f"http://{server.address}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err
        assert words in out.decode()


async def test_providers_are_listed_in_pages(channel: grpc.aio.Channel, client: AsyncClient) -> None:
    """Pages of any size add up to the list; queries narrow it; a made-up token is refused."""
    stub = RegistryServiceStub(channel)
    ids: list[str] = []
    token = ""
    while True:
        page = await stub.ListProviders(registry_service_pb2.ListProvidersRequest(page_size=3, page_token=token))
        ids += [provider.id for provider in page.providers]
        token = page.next_page_token
        if not token:
            break
    assert ids == [provider.id for provider in await client.providers()] == sorted(ids)
    assert [provider.id for provider in await client.providers("OPEN router")] == ["openrouter"]
    for request in (
        registry_service_pb2.ListProvidersRequest(page_token="Made up"),
        registry_service_pb2.ListProvidersRequest(page_size=1001),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListProviders(request)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_provider_is_found_by_alias_and_missed_with_a_suggestion(channel: grpc.aio.Channel) -> None:
    """GetProvider takes aliases in any case; a misspelt name is told the nearest."""
    stub = RegistryServiceStub(channel)
    found = await stub.GetProvider(registry_service_pb2.GetProviderRequest(provider="GROK"))
    assert (found.provider.id, found.provider.origin_host) == ("xai", "api.x.ai")
    assert list(found.provider.dialects) == ["openai-responses", "openai-chat", "anthropic-messages"]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetProvider(registry_service_pb2.GetProviderRequest(provider="mistrl"))
    assert "did you mean 'mistral'" in (raised.value.details() or "")


async def test_the_registry_says_which_it_is(client: AsyncClient) -> None:
    """Version, schema, fingerprint and count are told."""
    info = await client.registry_info()
    assert (info.schema_version, info.server_version, info.provider_count) == (1, "0.1.0", 52)
    assert len(info.fingerprint) == 16


async def test_explaining_a_route_sends_nothing(client: AsyncClient, sandbox: Sandbox) -> None:
    """ExplainRoute tells provider, host, key source and bill, and the provider hears nothing."""
    before = len(list(sandbox.journal))
    response = await client.explain(model="sandbox/echo", credentials=KEYS)
    (route,) = response.routes
    assert (route.provider, route.resolved_model, route.dialect) == ("sandbox", "sandbox/echo", "openai-chat")
    assert (route.origin_host, route.billing, route.credential_source) == (sandbox.listening, 1, 1)
    assert len(list(sandbox.journal)) == before
    assert "the-callers-key" not in str(response)


async def test_a_call_is_one_log_line_without_the_key(client: AsyncClient, server: ServerProcess) -> None:
    """A call logs method, code, provider and counts once, and never the key or the conversation."""
    await client.generate(model="sandbox/echo", credentials=KEYS, messages="a-unique-prompt")
    log = server.log.read_text()
    line = json.loads(log.splitlines()[-1])
    assert {
        "event": "call",
        "method": "Generate",
        "code": "OK",
        "provider": "sandbox",
        "input_tokens": 1,
    }.items() <= line.items()
    assert "the-callers-key" not in log
    assert "a-unique-prompt" not in log


async def test_a_port_in_use_fails_loudly(server: ServerProcess) -> None:
    """A second server on the same port exits 1 and says why."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyswitch_cli", "serve", "--listen", server.address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"the port is in use" in err


async def test_stopping_lets_calls_finish(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """On SIGTERM watchers hear NOT_SERVING, a running stream completes, new calls are refused, the exit status is 0."""
    async with (
        server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as own,
        AsyncClient(own.address, retries=False) as client,
        grpc.aio.insecure_channel(own.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stream = client.stream(
            model="sandbox/echo", credentials=KEYS, messages="x",
            options={"sandbox": {"tokens": 20, "interval_ms": 50}},
        )  # fmt: skip
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        own.process.terminate()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert (await stream.final()).text == "".join(f" tok{number}" for number in range(20))
        assert await asyncio.wait_for(own.process.wait(), 10) == 0
        with pytest.raises(KeyswitchError):
            await client.generate(model="sandbox/echo", credentials=KEYS, messages="x", timeout=2)


async def test_a_second_signal_stops_at_once(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """A stream that would go on is cut short by a second signal."""
    async with (
        server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as own,
        AsyncClient(own.address) as client,
    ):
        stream = client.stream(model="sandbox/stall-mid-stream", credentials=KEYS, messages="a b c d")
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        own.process.terminate()
        while b"stopping" not in own.log.read_bytes():
            await asyncio.sleep(0.01)
        own.process.terminate()
        assert await asyncio.wait_for(own.process.wait(), 10) == 0
        with pytest.raises(KeyswitchError):
            await stream.final()


async def test_a_full_server_says_so(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Calls beyond the limit are OVERLOADED, retryable, with a time to wait; then there is room again."""
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_MAX_CALLS": "1"}
    async with server_process(tmp_path, env) as own, AsyncClient(own.address) as client:
        async with client.stream(model="sandbox/stall-mid-stream", credentials=KEYS, messages="a b c d") as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            with pytest.raises(RateLimitedError) as raised:
                await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")
        error = raised.value
        assert (error.reason, error.retryable, error.retry_after, error.origin) == ("OVERLOADED", True, 1.0, "GATEWAY")
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(RateLimitedError):
                    await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")
                    break
                await asyncio.sleep(0.02)


async def test_a_local_address_is_blocked_unless_the_operator_allows_it(
    sandbox: Sandbox, tmp_path: pathlib.Path
) -> None:
    """Without the allow-list a loopback provider is BLOCKED_ENDPOINT, by plain http and by address alike."""
    for env in ({}, {"KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": '["127.0.0.1"]'}):
        async with (
            server_process(tmp_path, {"KEYSWITCH_SANDBOX_URL": sandbox.url, **env}) as own,
            AsyncClient(own.address, local="never") as client,
        ):
            with pytest.raises(InvalidRequestError) as raised:
                await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")
            assert (raised.value.reason, raised.value.code) == ("BLOCKED_ENDPOINT", grpc.StatusCode.PERMISSION_DENIED)


ROW = """schema = 1
id = "local"
name = "Local"
base_url = "{url}"
default_model = "m"

[[dialects]]
name = "openai-chat"
path = "/chat/completions"
"""


async def test_a_provider_that_is_not_there_is_unavailable(tmp_path: pathlib.Path) -> None:
    """A refused connection is PROVIDER_UNAVAILABLE, retryable, with every try in the receipt."""
    (tmp_path / "local.toml").write_text(ROW.format(url="http://127.0.0.1:9"))
    env = {**EGRESS, "KEYSWITCH_PROVIDERS": json.dumps([str(tmp_path)])}
    async with server_process(tmp_path, env) as own, AsyncClient(own.address) as client:
        with pytest.raises(ProviderError) as raised:
            await client.generate(provider="local", credentials={"local": "k"}, messages="x")  # two tries by default
    assert (raised.value.reason, raised.value.retryable) == ("PROVIDER_UNAVAILABLE", True)
    assert [attempt.origin_host for attempt in raised.value.receipt.attempts] == ["127.0.0.1:9"] * 2


async def test_a_provider_without_a_default_needs_a_model(tmp_path: pathlib.Path) -> None:
    """No model and no default is MODEL_REQUIRED, before anything is sent."""
    (tmp_path / "local.toml").write_text(ROW.format(url="https://local.example").replace('default_model = "m"', ""))
    async with (
        server_process(tmp_path, {"KEYSWITCH_PROVIDERS": json.dumps([str(tmp_path)])}) as own,
        AsyncClient(own.address) as client,
    ):
        with pytest.raises(InvalidRequestError) as raised:
            await client.generate(provider="local", credentials={"local": "k"}, messages="x")
    error = raised.value
    assert (error.reason, error.code, error.field) == (
        "MODEL_REQUIRED", grpc.StatusCode.INVALID_ARGUMENT, "target.model",
    )  # fmt: skip
    assert (error.retryable, list(error.receipt.attempts)) == (False, [])


async def test_tls_is_always_verified(tmp_path: pathlib.Path) -> None:
    """A provider with a certificate of its own making is not talked to, and the error says why."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    process = await asyncio.create_subprocess_exec(
        openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
        "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a request arrived")

    listener = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    (tmp_path / "local.toml").write_text(ROW.format(url=f"https://127.0.0.1:{port}"))
    env = {**EGRESS, "KEYSWITCH_PROVIDERS": json.dumps([str(tmp_path)])}
    async with listener, server_process(tmp_path, env) as own, AsyncClient(own.address) as client:
        with pytest.raises(ProviderError) as raised:
            await client.generate(provider="local", credentials={"local": "k"}, messages="x")
    assert raised.value.reason == "PROVIDER_UNAVAILABLE"
    assert "certificate" in raised.value.message


async def test_two_hundred_cancelled_calls_leave_nothing_behind(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """After 200 streams cancelled at once the server stops by itself at once: no task is left that it would wait for."""
    async with server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as own:
        async with grpc.aio.insecure_channel(own.address) as channel:
            request = json_format.ParseDict(
                {
                    "target": {"model": "sandbox/stall-mid-stream"},
                    "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}],
                    "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "a b c d"}}]}],
                },
                dispatch_service_pb2.StreamGenerateRequest(),
            )
            calls = [DispatchServiceStub(channel).StreamGenerate(request) for _ in range(200)]
            await asyncio.gather(*(call.read() for call in calls))
            for call in calls:
                call.cancel()
        own.process.terminate()
        assert await asyncio.wait_for(own.process.wait(), 10) == 0
        lines = [json.loads(line) for line in own.log.read_text().splitlines()]
        assert sum(line.get("code") == "CANCELLED" for line in lines) == 200
        assert not [line for line in lines if line["event"] in ("incident", "library message")]
