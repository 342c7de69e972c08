"""Channels to a server: options, and the retries that gRPC itself makes."""

from __future__ import annotations

import functools
import json

__all__ = ["HEALTH_METHOD", "channel_options", "deadline", "health_request", "health_status"]

_MAX_MESSAGE = 36 * 1024 * 1024

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "keyswitch.v1.DispatchService"}, {"service": "keyswitch.v1.RegistryService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 1},
}
"""CANCELLED is what gRPC tells of calls that a stopping server had received and not begun; no others are retried."""

_SEVERAL = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "keyswitch.v1.DispatchService"},
}
"""Calls go to all servers of a target in turn, and to none from the moment on at which it says that it will stop."""


def channel_options(target: str, *, retries: bool, proxies: bool = True) -> list[tuple[str, str | int]]:
    """Return the options of a channel.

    A target with a scheme, as `dns:///keyswitch.internal:50551` or `ipv4:10.0.0.1:50551,10.0.0.2:50551`, may be several
    servers, which are used in turn.

    Retries are gRPC's: a call that found no server, or one that was full or about to stop and said when to come back.
    The service forbids them where a provider may have been called. Without *proxies* the environment's are not asked:
    what goes unencrypted to this machine must not take a way around by another one.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", _user_agent()),
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.max_send_message_length", _MAX_MESSAGE),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_retries", int(retries)),
        ("grpc.enable_http_proxy", int(proxies)),
    ]
    service_config = (_SERVICE_CONFIG if retries else {}) | (_SEVERAL if _may_be_several(target) else {})
    if service_config:
        options.append(("grpc.service_config", json.dumps(service_config)))
    return options


def _may_be_several(target: str) -> bool:
    """Tell whether a target may be several servers."""
    return target.startswith(("dns:", "ipv4:", "ipv6:", "xds:"))


@functools.cache
def _user_agent() -> str:
    """Return what tells a server which version of this library calls it."""
    import importlib.metadata  # noqa: PLC0415 - a fifth of what it costs to import this library

    try:
        return f"keyswitch-python/{importlib.metadata.version('keyswitch')}"
    except importlib.metadata.PackageNotFoundError:  # run from its sources, which servers take as they do any client
        return "keyswitch-python"


_CENTURY = 100 * 365 * 86_400.0


def deadline(timeout: float | None, default: float | None) -> float | None:
    """Return the seconds that gRPC gives a call, None for no end: infinity would overflow its clock and end at once."""
    seconds = default if timeout is None else timeout
    return None if seconds is not None and seconds > _CENTURY else seconds


HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def health_request(service: str) -> bytes:
    """Serialise `grpc.health.v1.HealthCheckRequest`: one string, field 1.

    grpcio-health-checking has the message, but needs a newer protobuf than a client may have.
    """
    name = service.encode()
    if len(name) > 127:  # noqa: PLR2004 - the largest length that takes one byte, more than any service's name
        raise ValueError("a service's name has at most 127 bytes")
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def health_status(response: bytes) -> str:
    """Read `grpc.health.v1.HealthCheckResponse`: one enum, field 1, absent for UNKNOWN."""
    return _STATUSES.get(response[1] if response[:1] == b"\x08" else 0, "UNKNOWN")
