from __future__ import annotations

import asyncio
import pathlib
import signal

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import error_pb2, usage_pb2
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch_client.channels import channel_options
from keyswitch_sandbox import Sandbox
from support import EGRESS, server_process

BODY = {
    "target": {"model": "sandbox/stall"},
    "credentials": [{"provider": "sandbox", "credential": {"apiKey": {"key": "k"}}}],
    "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "a b c"}}]}],
}


def asked(sandbox: Sandbox, after: int) -> int:
    """Return how often the provider was asked."""
    return sum(entry.model == "sandbox/stall" for entry in sandbox.journal if entry.number > after)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_call_whose_server_goes_away_is_not_sent_to_another(
    sandbox: Sandbox, tmp_path: pathlib.Path, number: signal.Signals, stream: bool
) -> None:
    """Once a provider was called no server is tried again by itself, whether the first one stopped or died."""
    env = {
        **EGRESS,
        "KEYSWITCH_SANDBOX_URL": sandbox.url,
        "KEYSWITCH_GRACE_SECONDS": "0",
        "KEYSWITCH_DRAIN_SECONDS": "0",
    }
    before = max((entry.number for entry in sandbox.journal), default=0)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    async with server_process(folders[0], env) as first, server_process(folders[1], env) as second:
        target = f"ipv4:{first.address},{second.address}"  # the second is there for when the first is gone
        async with grpc.aio.insecure_channel(target, channel_options(first.address, retries=True)) as channel:
            stub = DispatchServiceStub(channel)
            if stream:
                call = stub.StreamGenerate(json_format.ParseDict(BODY, pb.StreamGenerateRequest()))
                ending = asyncio.ensure_future(call.read())
            else:
                unary = stub.Generate(json_format.ParseDict(BODY, pb.GenerateRequest()))
                ending = asyncio.ensure_future(asyncio.wait_for(unary, 20))
            async with asyncio.timeout(10):
                while not asked(sandbox, before):
                    await asyncio.sleep(0.01)
            first.process.send_signal(number)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asyncio.wait_for(ending, 10)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            if number is signal.SIGTERM:
                metadata = dict(raised.value.trailing_metadata() or ())
                info = error_details_pb2.ErrorInfo()
                status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"])).details[0].Unpack(info)
                assert (info.reason, metadata["grpc-retry-pushback-ms"]) == ("SERVER_STOPPED", "-1")
                failure = error_pb2.DispatchFailure()
                status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"])).details[1].Unpack(failure)
                (attempt,) = failure.attempts  # it may be billed, so the caller is told of it
                assert (attempt.provider, attempt.outcome) == ("sandbox", usage_pb2.ATTEMPT_OUTCOME_CANCELLED)
            response = await stub.ExplainRoute(json_format.ParseDict(
                {name: BODY[name] for name in ("target", "credentials")}, pb.ExplainRouteRequest()
            ), timeout=10, wait_for_ready=True)  # fmt: skip
            assert response.routes[0].provider == "sandbox"
    assert asked(sandbox, before) == 1
