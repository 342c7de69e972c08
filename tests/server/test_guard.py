from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from keyswitch.v1 import (
    dispatch_service_pb2,
    dispatch_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_server import logging
from keyswitch_server.authentication import Authenticator
from keyswitch_server.caller_limits import CallerLimits
from keyswitch_server.gate import Gate
from keyswitch_server.guard import Guard, commit
from keyswitch_server.policies import Policy

SECRET = "hidden-in-the-text"


async def stray_cancel(request: bytes, context: object) -> bytes:
    raise asyncio.CancelledError


async def group(request: bytes, context: object) -> bytes:
    raise BaseExceptionGroup("group", [asyncio.CancelledError(SECRET), ValueError(SECRET)])


async def system_exit(request: bytes, context: object) -> bytes:
    raise SystemExit(SECRET)


async def interrupt(request: bytes, context: object) -> bytes:
    raise KeyboardInterrupt(SECRET)


async def plain(request: bytes, context: object) -> bytes:
    raise ValueError(SECRET)


async def dispatch_error(request: bytes, context: object) -> bytes:
    raise DispatchError(Reason.MODEL_NOT_FOUND, "no such model")


async def fine(request: bytes, context: object) -> bytes:
    return request


BEHAVIOURS: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
    "stray_cancel": stray_cancel,
    "group": group,
    "system_exit": system_exit,
    "interrupt": interrupt,
    "plain": plain,
    "dispatch_error": dispatch_error,
    "fine": fine,
    "unlisted": fine,
}


async def streamed(behaviour: Callable[[bytes, Any], Awaitable[bytes]], request: bytes, context: Any) -> None:
    await context.write(b"first")
    await behaviour(request, context)


@pytest.fixture
async def served() -> AsyncIterator[tuple[grpc.aio.Channel, io.StringIO]]:
    out = io.StringIO()
    log = logging.configure("info", out)
    handlers = {name: grpc.unary_unary_rpc_method_handler(behaviour) for name, behaviour in BEHAVIOURS.items()}
    for name, behaviour in BEHAVIOURS.items():

        async def stream(request: bytes, context: Any, behaviour: Any = behaviour) -> None:
            await streamed(behaviour, request, context)

        handlers[f"{name}_stream"] = grpc.unary_stream_rpc_method_handler(stream)
    open_to_all = dict.fromkeys(
        (f"/test.Service/{name}" for name in handlers if not name.startswith("unlisted")), Policy.OPEN
    )
    server = grpc.aio.server(interceptors=[Guard(log, Gate(Authenticator(), CallerLimits({}), open_to_all))])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, out
    await server.stop(0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["stray_cancel", "group", "system_exit", "interrupt", "plain"])
async def test_whatever_a_handler_raises_ends_as_an_incident(
    served: tuple[grpc.aio.Channel, io.StringIO], name: str, stream: bool
) -> None:
    """The call ends INTERNAL with an incident id; the text of the exception is neither on the wire nor in the log."""
    channel, out = served
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        if stream:
            async for _ in channel.unary_stream(f"/test.Service/{name}_stream")(b"x", timeout=5):
                pass
        else:
            await channel.unary_unary(f"/test.Service/{name}")(b"x", timeout=5)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    incident = next(line for line in lines if line["event"] == "incident")
    assert incident["incident"] in (raised.value.details() or "")
    assert any("test_guard.py" in place for place in incident["exception_places"])
    assert SECRET not in out.getvalue() + str(raised.value) + repr(raised.value.trailing_metadata())
    assert await channel.unary_unary("/test.Service/fine")(b"still here", timeout=5) == b"still here"


class Raising:
    """A servicer all of whose methods raise the same."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def behaviour(request: Any, context: Any) -> None:
            if hasattr(request, "__aiter__"):
                await anext(request)
            raise self._error(
                *([SECRET, [ValueError(SECRET)]] if issubclass(self._error, BaseExceptionGroup) else [SECRET])
            )

        return behaviour


SERVICES: dict[Any, Any] = {
    dispatch_service_pb2.DESCRIPTOR: dispatch_service_pb2_grpc.add_DispatchServiceServicer_to_server,
    registry_service_pb2.DESCRIPTOR: registry_service_pb2_grpc.add_RegistryServiceServicer_to_server,
    health_pb2.DESCRIPTOR: health_pb2_grpc.add_HealthServicer_to_server,
    reflection_pb2.DESCRIPTOR: reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
}


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError, BaseExceptionGroup, SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration,
        RecursionError, MemoryError, ConnectionResetError, TimeoutError,
    ],
)  # fmt: skip
async def test_whatever_any_method_of_any_service_raises_has_a_status(error: type[BaseException]) -> None:
    """Health and reflection too end INTERNAL with an incident, whatever it was, and the server serves on."""
    out = io.StringIO()
    log = logging.configure("info", out)
    server = grpc.aio.server(interceptors=[Guard(log, Gate(Authenticator(), CallerLimits({})))])
    for add in SERVICES.values():
        add(Raising(error), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended: dict[str, grpc.StatusCode] = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        methods = [m for file in SERVICES for service in file.services_by_name.values() for m in service.methods]
        for method in methods:
            path = f"/{method.containing_service.full_name}/{method.name}"
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                if method.client_streaming:
                    await channel.stream_stream(path)(iter([b""]), timeout=5).read()
                elif method.server_streaming:
                    await channel.unary_stream(path)(b"", timeout=5).read()
                else:
                    await channel.unary_unary(path)(b"", timeout=5)
            ended[path] = raised.value.code()
            assert SECRET not in str(raised.value) + repr(raised.value.trailing_metadata())
    await server.stop(0)
    assert len(ended) >= 15
    assert set(ended.values()) == {grpc.StatusCode.INTERNAL}
    assert out.getvalue().count('"event":"incident"') == len(ended)
    assert SECRET not in out.getvalue()


async def test_an_error_of_ours_is_its_status(served: tuple[grpc.aio.Channel, io.StringIO]) -> None:
    """A DispatchError is no incident but the status of its reason."""
    channel, out = served
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/test.Service/dispatch_error")(b"x", timeout=5)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such model")
    assert "incident" not in out.getvalue()


async def test_a_method_that_nobody_serves_is_unimplemented(served: tuple[grpc.aio.Channel, io.StringIO]) -> None:
    """GRPC's own answer for unknown methods stays."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served[0].unary_unary("/test.Service/nothing")(b"x", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["unlisted", "unlisted_stream"])
