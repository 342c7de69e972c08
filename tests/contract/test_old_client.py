"""Clients of previous contracts against the server of today."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from contract.previous import MILESTONES, Contract
from filling import leaves, put
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keyswitch.v1 import dispatch_service_pb2, error_pb2, registry_service_pb2
from support import ServerProcess

KEYS = [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}]
TARGET = {"provider": "sandbox", "model": "sandbox/echo"}
ASKED = {
    "target": TARGET,
    "credentials": KEYS,
    "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "well put"}}]}],
}
MINIMAL: dict[str, dict[str, Any]] = {
    "Generate": ASKED,
    "StreamGenerate": ASKED,
    "Embed": {"target": TARGET, "credentials": KEYS, "inputs": ["well put"]},
    "CountTokens": ASKED,
    "ExplainRoute": ASKED,
    "ValidateCredential": {"credential": KEYS[0]},
    "ListProviderModels": {"provider": "sandbox", "credential": KEYS[0]},
    "ListProviders": {},
    "GetProvider": {"provider": "sandbox"},
    "ListModels": {},
    "GetRegistryInfo": {},
}
RICH: dict[str, dict[str, Any]] = {
    "Generate": {
        "target": {
            **TARGET, "dialect": "openai-chat", "optionsJson": '{"sandbox": {"tokens": 2}}',
            "compatibility": {"includeUsage": True},
        },
        "credentials": KEYS,
        "system": [{"text": {"text": "be brief"}}],
        "messages": [
            *ASKED["messages"],
            {"role": "ROLE_ASSISTANT", "parts": [
                {"text": {"text": "yes"}},
                {"toolCall": {"id": "c1", "name": "look", "argumentsJson": "{}"}},
            ]},
            {"role": "ROLE_TOOL", "parts": [{"toolResult": {"toolCallId": "c1", "parts": [{"text": {"text": "seen"}}]}}]},
        ],
        "tools": [{"function": {"name": "look", "description": "looks", "parametersJsonSchema": '{"type": "object"}'}}],
        "toolChoice": {"auto": {}},
        "parallelToolCalls": True,
        "sampling": {"temperature": 0.5, "topP": 0.9, "seed": 7, "maxOutputTokens": 64, "stopSequences": ["###"]},
        "reasoning": {"effort": "REASONING_EFFORT_LOW"},
        "endUserId": "user-1",
        "limits": {"totalTimeout": "20s", "idleTimeout": "5s"},
    },
}  # fmt: skip
RICH["StreamGenerate"] = {**RICH["Generate"], "limits": {"totalTimeout": "20s", "coalesceWindow": "0.010s"}}
RICH["ExplainRoute"] = RICH["Generate"]


@pytest.fixture(params=MILESTONES)
def contract(request: pytest.FixtureRequest) -> Contract:
    """One of the contracts that there were."""
    return Contract(request.param)


@pytest.fixture
async def old(server: ServerProcess) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of the oldest client that is understood."""
    async with connected(server, "keyswitch-python/0.1.0") as channel:
        yield channel


def connected(server: ServerProcess, agent: str) -> grpc.aio.Channel:
    """Return a channel of a client that calls itself *agent*."""
    return grpc.aio.insecure_channel(server.address, [("grpc.primary_user_agent", agent)])


