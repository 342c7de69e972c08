"""Answers of Converse, streamed and whole, as events."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from keyswitch_engine.dialects.aws import read_aws_error, read_exception
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.bedrock_converse.wire import (
    ANSWER,
    EVENT,
    Cited,
    Content,
    Delta,
    Event,
    Image,
    Reasoning,
    ToolUse,
)
from keyswitch_engine.dialects.bedrock_converse.wire import Usage as WireUsage
from keyswitch_engine.dialects.blocks import MAX_BLOCKS, new_call_id
from keyswitch_engine.dialects.reading import (
    Collecting,
    WholeBody,
    bound,
    decode,
    decode_base64,
    encode,
    first_count,
    usage_json,
)
from keyswitch_engine.errors import ProtocolError, StreamTruncated
from keyswitch_engine.events import (
    ArgumentsDelta,
    Block,
    BlockEvent,
    BlockStart,
    BlockStop,
    Citation,
    CitationDelta,
    Ending,
    ImageBlock,
    MediaDelta,
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
from keyswitch_engine.wire.aws_event_stream import AwsEventStreamDecoder

__all__ = ["STOP_REASONS", "StreamDecoder", "WholeDecoder", "stop_reason"]

STOP_REASONS = {
    "end_turn": StopReason.STOP,
    "stop_sequence": StopReason.STOP,
    "max_tokens": StopReason.LENGTH,
    "model_context_window_exceeded": StopReason.LENGTH,
    "tool_use": StopReason.TOOL_CALLS,
    "guardrail_intervened": StopReason.CONTENT_FILTER,
    "content_filtered": StopReason.CONTENT_FILTER,
    "refusal": StopReason.REFUSAL,
}
"""Stop reasons by the API reference, and Anthropic's that passes through."""

_SERVER_TOOL = "server_tool_use"
_NOTHING = (b"", b"null")


def stop_reason(raw: str) -> StopReason:
    """Translate a stop reason; one that is not known is `OTHER`, none at all `UNKNOWN`."""
    return STOP_REASONS.get(raw, StopReason.OTHER) if raw else StopReason.UNKNOWN


class _Open:
    """A block that is not complete: what has to be kept of it."""

    __slots__ = ("index", "input", "kind", "redacted", "results", "signature", "state")

    def __init__(self, index: int, kind: type[Block]) -> None:
        self.index = index
        self.kind = kind
        self.state: dict[str, Any] = {}
        self.input: list[str] = []  # of the provider's own tool
        self.results: list[msgspec.Raw] = []  # likewise
        self.signature: list[str] = []
        self.redacted = bytearray()


