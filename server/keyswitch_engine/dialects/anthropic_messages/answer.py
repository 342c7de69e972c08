"""Answers of Messages, streamed and whole, as events."""

from __future__ import annotations

from typing import cast

import msgspec

from keyswitch_engine.dialects.anthropic_messages.flags import MessagesFlags
from keyswitch_engine.dialects.anthropic_messages.frames import Frames
from keyswitch_engine.dialects.anthropic_messages.wire import BLOCK, EVENT, MESSAGE, RESULT, Block, Cited, Delta, Event
from keyswitch_engine.dialects.anthropic_messages.wire import Message as WireMessage
from keyswitch_engine.dialects.anthropic_messages.wire import Usage as WireUsage
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.blocks import new_call_id
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.reading import Collecting, WholeBody, bound, decode, first_count, is_json, usage_json
from keyswitch_engine.errors import ProtocolError, StreamTruncated
from keyswitch_engine.events import (
    ArgumentsDelta,
    BlockEvent,
    BlockStart,
    BlockStop,
    Citation,
    CitationDelta,
    Ending,
    OpaqueBlock,
    ProviderState,
    ReasoningBlock,
    ReasoningDelta,
    ReportedUsage,
    StopReason,
    TextBlock,
    TextDelta,
    ToolCallBlock,
    Usage,
)
from keyswitch_engine.wire import MALFORMED_JSON
from keyswitch_engine.wire.sse import ServerSentEvent

__all__ = ["STOP_REASONS", "StreamDecoder", "WholeDecoder", "stop_reason"]

STOP_REASONS = {
    "end_turn": StopReason.STOP,
    "stop_sequence": StopReason.STOP,
    "max_tokens": StopReason.LENGTH,
    "model_context_window_exceeded": StopReason.LENGTH,
    "tool_use": StopReason.TOOL_CALLS,
    "refusal": StopReason.REFUSAL,
    "pause_turn": StopReason.PAUSE,
}
"""Stop reasons by the API reference, "Handling stop reasons"."""


_ROOM = 4096
"""What a block counts for, in bytes; so an answer has some thousands of them at most."""


def stop_reason(raw: str) -> StopReason:
    """Translate a stop reason; one that is not known is `OTHER`, none at all `UNKNOWN`."""
    return STOP_REASONS.get(raw, StopReason.OTHER) if raw else StopReason.UNKNOWN


class _Open:
    """A block that is not complete: what has to be kept of it."""

    __slots__ = ("begun", "citations", "fragments", "index", "kind", "raw", "signature", "spoken")

    def __init__(self, index: int, kind: str, begun: Block, raw: bytes) -> None:
        self.index = index
        self.kind = kind
        self.begun = begun
        self.raw = raw
        self.signature = begun.signature or ""
        self.fragments: list[str] = []
        self.citations: list[msgspec.Raw] = []
        self.spoken = False


