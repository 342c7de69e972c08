"""The health service, `grpc.health.v1`.

grpcio's own servicer writes to watchers while it holds a lock, so that one client which does not read freezes all
health changes, and with them the shutdown. This one hands each watcher the latest status and waits for nobody.
"""

from __future__ import annotations

import asyncio
import collections
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["Health"]

_Status = health_pb2.HealthCheckResponse.ServingStatus
_WRITE_SECONDS = 10.0
_MAX_WATCHERS = 100
"""Watches of one connection. All of them together have no limit, lest one client's keep another from hearing."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the library ships no types
    """Tells the status of each service, and of the server as a whole under the empty name."""

    def __init__(self, services: tuple[str, ...]) -> None:
        """Begin with everything not serving."""
        self._status = dict.fromkeys(("", *services), health_pb2.HealthCheckResponse.NOT_SERVING)
        self._changed = asyncio.Event()
        self._watchers: collections.Counter[str] = collections.Counter()
        self._over = False

    def set_all(self, *, serving: bool) -> None:
        """Change the status of every service, and tell the watchers."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._status = dict.fromkeys(self._status, status)
        self._changed.set()
        self._changed = asyncio.Event()

    def end_watches(self) -> None:
        """End every watch, which would go on for as long as its caller likes; a server that stops waits for none."""
        self._over = True
        self._changed.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of one service."""
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(
        self, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._status.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Write the status of one service now and whenever it changes; a watcher that does not read is dropped."""
        peer = context.peer()
        if self._watchers[peer] >= _MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches on one connection")
        self._watchers[peer] += 1
        last: int | None = None
        try:
            while True:
                changed = self._changed
                status = self._status.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != last:
                    last = status
                    async with asyncio.timeout(_WRITE_SECONDS):
                        await context.write(health_pb2.HealthCheckResponse(status=status))
                if self._over:
                    break
                await changed.wait()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the watcher does not read")
        finally:
            self._watchers[peer] -= 1
            if not self._watchers[peer]:
                del self._watchers[peer]
