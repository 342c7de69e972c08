"""Events of a stream, as small frozen values to `match` on.

Only what most callers need is spelt out; `BlockStart`, `Started` and `Finished` give the contract's own messages in
`.message`.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

from keyswitch.v1 import conversation_pb2, event_pb2, usage_pb2

from keyswitch_client.enums import value_name

__all__ = [
    "ArgumentsDelta", "BlockStart", "BlockStop", "Citation", "Event", "Finished", "Logprobs", "MediaDelta",
    "ReasoningDelta", "RefusalDelta", "Started", "TextDelta", "ToolCallStart", "read_event",
    "stop_reason_name",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A provider accepted the request; a later one replaces an earlier one."""

    message: event_pb2.Started


@dataclasses.dataclass(frozen=True, slots=True)
class BlockStart:
    """A block other than a tool call begins: `text`, `reasoning`, `refusal`, `image`, `audio` or `opaque`."""

    index: int
    kind: str
    message: event_pb2.BlockStart


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class TextDelta:
    """More text."""

    index: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More reasoning."""

    index: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A fragment of a tool call's arguments, exactly as the provider sent it."""

    index: int
    fragment: str


@dataclasses.dataclass(frozen=True, slots=True)
class RefusalDelta:
    """More of a refusal."""

    index: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class MediaDelta:
    """More bytes of an image or a sound."""

    index: int
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Citation:
    """A source that a text block quotes."""

    index: int
    message: event_pb2.Citation


@dataclasses.dataclass(frozen=True, slots=True)
class Logprobs:
    """Log probabilities of a text block's tokens."""

    index: int
    message: event_pb2.LogprobsDelta


@dataclasses.dataclass(frozen=True, slots=True)
class BlockStop:
    """A block is complete; the state has to go back to the provider with it."""

    index: int
    provider_state: conversation_pb2.ProviderState | None


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete."""

    stop_reason: str
    """For example `STOP`, `LENGTH`, `TOOL_CALLS`."""
    usage: usage_pb2.Usage | None
    message: event_pb2.Finished


Event: TypeAlias = (
    Started
    | BlockStart
    | ToolCallStart
    | TextDelta
    | ReasoningDelta
    | ArgumentsDelta
    | RefusalDelta
    | MediaDelta
    | Citation
    | Logprobs
    | BlockStop
    | Finished
)


def stop_reason_name(message: event_pb2.Finished) -> str:
    """Return the stop reason without its prefix; a value of a newer server is shown as its number."""
    return value_name(event_pb2.StopReason, message.stop_reason, "STOP_REASON_")


def read_event(message: event_pb2.Event) -> Event | None:
    """Return the value for an event's message; None for one of a newer server, which readers ignore."""
    match message.WhichOneof("event"):
        case "block_delta":
            return _delta(message.block_delta)
        case "block_start":
            start = message.block_start
            kind = start.WhichOneof("kind")
            if kind == "tool_call":
                return ToolCallStart(start.index, start.tool_call.id, start.tool_call.name)
            return BlockStart(start.index, kind, start) if kind else None
        case "block_stop":
            stop = message.block_stop
            return BlockStop(stop.index, stop.provider_state if stop.HasField("provider_state") else None)
        case "started":
            return Started(message.started)
        case "finished":
            finished = message.finished
            usage = finished.usage if finished.HasField("usage") else None
            return Finished(stop_reason_name(finished), usage, finished)
        case _:
            return None


def _delta(delta: event_pb2.BlockDelta) -> Event | None:
    """Return the value for a delta."""
    match delta.WhichOneof("delta"):
        case "text":
            return TextDelta(delta.index, delta.text)
        case "reasoning":
            return ReasoningDelta(delta.index, delta.reasoning)
        case "arguments":
            return ArgumentsDelta(delta.index, delta.arguments)
        case "refusal":
            return RefusalDelta(delta.index, delta.refusal)
        case "media":
            return MediaDelta(delta.index, delta.media)
        case "citation":
            return Citation(delta.index, delta.citation)
        case "logprobs":
            return Logprobs(delta.index, delta.logprobs)
        case _:
            return None
