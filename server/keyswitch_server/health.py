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
_LAST_WRITE_SECONDS = 0.5
"""How long watchers have to take the last status of a server that stops."""
_MAX_WATCHERS = 100
"""Watches of one connection. All of them together have no limit, lest one client's keep another from hearing."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the library ships no types
    """Tells the status of each service, and of the server as a whole under the empty name."""

    def __init__(self, services: tuple[str, ...]) -> None:
        """Begin with everything not serving."""
        self._status = dict.fromkeys(("", *services), health_pb2.HealthCheckResponse.NOT_SERVING)
        self._changed = asyncio.Event()
        self._watchers: collections.Counter[str] = collections.Counter()
        self._watches: set[asyncio.Task[Any]] = set()
        self._over = False

    def set_all(self, *, serving: bool) -> None:
        """Change the status of every service, and tell the watchers."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._status = dict.fromkeys(self._status, status)
        self._changed.set()
        self._changed = asyncio.Event()

    def end_watches(self) -> None:
        """End every watch, which would go on for as long as its caller likes; a server that stops waits for none.

        Who does not read hears of it with the end of the connection.
        """
        self._over = True
        self._changed.set()
        asyncio.get_running_loop().call_later(_LAST_WRITE_SECONDS, self._drop_watches)

    def _drop_watches(self) -> None:
        """Leave every watch that has not ended, whose caller does not read."""
        for watch in self._watches:
            watch.cancel()

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
        peer, watch = context.peer(), asyncio.current_task()
        if watch is None:
            raise RuntimeError("a handler runs in a task")
        if self._watchers[peer] >= _MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches on one connection")
        self._watchers[peer] += 1
        self._watches.add(watch)
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
            self._watches.discard(watch)
            self._watchers[peer] -= 1
            if not self._watchers[peer]:
                del self._watchers[peer]
