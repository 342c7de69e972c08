"""Real listeners that see whatever leaves a server, and raw calls, which no client library sends elsewhere."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from aiohttp import web
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.target_pb2 import CustomEndpoint
from keyswitch_client.errors import KeyswitchError, from_status
from keyswitch_client.requests import GenerateArguments, build

__all__ = ["Listeners", "Origin", "Seen", "endpoint", "generate", "origin", "stream", "told"]

_BOUND = ("127.0.0.1", "127.0.0.2", "127.255.255.254", "::1")


class Listeners:
    """Sockets on the addresses of this machine that a call could be led to, all at one port; nobody ever answers."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self.port = 0
        for address in _BOUND:
            listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            listener.setblocking(False)
            listener.bind((address, self.port))
            listener.listen(100)
            self.port = self.port or listener.getsockname()[1]
            self._sockets.append(listener)

    def connections(self) -> int:
        """Count the connections that were made since the last look; the kernel has them before a client does."""
        count = 0
        for listener in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    count += 1
        return count

    def close(self) -> None:
        for listener in self._sockets:
            listener.close()


class Seen(NamedTuple):
    """One request as it arrived."""

    path: str
    """With its query, as it stood on the line."""
    headers: dict[str, str]
    body: bytes
    connection: int
    """Port of the other end."""

    @property
    def text(self) -> str:
        """Everything of it in which a key could stand."""
        return f"{self.path}\n{self.headers}\n{self.body.decode('latin-1')}"


class Origin:
    """A provider that notes every request, and answers what its path asks for, or with what it was told to."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.port = 0
        self.status = 200
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Begin again."""
        self.seen.clear()
        self.status, self.headers = 200, {}

    async def answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.raw_path, headers, body, request.transport.get_extra_info("peername")[1]))
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status, headers=self.headers)
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        answers: dict[str, Any] = {"id": "c", "choices": [choice]}
        if "generateContent" in request.raw_path:
            answers = {"candidates": [{"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}]}
        if request.raw_path.endswith("/converse"):
            message = {"message": {"role": "assistant", "content": [{"text": "yes"}]}}
            answers = {"output": message, "stopReason": "end_turn"}
        return web.json_response(answers)


@contextlib.asynccontextmanager
async def origin() -> AsyncIterator[Origin]:
    """Start a provider of its own."""
    running = Origin()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", running.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running.port = runner.addresses[0][1]
    try:
        yield running
    finally:
        await runner.cleanup()


def endpoint(base_url: str, key: str = "", **fields: Any) -> CustomEndpoint:
    """Return an endpoint of the caller's own, which says that it needs no credential where there is no *key*."""
    made = CustomEndpoint(base_url=base_url, model="m", **fields)
    if key:
        made.credential.api_key.key = key
    else:
        made.credential.none.SetInParent()
    return made


def told(error: grpc.aio.AioRpcError) -> KeyswitchError:
    """Return what a status says."""
    return from_status(error.code(), error.details(), error.trailing_metadata())


async def generate(channel: grpc.aio.Channel, **arguments: Any) -> pb.GenerateResponse | KeyswitchError:
    """Call the server itself; return its answer, or its error."""
    try:
        return await DispatchServiceStub(channel).Generate(_request(pb.GenerateRequest, arguments), timeout=20)
    except grpc.aio.AioRpcError as error:
        return told(error)


async def stream(channel: grpc.aio.Channel, **arguments: Any) -> list[pb.StreamGenerateResponse] | KeyswitchError:
    """Call the server itself, as a stream."""
    call = DispatchServiceStub(channel).StreamGenerate(_request(pb.StreamGenerateRequest, arguments), timeout=20)
    try:
        return [message async for message in call]
    except grpc.aio.AioRpcError as error:
        return told(error)


def _request(kind: Any, arguments: dict[str, Any]) -> Any:
    """Build a request; `custom_endpoint` becomes its target."""
    request = kind()
    if (custom := arguments.pop("custom_endpoint", None)) is not None:
        request.target.custom_endpoint.CopyFrom(custom)
    return build(kind, GenerateArguments(request=request, **{"messages": "hi", **arguments}))