async def test_a_method_without_a_policy_is_refused_to_everybody(
    served: tuple[grpc.aio.Channel, io.StringIO], name: str
) -> None:
    """What the table of policies does not have is CALLER_NOT_PERMITTED, and its handler never runs."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served[0].unary_stream(f"/test.Service/{name}")(b"x", timeout=5).read()
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    (line,) = [json.loads(line) for line in served[1].getvalue().splitlines()]
    assert (line["reason"], line["method"]) == ("CALLER_NOT_PERMITTED", name)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\x05\xff", b"\x1a\x02" * 5000])
@pytest.mark.parametrize("method", ["Generate", "StreamGenerate", "ExplainRoute"])
async def test_a_request_that_cannot_be_decoded_has_a_typed_status(
    channel: grpc.aio.Channel, method: str, garbage: bytes
) -> None:
    """Bytes that are no message of the contract are INVALID_REQUEST, with the details of every other status."""
    path = f"/keyswitch.v1.DispatchService/{method}"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        if method == "StreamGenerate":
            await channel.unary_stream(path)(garbage, timeout=5).read()
        else:
            await channel.unary_unary(path)(garbage, timeout=5)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    metadata = dict(raised.value.trailing_metadata() or ())
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"])).details[0].Unpack(info)
    assert info.reason == "INVALID_REQUEST"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_a_stream_of_requests_that_cannot_be_decoded_is_no_bug(channel: grpc.aio.Channel, version: str) -> None:
    """Garbage sent to reflection is the caller's fault, too."""
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")(
        iter([b"\xff\xff"]), timeout=5
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("moment", ["before", "during", "after"])
async def test_a_call_that_is_broken_off_has_a_status_whenever_that_is(moment: str) -> None:
    """Before, while or after the headers of its answer are sent, the end of the server is told, and forbids a retry."""
    log = logging.configure("info", io.StringIO())
    guard = Guard(log, Gate(Authenticator(), CallerLimits({}), {"/test.Service/call": Policy.OPEN}))

    async def behaviour(request: bytes, context: Any) -> None:
        if moment == "after":
            await commit(context)
        asyncio.get_running_loop().call_soon(guard.break_off)
        if moment == "during":
            await commit(context)
        await asyncio.sleep(30)

    server = grpc.aio.server(interceptors=[guard])
    handlers = {"call": grpc.unary_stream_rpc_method_handler(behaviour)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_stream("/test.Service/call")(b"", timeout=10).read()
        assert (raised.value.code(), raised.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the server stopped before the call was over",
        )
        assert dict(raised.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "-1"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_stream("/test.Service/call")(b"", timeout=10).read()
        assert raised.value.details() == "the server is stopping"
        assert "grpc-retry-pushback-ms" not in dict(raised.value.trailing_metadata() or ())
    await server.stop(0)


class SlowGate(Authenticator):
    """Takes until it is told to know a caller."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.knows = asyncio.Event()

    async def caller(self, context: Any) -> str:
        self.asked.set()
        await self.knows.wait()
        return "blue"


async def test_a_call_that_the_gate_let_in_too_late_is_refused() -> None:
    """A call that the end of the server found in the gate is told so at once, whether its request comes or not."""
    log = logging.configure("info", io.StringIO())
    slow = SlowGate()
    policies = {"/test.Service/fine": Policy.AUTHENTICATED}
    guard = Guard(log, Gate(slow, CallerLimits({}), policies))
    server = grpc.aio.server(interceptors=[guard])
    handlers = {"fine": grpc.unary_unary_rpc_method_handler(fine)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        silent = channel.stream_unary("/test.Service/fine")()
        await slow.asked.wait()
        guard.refuse()
        slow.knows.set()
        async with asyncio.timeout(2):
            assert (await silent.code(), await silent.details()) == (
                grpc.StatusCode.UNAVAILABLE,
                "the server is stopping",
            )
    await server.stop(0)
