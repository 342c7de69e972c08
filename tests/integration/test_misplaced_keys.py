"""A key in a field that is not for keys is in no log, however the call ends."""

from __future__ import annotations

import pathlib

import grpc
import pytest
from canaries import MARK, found
from filling import leaves, put
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch_sandbox import Sandbox
from support import EGRESS, server_process

SHAPED = f"sk-proj-{MARK}0123456789abcdef{MARK}"
"""Looks like a provider's key, and is not that of the call."""
OWN = f"{MARK}-in-the-form-of-no-key-{MARK}"
"""That of the call, which looks like nothing."""
WAYS = [way for way in leaves(pb.GenerateRequest.DESCRIPTOR) if way[-1].type == FieldDescriptor.TYPE_STRING]


@pytest.mark.parametrize("key", [SHAPED, OWN])
async def test_a_key_in_any_field_is_not_logged(sandbox: Sandbox, tmp_path: pathlib.Path, key: str) -> None:
    """Put into each text of a request in turn, for a provider and for an endpoint, it shows in no line of the log."""
    credential = {"apiKey": {"key": OWN}}
    asked = {"messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "hi"}}]}]}
    endpoint = {"label": "mine", "baseUrl": f"{sandbox.url}/v1", "model": "sandbox/echo", "credential": credential}
    bases = (
        {
            **asked,
            "target": {"provider": "sandbox", "model": "sandbox/echo"},
            "credentials": [{"provider": "sandbox", "credential": credential}],
        },
        {**asked, "target": {"customEndpoint": endpoint}},
    )
    async with server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url}) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ended = 0
            for base in bases:
                for way in WAYS:
                    request = json_format.ParseDict(base, pb.GenerateRequest())
                    put(request, way, key)
                    try:
                        await DispatchServiceStub(channel).Generate(request, timeout=20)
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is not grpc.StatusCode.INTERNAL, [field.name for field in way]
                    ended += 1
        log = server.log.read_text()
    assert log.count('"event":"call"') == ended == 2 * len(WAYS)
    assert found("log", log) == []
