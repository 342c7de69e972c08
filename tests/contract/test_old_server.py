"""The client of today against servers of previous contracts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import io
import json
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
import pytest
from cli.running import run
from contract.previous import MILESTONES, Contract
from google.protobuf import json_format
from google.protobuf.message import Message
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2
from keyswitch_bridge.negotiation import CAPABILITIES
from keyswitch_bridge.requests import refuse_unknown
from keyswitch_client import AsyncClient, Client, InvalidRequestError, UnsupportedError
from keyswitch_server import logging
from keyswitch_server.authentication import Authenticator
from keyswitch_server.caller_limits import CallerLimits
from keyswitch_server.gate import Gate
from keyswitch_server.guard import Guard

KEYS = {"sandbox": "k"}
STARTED = {"provider": "sandbox", "resolvedModel": "sandbox/echo"}
FINISHED = {"stopReason": "STOP_REASON_STOP", "usage": {"inputTokens": "2", "outputTokens": "2"}}
ANSWERS: dict[str, dict[str, Any]] = {
    "Generate": {
        "started": STARTED,
        "message": {"role": "ROLE_ASSISTANT", "parts": [{"text": {"text": "well put"}}]},
        "finished": FINISHED,
    },
    "StreamGenerate": {
        "events": [
            {"started": STARTED},
            {"blockStart": {"text": {}}},
            {"blockDelta": {"text": "well put"}},
            {"blockStop": {}},
            {"finished": FINISHED},
        ]
    },
    "Embed": {"embeddings": [{"values": [1.0, 2.0]}], "started": STARTED, "finished": FINISHED},
    "CountTokens": {"inputTokens": "2", "resolvedModel": "sandbox/echo"},
    "ExplainRoute": {"routes": [{"provider": "sandbox", "resolvedModel": "sandbox/echo"}]},
    "ValidateCredential": {"verdict": 1},
    "ListProviderModels": {"models": [{"id": "sandbox/echo"}]},
    "ListProviders": {"providers": [{"id": "sandbox", "displayName": "Sandbox"}]},
    "GetProvider": {"provider": {"id": "sandbox"}},
    "GetRegistryInfo": {"schemaVersion": 1, "serverVersion": "0.1.0", "minClientVersion": "0.1.0"},
}
HINT = "the server may be older than this client: compare them with `keyswitch doctor`"


@contextlib.asynccontextmanager
async def old_server(milestone: str = MILESTONES[0], without: Collection[str] = ()) -> AsyncIterator[str]:
    """Start a server that knows one contract alone, and refuses what it does not know as the real one does."""
    contract = Contract(milestone, without)
    log = logging.configure("error", io.StringIO())
    server = grpc.aio.server(interceptors=[Guard(log, Gate(Authenticator(), CallerLimits({})))])
    handlers: dict[str, dict[str, Any]] = {}
    for rpc, method in contract.methods.items():
        if rpc not in ANSWERS:
            continue
        answer = json_format.ParseDict(ANSWERS[rpc], contract.response(rpc)())

        async def unary(request: Message, context: object, answer: Message = answer) -> Message:
            refuse_unknown(request)
            return answer

        async def stream(request: Message, context: Any, answer: Message = answer) -> None:
            refuse_unknown(request)
            await context.write(answer)

        kind, behaviour = (
            (grpc.unary_stream_rpc_method_handler, stream)
            if method.server_streaming
            else (grpc.unary_unary_rpc_method_handler, unary)
        )
        handlers.setdefault(method.containing_service.full_name, {})[rpc] = kind(
            behaviour,
            request_deserializer=contract.message(method.input_type.name).FromString,
            response_serializer=type(answer).SerializeToString,
        )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in handlers.items())
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("milestone", MILESTONES)
async def test_a_new_client_works_with_an_old_server(milestone: str) -> None:
    """With what a previous contract has, every call of the client is answered whole."""
    async with old_server(milestone) as address, AsyncClient(address) as client:
        asked: dict[str, Any] = {
            "model": "sandbox/echo", "provider": "sandbox", "credentials": KEYS, "messages": "well put",
            "system": "be brief", "temperature": 0.5, "reasoning_effort": "low", "options": {"a": 1},
        }  # fmt: skip
        assert (await client.generate(**asked)).text == "well put"
        streamed = await client.stream(**asked).final()
        assert (streamed.text, streamed.stop_reason) == ("well put", "STOP")
        assert list((await client.embed(["x"], model="m", credentials=KEYS)).embeddings[0].values) == [1.0, 2.0]
        assert await client.count_tokens(**asked) == 2
        assert (await client.explain(**asked)).routes[0].resolved_model == "sandbox/echo"
        assert (await client.validate_credential("sandbox", credentials=KEYS)).verdict == 1
        assert [model.id for model in await client.provider_models("sandbox", credentials=KEYS)] == ["sandbox/echo"]
        assert [provider.id for provider in await client.providers()] == ["sandbox"]
        assert list((await client.registry_info()).capabilities) == []


@pytest.mark.parametrize("field", ["reasoning", "tools[0]"])
async def test_a_field_that_is_too_new_is_refused_by_name(field: str) -> None:
    """What an old server does not know is UNKNOWN_FIELD at its place, never ignored, with the hint to compare."""
    request = dispatch_service_pb2.GenerateRequest()
    if field == "reasoning":
        request.reasoning.include_text = True
    else:
        hint = conversation_pb2.CacheHint()
        request.tools.add(function={"name": "look"}).cache_hint.CopyFrom(hint)
    async with old_server() as address, AsyncClient(address) as client:
        asked: dict[str, Any] = {"model": "sandbox/echo", "credentials": KEYS, "messages": "x", "request": request}
        with pytest.raises(InvalidRequestError) as whole:
            await client.generate(**asked)
        with pytest.raises(InvalidRequestError) as streamed:
            await client.stream(**asked).final()
        for error in (whole.value, streamed.value):
            assert (error.reason, error.field, error.hint) == ("UNKNOWN_FIELD", field, HINT)
            assert str(error).endswith(f"is not known to this server ({HINT})")


async def test_an_rpc_that_is_too_new_is_an_explicit_error() -> None:
    """A server of a contract without an rpc ends it as not available yet, for both clients; all else goes on."""
    async with old_server(without={"DispatchService.ValidateCredential"}) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(UnsupportedError) as raised:
                await client.validate_credential("sandbox", credentials=KEYS)
            assert (await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")).text == "well put"

        def synchronous() -> UnsupportedError:
            with Client(address) as client, pytest.raises(UnsupportedError) as caught:
                client.validate_credential("sandbox", credentials=KEYS)
            return caught.value

        for error in (raised.value, await asyncio.to_thread(synchronous)):
            assert (error.code, error.reason, error.origin) == (
                grpc.StatusCode.UNIMPLEMENTED,
                "NOT_YET_AVAILABLE",
                "GATEWAY",
            )
            assert (error.message, error.hint) == ("nobody serves this rpc there: Method not found!", HINT)
            assert not error.retryable


async def test_a_field_that_an_old_answer_lacks_is_empty() -> None:
    """A server of a contract without a field answers without it, and the client invents nothing."""
    async with (
        old_server(without={"ValidateCredentialResponse.message"}) as address,
        AsyncClient(address) as client,
    ):
        assert (await client.validate_credential("sandbox", credentials=KEYS)).message == ""


async def test_doctor_names_what_an_old_server_lacks() -> None:
    """Every capability that this installation knows and the server does not tell of is a finding."""
    async with old_server() as address:
        code, out, _ = await run("doctor", "--json", "--server", address)
    report = json.loads(out)
    assert (code, report["server"]["capabilities"], report["here"]["capabilities"]) == (1, [], list(CAPABILITIES))
    assert report["findings"]["capabilities"] == f"the server lacks {', '.join(CAPABILITIES)}"


async def test_the_command_line_says_what_to_compare() -> None:
    """A refused call shows the hint under the reason."""
    async with old_server(without={"Target.region"}) as address:
        code, _, err = await run(
            "explain", "-m", "sandbox/echo", "--region", "eu", "--api-key", "sandbox=k", "--server", address
        )
    assert code == 64 + 3
    assert "UNKNOWN_FIELD: target: field number" in err
    assert HINT in err


async def test_the_client_says_which_version_it_is() -> None:
    """Both clients begin their user agent with the library's name and the version that is installed."""
    agents: list[str] = []

    async def record(request: bytes, context: Any) -> bytes:
        agents.extend(value for key, value in context.invocation_metadata() if key == "user-agent")
        return b""

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        "keyswitch.v1.RegistryService", {"GetRegistryInfo": grpc.unary_unary_rpc_method_handler(record)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        await client.registry_info()
    with Client(f"127.0.0.1:{port}") as synchronous:
        await asyncio.to_thread(synchronous.registry_info)
    await server.stop(None)
    name = f"keyswitch-python/{importlib.metadata.version('keyswitch')} "
    assert [agent.startswith(name) for agent in agents] == [True, True]
