"""Logging: JSON lines on stderr, by allow-list.

What is logged is chosen, nothing is dumped: a key that is not listed here is dropped, and of an exception only its type
and the places it passed are kept, since texts of exceptions hold what users sent. The standard library's loggers go the
same way, since gRPC logs tracebacks there, and so does what Python shows of failures that nobody handles.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, cast

import msgspec
import structlog
from keyswitch_engine.crash import places, report_by
from keyswitch_engine.operator import ANONYMOUS

from keyswitch_server.caller import current_caller

__all__ = ["ALLOWED", "Logger", "configure", "log_call", "log_fields", "log_incident"]

ALLOWED = frozenset(
    {
        "event", "level", "timestamp", "logger",
        "method", "code", "reason", "provider", "model", "dialect", "endpoint", "duration_ms",
        "upstream_status", "upstream_request_id", "input_tokens", "output_tokens", "attempts", "incident",
        "exception_type", "exception_places", "listening", "version", "registry", "registry_before", "provider_count",
        "problem", "caller", "setting", "tls", "authentication",
        "egress_private_networks", "egress_plain_http_hosts", "egress_ports", "signal", "tasks_left", "fields_dropped",
    }
)  # fmt: skip
"""Every key that may appear in a log line."""


def _name_caller(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add who calls, where somebody proved to; what is logged in a call need not know."""
    caller = current_caller()
    if caller != ANONYMOUS:
        event["caller"] = caller
    return event


def _allow(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop what is not listed, and say how much that was."""
    dropped = [key for key in event if key not in ALLOWED]
    for key in dropped:
        del event[key]
    if dropped:
        event["fields_dropped"] = len(dropped)
    return event


def _serialise(event: object, **options: object) -> str:
    """Serialise a line; every value in it is one of plain types."""
    try:
        return msgspec.json.encode(event).decode()
    except UnicodeEncodeError:  # a file's name need not be text
        return json.dumps(event)


class _Nowhere(io.TextIOBase):
    """Takes everything: the process has no standard error."""

    def write(self, text: str) -> int:
        """Drop text."""
        return len(text)


_NOWHERE = _Nowhere()


class _Tolerant:
    """A stream that nobody may read any more: a full disk or a reader that left costs a line, never a call."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, if that can be."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, if that can be."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


Logger = structlog.typing.FilteringBoundLogger
"""What the server logs to."""


def configure(level: str, stream: Any = None) -> Logger:
    """Set up logging for the process and return the logger."""
    log: Logger = structlog.wrap_logger(
        structlog.WriteLogger(cast("Any", _Tolerant(stream or sys.stderr or _NOWHERE))),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_caller,
            _allow,
            structlog.processors.JSONRenderer(serializer=_serialise),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    ).bind()

    def report(level: int, source: str, kind: str, where: Sequence[str]) -> None:
        fields = log_fields({"logger": source, "exception_type": kind, "exception_places": list(where)})
        log.log(level, "library message", **fields)

    report_by(report)
    return log


def log_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known."""
    return {key: value for key, value in values.items() if value not in (None, "")}


def log_call(log: Logger, method: str, code: str, *, began: float, fields: Mapping[str, Any]) -> None:
    """Log how a call ended that began at a time of the loop's clock; *method* may be its name or its path."""
    duration = round((asyncio.get_running_loop().time() - began) * 1000, 1)
    log.info("call", method=method.rpartition("/")[2], code=code, duration_ms=duration, **log_fields(fields))


def log_incident(log: Logger, error: BaseException, *, method: str) -> str:
    """Log a bug of ours by its type and places; *method* says where it showed. Return the incident's id."""
    incident = secrets.token_hex(8)
    log.error(
        "incident",
        method=method,
        incident=incident,
        exception_type=type(error).__name__,
        exception_places=places(error),
    )
    return incident