class _Answering:
    """What streams and whole answers have in common."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._events: list[BlockEvent] = []
        self._open: dict[int, _Open] = {}
        self._next = 0
        self._kept = 0
        self._stop = ""
        self._usage = b""
        self.response_id = ""  # the dialect has none; the request's id is in a header
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        events, self._events = self._events, []
        return events

    def usage(self) -> Usage | None:
        return _usage(self._usage) if self._usage else None

    def _keep(self, size: int) -> None:
        """Count what is kept; raises `ProtocolError` where it becomes too much."""
        self._kept += size
        bound(self._kept)

    def _note_usage(self, usage: msgspec.Raw) -> None:
        """Keep the usage, if there is any."""
        if bytes(usage) not in _NOTHING:
            self._usage = bytes(usage)

    def _begin(self, number: int, block: Block) -> _Open:
        """Begin the block that the provider calls *number*."""
        if number in self._open:
            raise ProtocolError("the provider began a block twice")
        if self._next >= MAX_BLOCKS:
            raise ProtocolError(f"the provider's answer has more than {MAX_BLOCKS} parts")
        opened = self._open[number] = _Open(self._next, type(block))
        self._next += 1
        self._events.append(BlockStart(opened.index, block))
        return opened

    def _block(self, number: int, kind: type[TextBlock | ReasoningBlock]) -> _Open:
        """Return the block of an event, begun if it has to be: only tools and images are announced."""
        found = self._open.get(number)
        if found is None:
            return self._begin(number, kind())
        if found.kind is not kind:
            raise ProtocolError("the provider added to a block of another kind")
        return found

    def _tool_use(self, number: int, call: ToolUse) -> None:
        """Begin a tool call; one that the provider runs itself is an opaque item."""
        if call.type == _SERVER_TOOL:
            given: object = {} if bytes(call.input) in _NOTHING else call.input.copy()
            fields = {"toolUseId": call.tool_use_id, "name": call.name, "type": call.type, "input": given}
            self._begin(number, OpaqueBlock(call.type)).state = {"toolUse": fields}
        else:
            self._begin(number, ToolCallBlock(call.tool_use_id or new_call_id(), call.name or ""))

    def _cite(self, block: _Open, found: Cited) -> None:
        """Add a source to a text."""
        web = found.location.web if found.location is not None else None
        quote = "".join(piece.text or "" for piece in found.source_content or ())
        url = (web.url if web is not None else None) or found.source or ""
        self._events.append(CitationDelta(block.index, Citation(url, found.title or "", quote)))

    def _reason(self, number: int, found: Reasoning) -> None:
        """Add to reasoning."""
        block = self._block(number, ReasoningBlock)
        whole = found.reasoning_text
        text = found.text or (whole.text if whole is not None else None)
        signature = found.signature or (whole.signature if whole is not None else None)
        if text:
            self._events.append(ReasoningDelta(block.index, text))
        if signature:
            self._keep(len(signature))
            block.signature.append(signature)
        if found.redacted_content:
            self._keep(len(found.redacted_content))
            block.redacted += decode_base64(found.redacted_content)

    def _image(self, block: _Open, image: Image) -> None:
        """Add to an image."""
        data = decode_base64((image.source.bytes if image.source is not None else None) or "")
        if data:
            self._events.append(MediaDelta(block.index, data))

    def _end_block(self, number: int) -> None:
        """Complete a block."""
        block = self._open.pop(number, None)
        if block is None:
            return
        if block.input:
            block.state["toolUse"]["input"] = decode(_RAW, "".join(block.input).encode())
        if block.signature:
            block.state["signature"] = "".join(block.signature)
        if block.redacted:
            block.state["redactedContent"] = base64.b64encode(block.redacted).decode()
        state = encode(block.state) if block.state else None
        kept = ProviderState(self._profile.provider, "bedrock-converse", state) if state is not None else None
        self._events.append(BlockStop(block.index, kept))

    def _close(self) -> tuple[list[BlockEvent], Ending]:
        """Complete what is open and say how the answer ended."""
        for number in tuple(self._open):
            self._end_block(number)
        return self.pending, Ending(stop_reason(self._stop), self._stop, self.usage())

    def _answer(self, body: bytes) -> tuple[list[BlockEvent], Ending]:
        """Read a whole answer."""
        answer = decode(ANSWER, body)
        if answer.output is None or answer.output.message is None:
            raise read_aws_error(body, 200, self._profile.error_rules, {})
        self._stop = answer.stop_reason or ""
        self._note_usage(answer.usage)
        for number, content in enumerate(answer.output.message.content or ()):
            self._content(number, content)
            self._end_block(number)
        return self._close()

    def _content(self, number: int, content: Content) -> None:
        """Read a whole block."""
        if content.text is not None:
            block = self._block(number, TextBlock)
            self._events.append(TextDelta(block.index, content.text))
        elif content.tool_use is not None:
            self._tool_use(number, content.tool_use)
            given = content.tool_use.input
            if content.tool_use.type != _SERVER_TOOL:
                text = bytes(given).decode("utf-8", "replace") if len(given) else "{}"
                self._events.append(ArgumentsDelta(self._open[number].index, text))
        elif content.reasoning_content is not None:
            self._reason(number, content.reasoning_content)
        elif content.citations_content is not None:
            block = self._block(number, TextBlock)
            for piece in content.citations_content.content or ():
                if piece.text:
                    self._events.append(TextDelta(block.index, piece.text))
            for citation in content.citations_content.citations or ():
                self._cite(block, citation)
        elif len(content.tool_result):
            self._begin(number, OpaqueBlock("toolResult")).state = {"toolResult": content.tool_result}
        elif content.image is not None:
            self._image(self._begin(number, ImageBlock(f"image/{content.image.format or 'png'}")), content.image)


_RAW = msgspec.json.Decoder(msgspec.Raw)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PIECES = msgspec.json.Decoder(list[msgspec.Raw])
_USAGE = msgspec.json.Decoder(WireUsage)


def _usage(raw: bytes) -> Usage:
    """Read token counts. Input excludes the cache (API reference, `TokenUsage`)."""
    found = decode(_USAGE, raw)
    fresh, read, written = (
        first_count(found.input_tokens),
        first_count(found.cache_read_input_tokens),
        first_count(found.cache_write_input_tokens),
    )
    reported = ReportedUsage(
        input_tokens=fresh,
        output_tokens=first_count(found.output_tokens),
        cache_read_tokens=read,
        cache_write_tokens=written,
        total_tokens=first_count(found.total_tokens),
        json=usage_json(raw),
    )
    return Usage(
        input_tokens=fresh + (read or 0) + (written or 0) if fresh is not None else None,
        output_tokens=reported.output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reported=reported,
    )


class StreamDecoder(_Answering):
    """Decodes a stream; see `Decoder`. A body that is a JSON object is read as a whole answer, or as an error."""

    def __init__(self, profile: Profile) -> None:
        """Start before the first byte."""
        super().__init__(profile)
        self._messages = AwsEventStreamDecoder()
        self._whole = WholeBody()
        self._stopped = False

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._whole.possible and self._whole.takes(data):
            return []
        for message in self._messages.feed(data):
            if self.done:
                break
            if message.kind != "event" or message.type.endswith("Exception"):
                raise read_exception(message, self._profile.error_rules)
            self._event(message.type, decode(EVENT, message.payload))
        return self.pending

    def _event(self, kind: str, event: Event) -> None:
        """Read one event; types that are not known mean nothing."""
        number = event.content_block_index
        match kind:
            case "contentBlockDelta":
                if event.delta is not None:
                    self._delta(number, event.delta)
            case "contentBlockStart":
                start = event.start
                if start is not None and start.tool_use is not None:
                    self._tool_use(number, start.tool_use)
                elif start is not None and len(start.tool_result):
                    self._tool_result(number, bytes(start.tool_result))
                elif start is not None and start.image is not None:
                    self._begin(number, ImageBlock(f"image/{start.image.format or 'png'}"))
            case "contentBlockStop":
                self._end_block(number)
            case "messageStop":
                self._stopped = True
                self._stop = event.stop_reason or ""
            case "metadata":
                self._note_usage(event.usage)
                self.done = self._stopped
            case _:
                pass

    def _tool_result(self, number: int, head: bytes) -> None:
        """Begin the result of the provider's own tool; its content comes in pieces."""
        fields = decode(_FIELDS, head)
        block = self._begin(number, OpaqueBlock("toolResult"))
        self._keep(len(head))
        block.results = decode(_PIECES, fields.get("content", b"[]"))
        block.state = {"toolResult": fields | {"content": block.results}}

    def _delta(self, number: int, delta: Delta) -> None:
        """Read what is added to a block."""
        if delta.text is not None:
            block = self._block(number, TextBlock)
            if delta.text:
                self._events.append(TextDelta(block.index, delta.text))
        elif delta.reasoning_content is not None:
            self._reason(number, delta.reasoning_content)
        elif delta.citation is not None:
            self._cite(self._block(number, TextBlock), delta.citation)
        elif (open_block := self._open.get(number)) is None:
            raise ProtocolError("the provider added to a block that it had not begun")
        elif delta.tool_use is not None:
            if delta.tool_use.input and open_block.kind is ToolCallBlock:
                self._events.append(ArgumentsDelta(open_block.index, delta.tool_use.input))
            elif delta.tool_use.input and "toolUse" in open_block.state:
                self._keep(len(delta.tool_use.input))
                open_block.input.append(delta.tool_use.input)
        elif len(delta.tool_result) and "toolResult" in open_block.state:
            self._keep(len(delta.tool_result))
            pieces = decode(_PIECES, bytes(delta.tool_result))
            open_block.results += pieces
        elif delta.image is not None and open_block.kind is ImageBlock:
            self._image(open_block, delta.image)

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the stream; see `Decoder.end`. Usage may be missing where the stream broke right after the message."""
        if (body := self._whole.content) is not None:
            return self._answer(body)
        if not self._stopped:
            raise StreamTruncated
        return self._close()


class WholeDecoder(Collecting, _Answering):
    """Decodes one answer; see `Decoder`."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Decode the answer; see `Decoder.end`."""
        return self._answer(self.body)
