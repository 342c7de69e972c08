"""The composition root: builds everything, passes it in, and takes it down in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2_grpc
from keyswitch.v1 import dispatch_service_pb2_grpc, registry_service_pb2_grpc
from keyswitch_engine.cost import PriceTable
from keyswitch_engine.dispatch import Dispatcher
from keyswitch_engine.egress import Egress

from keyswitch_server.callers import read_callers
from keyswitch_server.dispatch_service import DispatchService
from keyswitch_server.guard import Guard
from keyswitch_server.health import Health
from keyswitch_server.live_file import UnusableFileError, watched
from keyswitch_server.live_registry import LiveRegistry
from keyswitch_server.logging import Logger
from keyswitch_server.reflection import add_reflection
from keyswitch_server.registry_loading import load_registry
from keyswitch_server.registry_service import RegistryService
from keyswitch_server.settings import Settings

__all__ = ["ListenError", "UnusableFileError", "serve"]

_SERVICES = ("keyswitch.v1.DispatchService", "keyswitch.v1.RegistryService")
_SHOWN = (*_SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


_LAST_CALLS_SECONDS = 0.2
"""How long calls that came before the end of listening have to be refused."""
_MAX_METADATA_BYTES = 16 * 1024
"""Size of the headers of a call from which it is refused; between two limits, as gRPC has them, chance would decide."""
_MAX_PENDING = 20_000
"""Calls that gRPC has and nobody picked up yet. It ends further ones as CANCELLED, where admission says OVERLOADED."""
_HANDSHAKE_MS = 20_000
"""Milliseconds until a connection speaks HTTP/2."""
_LAST_WORDS_SECONDS, _HURRIED_SECONDS = 5.0, 1.0
"""How long calls that are broken off have to send their status, and after a second signal."""


class ListenError(Exception):
    """The server cannot listen where it was told to; the message says why."""


async def serve(settings: Settings, log: Logger, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then let calls finish; a second signal stops at once. SIGHUP reloads providers.

    *on_listening* gets HOST:PORT once calls are accepted.

    Raises:
        UnusableFileError: a file of certificates, tokens or keys cannot be used.
        RegistryError: a provider file, or what the operator lays down beside them, is invalid.
        ListenError: the address cannot be listened on, for example since its port is in use.
    """
    callers = read_callers(settings, log)
    live = LiveRegistry(lambda: load_registry(settings), settings.providers, log)
    version = importlib.metadata.version("keyswitch")
    guard = Guard(log, callers.gate, settings.patience())
    policy = settings.egress_policy()
    if opened := settings.opened():
        log.warning("egress_opened", problem="callers can reach more than public addresses over TLS", **opened)
    if settings.lacks:
        log.warning("insecure_listen", problem=settings.lacks)
    async with Egress(policy) as egress:
        server = grpc.aio.server(interceptors=[guard], options=_options(settings))
        generic = cast("grpc.aio.Server", _GenericOnly(server))
        dispatch_service_pb2_grpc.add_DispatchServiceServicer_to_server(
            DispatchService(
                live,
                Dispatcher(egress, PriceTable()),
                settings.bounds(),
                log=log,
                broken_off=lambda: guard.broken_off,
            ),
            generic,
        )
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
            RegistryService(live, version),
            generic,
        )
        health = Health(_SERVICES)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        if settings.reflection:
            add_reflection(generic, _SHOWN)
        address = _listen(server, settings.listen, callers.credentials)
        await server.start()
        health.set_all(serving=True)
        log.info(
            "listening",
            listening=address,
            version=version,
            registry=live().fingerprint,
            provider_count=len(live().providers),
            tls=callers.credentials is not None,
            authentication=callers.methods,
        )
        try:
            async with live.watched(settings.providers_reload_seconds), watched(callers.files):
                with _signals(log, live.reload) as (stop, at_once):
                    _keep_what_is_here()
                    on_listening(address)
                    await stop.wait()
                    health.set_all(serving=False)
                    await _drain(server, guard, health, settings, at_once)
        finally:
            await server.stop(0)
        log.info("stopped", tasks_left=len(asyncio.all_tasks()) - 1)


def _keep_what_is_here() -> None:
    """Spare modules, registry and prices the garbage collector, since they stay until the end.

    A full collection would walk through all of them and hold every call up: measured, for 53 ms, and 1 ms without them.
    """
    gc.collect()
    gc.freeze()


class _GenericOnly:
    """A server as generated code adds services to it, which registers none of their methods with gRPC's core.

    For every registered method grpc.aio keeps a task that waits for its next call, and every call of any method walks
    through all of them: measured, a fifteenth of a call's CPU. Found by name, methods are the same to callers, but that
    they share a queue; the probes of health have one of their own, which calls that come in thousands do not hold up.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Leave it at the generic handlers, which generated code adds as well."""


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Return the transport's options; `so_reuseport` would let a second server take half of the calls in silence."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_total_timeout * 1000)),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _listen(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    """Bind the address, and return it with the port that it got."""
    host = listen.rpartition(":")[0]
    try:
        port = server.add_insecure_port(listen) if credentials is None else server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ListenError(
            f"cannot listen on {listen}: the port is in use, or the address is not this machine's"
        ) from error
    return f"{host}:{port}"


@contextlib.contextmanager
def _signals(log: Logger, on_hangup: Callable[[], None]) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Listen to signals; yield the events that the first and the second one to stop set. SIGHUP calls *on_hangup*."""
    stop, at_once = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        (at_once if stop.is_set() else stop).set()
        log.info("stopping", signal=name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        yield stop, at_once
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


async def _drain(
    server: grpc.aio.Server, guard: Guard, health: Health, settings: Settings, at_once: asyncio.Event
) -> None:
    """Refuse new calls, let those in flight finish, break the others off, and wait for their cleaning up."""
    if settings.drain_seconds:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), settings.drain_seconds)
    guard.refuse()
    health.end_watches()
    with contextlib.suppress(TimeoutError):  # calls that gRPC has and nobody picked up would end without a status
        await asyncio.wait_for(at_once.wait(), _LAST_CALLS_SECONDS)
    stopping = asyncio.ensure_future(server.stop(settings.grace_seconds + _LAST_WORDS_SECONDS))
    enough = [asyncio.ensure_future(waited) for waited in (at_once.wait(), guard.wait_idle())]
    await asyncio.wait((stopping, *enough), timeout=settings.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
    for waited in enough:
        waited.cancel()
    guard.break_off()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(guard.wait_idle(), _HURRIED_SECONDS if at_once.is_set() else _LAST_WORDS_SECONDS)
    await asyncio.wait((stopping,), timeout=_HURRIED_SECONDS)  # it waits for streams that nobody reads, too
    stopping.cancel()  # two stops at a time crash gRPC
    await asyncio.wait((stopping,))
    await server.stop(0)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(guard.wait_idle(), _HURRIED_SECONDS)