async def call(channel: grpc.aio.Channel, contract: Contract, rpc: str, request: Message) -> list[bytes]:
    """Call as a contract says; return the answers as they came."""
    kinds = (channel.unary_unary, channel.unary_stream)
    method = kinds[contract.methods[rpc].server_streaming](
        contract.path(rpc), request_serializer=type(request).SerializeToString
    )
    if contract.methods[rpc].server_streaming:
        return [answer async for answer in method(request, timeout=20)]
    return [await method(request, timeout=20)]


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason that a status has to carry."""
    metadata = dict(error.trailing_metadata() or ())
    info = error_details_pb2.ErrorInfo()
    assert any(
        detail.Unpack(info) for detail in status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details
    )
    assert info.domain == "keyswitch.v1"
    return info.reason


def assert_kept(contract: Contract, rpc: str, raw: bytes) -> None:
    """Assert that a contract reads all of an answer that it has words for, and loses nothing of the rest."""
    module = dispatch_service_pb2 if hasattr(dispatch_service_pb2, f"{rpc}Response") else registry_service_pb2
    today: type[Message] = getattr(module, f"{rpc}Response")
    known = contract.response(rpc).FromString(raw)
    assert today.FromString(known.SerializeToString()) == today.FromString(raw)
    assert json_format.MessageToDict(known) == shared(today.FromString(raw), known.DESCRIPTOR)


def shared(message: Any, kind: Descriptor) -> dict[str, Any]:
    """Return a message without the fields that another kind of it lacks."""
    for field, value in message.ListFields():
        other = kind.fields_by_name.get(field.name)
        if other is None:
            message.ClearField(field.name)
        elif other.message_type is not None and not other.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else (value,):
                shared(inner, other.message_type)
    found: dict[str, Any] = json_format.MessageToDict(message)
    return found


@pytest.mark.parametrize("rpc", sorted(set(MINIMAL) - {"CountTokens", "ListModels"}))
async def test_an_old_client_is_answered(old: grpc.aio.Channel, contract: Contract, rpc: str) -> None:
    """Every rpc of a previous contract works for its client, with few fields and with many."""
    for fields in (MINIMAL[rpc], RICH.get(rpc, MINIMAL[rpc])):
        answers = await call(old, contract, rpc, contract.request(rpc, fields))
        assert answers
        assert any(answers) or rpc == "ListProviders"
        if rpc in ("Generate", "StreamGenerate"):  # an old client sees what was said, and that it was all
            seen = "".join(str(contract.response(rpc).FromString(raw)) for raw in answers)
            assert "stop_reason: STOP_REASON_" in seen
            assert "output_tokens" in seen
        for raw in answers:
            assert_kept(contract, rpc, raw)


@pytest.mark.parametrize("rpc", sorted(MINIMAL))
async def test_every_field_of_an_old_client_is_understood(old: grpc.aio.Channel, contract: Contract, rpc: str) -> None:
    """Each field that a previous contract has, set alone beside the needed ones, works or ends in a typed error."""
    for way in leaves(contract.methods[rpc].input_type):
        request = contract.request(rpc, MINIMAL[rpc])
        put(request, way)
        try:
            answers = await call(old, contract, rpc, request)
        except grpc.aio.AioRpcError as error:
            reason = reason_of(error)
            assert reason not in {"UNKNOWN_FIELD", "INTERNAL", "CLIENT_TOO_OLD"}, [field.name for field in way]
        else:
            for raw in answers:
                assert_kept(contract, rpc, raw)


async def test_what_an_old_client_does_not_know_is_not_lost(old: grpc.aio.Channel) -> None:
    """A field of an answer that its contract lacks stays in the message, and is there again when it is written."""
    before = Contract(without={"GetRegistryInfoResponse.capabilities"})
    (raw,) = await call(old, before, "GetRegistryInfo", before.request("GetRegistryInfo", {}))
    known = before.response("GetRegistryInfo").FromString(raw)
    assert {field.field_number for field in UnknownFieldSet(known)} == {4}  # type: ignore[attr-defined] # iterable
    assert "capabilities" not in json_format.MessageToDict(known)
    again = registry_service_pb2.GetRegistryInfoResponse.FromString(known.SerializeToString())
    assert "explain-body" in again.capabilities


@pytest.mark.parametrize("rpc", sorted(set(MINIMAL) - {"GetRegistryInfo"}))
async def test_a_client_that_is_too_old_is_told_so(server: ServerProcess, contract: Contract, rpc: str) -> None:
    """Whatever it calls ends in one reason, which a contract without its name carries as a number; nothing else happens."""
    async with connected(server, "keyswitch-python/0.0.9") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, contract, rpc, contract.request(rpc, MINIMAL[rpc]))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(raised.value) == "CLIENT_TOO_OLD"
    assert "0.0.9" in (raised.value.details() or "")
    assert "0.1.0" in (raised.value.details() or "")
    assert '"reason":"CLIENT_TOO_OLD"' in server.log.read_text()  # for the operator to see
    metadata = dict(raised.value.trailing_metadata() or ())
    detail = status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details[1]
    failure: Any = contract.message("DispatchFailure").FromString(detail.value)
    assert failure.reason == error_pb2.ERROR_REASON_CLIENT_TOO_OLD


async def test_a_client_that_is_too_old_may_ask_which_it_should_be(server: ServerProcess, contract: Contract) -> None:
    """GetRegistryInfo and health answer every client, as do all rpcs a client that is not this project's."""
    async with connected(server, "keyswitch-python/0.0.9") as channel:
        (raw,) = await call(channel, contract, "GetRegistryInfo", contract.request("GetRegistryInfo", {}))
        assert registry_service_pb2.GetRegistryInfoResponse.FromString(raw).min_client_version == "0.1.0"
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    async with connected(server, "grpcurl/v0.0.1") as channel:
        assert await call(channel, contract, "Generate", contract.request("Generate", MINIMAL["Generate"]))