class _Answering:
    """What streams and whole messages have in common."""

    def __init__(self, profile: Profile, dialect: str) -> None:
        self._profile = profile
        self._dialect = dialect
        self._events: list[BlockEvent] = []
        self._open: dict[int, _Open] = {}
        self._next = 0
        self._kept = 0
        self._stop = ""
        self._usage: dict[str, msgspec.Raw] = {}
        self._model = ""
        self.response_id = ""
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        events, self._events = self._events, []
        return events

    def usage(self) -> Usage | None:
        return _usage(self._usage) if self._usage else None

    def _note(self, message: WireMessage) -> None:
        """Keep what is said beside the content."""
        self.response_id = self.response_id or message.id or ""
        self._model = message.model or self._model
        self._stop = message.stop_reason or self._stop
        self._count(message.usage)

    def _count(self, usage: msgspec.Raw) -> None:
        """Set counts. They come in two parts, and those of the second are cumulative, so none is ever added."""
        if len(usage):
            counts = decode(RESULT, usage)
            self._usage |= {name: value.copy() for name, value in counts.items() if bytes(value) != b"null"}

    def _keep(self, size: int) -> None:
        """Count what is kept until its block ends, within bounds."""
        self._kept += size
        bound(self._kept)

    def _begin(self, number: int, raw: msgspec.Raw) -> None:
        """Begin the block that the provider calls *number*, with the content that it may have already."""
        block = decode(BLOCK, raw)
        if number in self._open:
            raise ProtocolError("the provider began a block twice")
        index = self._next
        self._next += 1
        self._keep(len(raw) + _ROOM)
        begun = self._open[number] = _Open(index, block.type, block, bytes(raw))
        match block.type:
            case "text":
                self._events.append(BlockStart(index, TextBlock()))
                if block.text:
                    self._events.append(TextDelta(index, block.text))
                for citation in block.citations or ():
                    self._cite(begun, citation)
            case "thinking":
                self._events.append(BlockStart(index, ReasoningBlock()))
                if block.thinking:
                    self._events.append(ReasoningDelta(index, block.thinking))
            case "redacted_thinking":
                self._events.append(BlockStart(index, ReasoningBlock()))
            case "tool_use":
                self._events.append(BlockStart(index, ToolCallBlock(block.id or new_call_id(), block.name or "")))
            case _:
                self._events.append(BlockStart(index, OpaqueBlock(block.type)))

    def _cite(self, block: _Open, raw: msgspec.Raw) -> None:
        """Add a source to a text; the provider wants it back with the text."""
        self._keep(len(raw))
        block.citations.append(raw.copy())
        found = decode(_CITED, raw)
        citation = Citation(
            found.url or found.source or "", found.title or found.document_title or "", found.cited_text or ""
        )
        self._events.append(CitationDelta(block.index, citation))

    def _end_block(self, number: int) -> None:
        """Complete a block."""
        block = self._open.pop(number, None)
        if block is None:
            return
        state: bytes | None = None
        match block.kind:
            case "text":
                state = msgspec.json.encode({"citations": block.citations}) if block.citations else None
            case "thinking":
                state = msgspec.json.encode({"signature": block.signature}) if block.signature else None
            case "redacted_thinking":
                state = msgspec.json.encode({"data": block.begun.data or ""})
            case "tool_use":
                whole = bytes(block.begun.input)
                if not block.spoken and whole not in (b"", b"null"):  # as it stands in whole messages
                    self._events.append(ArgumentsDelta(block.index, whole.decode("utf-8", "replace")))
            case _:
                state = _with_input(block)
        kept = ProviderState(self._profile.provider, self._dialect, state) if state is not None else None
        self._events.append(BlockStop(block.index, kept))

    def _message(self, body: bytes) -> tuple[list[BlockEvent], Ending]:
        """Read a whole message."""
        message = decode(MESSAGE, body)
        if message.type == "error" or message.content is None or bytes(message.error) not in (b"", b"null"):
            raise read_error(body, 200, self._profile.error_rules)
        self._note(message)
        for number, block in enumerate(message.content):
            self._begin(number, block)
            self._end_block(number)
        return self._close()

    def _close(self) -> tuple[list[BlockEvent], Ending]:
        """Complete what is open and say how the answer ended."""
        for number in tuple(self._open):
            self._end_block(number)
        return self.pending, Ending(stop_reason(self._stop), self._stop, self.usage(), self._model)


_CITED = msgspec.json.Decoder(Cited)
_USAGE = msgspec.json.Decoder(WireUsage)


def _with_input(block: _Open) -> bytes:
    """Return an opaque block as it has to go back: as it began, with the input that came in fragments."""
    text = "".join(block.fragments).encode()
    if not text:
        return block.raw
    decode(RESULT, text)
    return msgspec.json.encode(decode(RESULT, block.raw) | {"input": msgspec.Raw(text)})


