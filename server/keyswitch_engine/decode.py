"""Captured answers, decoded as the engine decodes live ones: what `keyswitch decode` prints."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from keyswitch_engine.content import answer_mode
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Dialect, Profile
from keyswitch_engine.errors import DispatchError, Reason, StreamTruncated
from keyswitch_engine.events import (
    ArgumentsDelta,
    BlockEvent,
    BlockStart,
    Ending,
    ReasoningDelta,
    RefusalDelta,
    StopReason,
    TextDelta,
    ToolCallBlock,
    Usage,
)
from keyswitch_engine.registry import Registry
from keyswitch_engine.secret import scrub
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["ERROR_CLASSES", "UnknownProtocolError", "cut", "decode_answer"]

ERROR_CLASSES: Mapping[Reason, str] = {
    Reason.INVALID_CREDENTIAL: "auth",
    Reason.CREDENTIAL_NOT_PERMITTED: "permission",
    Reason.INSUFFICIENT_CREDIT: "billing",
    Reason.PROVIDER_RATE_LIMITED: "rate_limited",
    Reason.MODEL_NOT_FOUND: "not_found",
    Reason.PROVIDER_REJECTED_REQUEST: "invalid_request",
    Reason.CONTEXT_OVERFLOW: "context_overflow",
    Reason.CONTENT_REFUSED: "content_policy",
    Reason.PROVIDER_OVERLOADED: "overloaded",
    Reason.PROVIDER_UNAVAILABLE: "upstream",
    Reason.PROVIDER_PROTOCOL_ERROR: "upstream",
    Reason.STREAM_TRUNCATED: "upstream",
}
"""The class of every failure that an answer's bytes can show."""

_FINISH = {
    StopReason.STOP: "stop",
    StopReason.LENGTH: "length",
    StopReason.TOOL_CALLS: "tool_calls",
    StopReason.CONTENT_FILTER: "content_filter",
    StopReason.REFUSAL: "refusal",
    StopReason.PAUSE: "pause",
    StopReason.OTHER: "other",
    StopReason.UNKNOWN: "none",
}


class UnknownProtocolError(ValueError):
    """The protocol of a captured answer is none that this build speaks."""


def decode_answer(
    registry: Registry,
    *,
    provider: str,
    protocol: str,
    status: int,
    headers: Mapping[str, str],
    stream: bool | None,
    chunks: Iterable[bytes],
) -> dict[str, object]:
    """Decode a captured answer into one JSON-able object.

    *provider* is an id or alias; one without a row takes its dialect's defaults. *protocol* may be empty for the
    provider's first dialect. *stream* None means: as the content type says. Usage is the provider's own count.

    Raises:
        UnknownProtocolError: this build does not speak *protocol*.
    """
    dialect, profile = _profile(registry, provider, protocol)
    lower = {name.lower(): value for name, value in headers.items()}
    out = _Outcome()
    try:
        if status >= 300:  # noqa: PLR2004 - everything else is an answer, RFC 9110
            raise dialect.error(profile, status, lower, b"".join(chunks))
        decoder = dialect.decoder(profile, stream=answer_mode(lower, streamed=bool(stream)))
        try:
            for chunk in chunks:
                out.add(decoder.feed(chunk))
            events, ending = decoder.end()
        except DispatchError:
            out.add(decoder.pending)
            out.usage = decoder.usage()
            raise
        out.add(events)
        out.end(ending)
    except StreamTruncated:
        out.outcome = "truncated"
    except DispatchError as error:
        out.fail(error)
    return out.json()


def _profile(registry: Registry, provider: str, protocol: str) -> tuple[Dialect, Profile]:
    """Find the provider's way of speaking a protocol."""
    row = registry.find(provider) if provider else None
    for surface in row.dialects if row else ():
        if not protocol or surface.dialect.name == protocol:
            return surface.dialect, surface.profile
    dialect = DIALECTS.get(protocol or "openai-chat")
    if dialect is None:
        raise UnknownProtocolError(f"protocol {protocol!r} is not one of {', '.join(sorted(DIALECTS))}")
    return dialect, Profile(provider, "/", dialect.flags())


class _Outcome:
    """Gathers what an answer amounts to."""

    def __init__(self) -> None:
        self.outcome = "ok"
        self.usage: Usage | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}
        self._finish, self._finish_raw = "none", ""
        self._error: dict[str, object] | None = None
        self._events = 0

    def add(self, events: Sequence[BlockEvent]) -> None:
        self._events += len(events)
        for event in events:
            match event:
                case TextDelta(text=text):
                    self._text.append(text)
                case ReasoningDelta(text=text):
                    self._reasoning.append(text)
                case ArgumentsDelta(index=index, fragment=fragment):
                    self._calls[index][1].append(fragment)
                case RefusalDelta(text=text):
                    self._refusal.append(text)
                case BlockStart(index=index, block=ToolCallBlock(name=name)):
                    self._calls[index] = (name, [])
                case _:
                    pass

    def end(self, ending: Ending) -> None:
        self._finish, self._finish_raw, self.usage = _FINISH[ending.stop_reason], ending.raw_stop_reason, ending.usage

    def fail(self, error: DispatchError) -> None:
        self.outcome, self._finish = "error", "error"
        self._error = {
            "status": error.upstream_status,
            "class": ERROR_CLASSES[error.reason],
            "reason": error.reason.value,
            "message": scrub(error.message),
        }

    def json(self) -> dict[str, object]:
        reported = self.usage.reported if self.usage is not None else None
        counts = (
            None
            if reported is None
            else {
                "input": reported.input_tokens,
                "output": reported.output_tokens,
                "reasoning": reported.reasoning_tokens,
                "cached": reported.cache_read_tokens,
            }
        )
        return {
            "outcome": self.outcome,
            "text": "".join(self._text),
            "reasoning": "".join(self._reasoning),
            "refusal": "".join(self._refusal),
            "tool_calls": [
                {"name": name, "arguments": _arguments("".join(pieces))} for name, pieces in self._calls.values()
            ],
            "finish": self._finish,
            "finish_raw": self._finish_raw,
            "usage": counts,
            "error": self._error,
            "events": self._events,
        }


def _arguments(text: str) -> Any:
    """Parse arguments; what is not JSON stays text under `_raw`."""
    try:
        return msgspec.json.decode(text)
    except MALFORMED_JSON:
        return {"_raw": text}


def cut(body: bytes, chunk_bytes: str | None, chunk_sizes: Sequence[int] | None) -> Iterator[bytes]:
    """Cut a body as a transport might: *chunk_bytes* is a number or `random:SEED`, *chunk_sizes* a list; else whole.

    Raises:
        ValueError: *chunk_bytes* is neither, or a size is not positive.
    """
    if chunk_bytes:
        kind, _, seed = chunk_bytes.partition(":")
        if kind == "random" and seed:
            source = random.Random(seed)  # noqa: S311 - repeatable cuts, not secrets
            sizes: Iterator[int] = iter(lambda: source.choice((1, 2, 3, 7, 30, 200, 1500)), None)
        else:
            size = int(kind)
            if size < 1 or seed:
                raise ValueError("chunk_bytes must be a positive number or random:SEED")
            sizes = iter(lambda: size, None)
    else:
        sizes = iter(chunk_sizes or ())
    position = 0
    while position < len(body):
        size = next(sizes, len(body))
        if size < 1:
            raise ValueError("chunk sizes must be positive")
        yield body[position : position + size]
        position += size