def _usage(counts: dict[str, msgspec.Raw]) -> Usage:
    """Read token counts. Input excludes the cache, and output includes thinking (docs, "Prompt caching", "Pricing")."""
    raw = msgspec.json.encode(counts)
    found = decode(_USAGE, raw)
    fresh, read, written = (
        first_count(found.input_tokens),
        first_count(found.cache_read_input_tokens),
        first_count(found.cache_creation_input_tokens),
    )
    details = found.output_tokens_details
    reported = ReportedUsage(
        input_tokens=fresh,
        output_tokens=first_count(found.output_tokens),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=first_count(details.thinking_tokens) if details is not None else None,
        json=usage_json(raw),
    )
    return Usage(
        input_tokens=fresh + (read or 0) + (written or 0) if fresh is not None else None,
        output_tokens=reported.output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reported.reasoning_tokens,
        reported=reported,
    )


class StreamDecoder(_Answering):
    """Decodes a stream; see `Decoder`. A body that is a JSON object is read as a whole message, or as an error."""

    def __init__(self, profile: Profile, dialect: str, frames: Frames) -> None:
        """Start before the first byte; *frames* cuts them into events."""
        super().__init__(profile, dialect)
        self._frames = frames
        self._waived = cast("MessagesFlags", profile.flags).terminal == "finish"
        self._whole = WholeBody()

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._whole.possible and self._whole.takes(data):
            return []
        for framed in self._frames.feed(data):
            if self.done:
                break
            self._framed(framed)
        return self.pending

    def _framed(self, framed: ServerSentEvent) -> None:
        """Read what one frame holds."""
        if framed.type == "error":
            raise read_error(framed.data, 200, self._profile.error_rules)
        try:
            event = EVENT.decode(framed.data)
        except MALFORMED_JSON as error:
            if not framed.data.startswith(b"[DONE]"):  # of re-implementers; completes nothing by itself
                raise ProtocolError("the provider sent something that is not in its dialect") from error
            self.done = bool(self._stop)
            return
        if event.type == "content_block_delta":
            if event.delta is not None:
                self._delta(event.index, event.delta)
        else:
            self._event(event, framed.data)

    def _event(self, event: Event, data: bytes) -> None:
        """Read one event but a delta; types that are not known mean nothing, as the reference asks."""
        match event.type:
            case "content_block_start":
                self._begin(event.index, event.content_block)
            case "content_block_stop":
                self._end_block(event.index)
            case "message_start":
                if event.message is not None:
                    self._note(event.message)
            case "message_delta":
                if event.delta is not None:
                    self._stop = event.delta.stop_reason or self._stop
                self._count(event.usage)
            case "message_stop":
                self.done = True
            case "error":
                raise read_error(data, 200, self._profile.error_rules)
            case _:
                pass

    def _delta(self, number: int, delta: Delta) -> None:
        """Read what is added to a block."""
        block = self._open.get(number)
        if block is None:
            raise ProtocolError("the provider added to a block that it had not begun")
        if delta.text is not None:
            if block.kind == "text" and delta.text:
                self._events.append(TextDelta(block.index, delta.text))
        elif delta.thinking is not None:
            if block.kind == "thinking" and delta.thinking:
                self._events.append(ReasoningDelta(block.index, delta.thinking))
        elif delta.partial_json is not None:
            if block.kind == "tool_use":
                if delta.partial_json:
                    block.spoken = True
                    self._events.append(ArgumentsDelta(block.index, delta.partial_json))
            else:
                self._keep(len(delta.partial_json))
                block.fragments.append(delta.partial_json)
        elif delta.signature is not None:
            self._keep(len(delta.signature))
            block.signature += delta.signature
        elif len(delta.citation) and block.kind == "text":
            self._cite(block, delta.citation)

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the stream; see `Decoder.end`."""
        if (body := self._whole.content) is not None:
            return self._message(body)
        if not self.done and (last := self._frames.rest()) is not None and is_json(last.data):
            self._framed(last)
        if not self.done and not (self._stop and self._waived):
            raise StreamTruncated
        return self._close()


class WholeDecoder(Collecting, _Answering):
    """Decodes one message; see `Decoder`."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Decode the answer; see `Decoder.end`."""
        return self._message(self.body)
