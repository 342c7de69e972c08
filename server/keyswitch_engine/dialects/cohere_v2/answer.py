"""Answers of Cohere's chat, streamed and whole, as events."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.blocks import BlockBuilder, new_call_id
from keyswitch_engine.dialects.cohere_v2.wire import ANSWER, EVENT, Cited, Content, Event, ToolCall
from keyswitch_engine.dialects.cohere_v2.wire import Usage as WireUsage
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.reading import (
    Collecting,
    WholeBody,
    decode,
    first_count,
    is_json,
    place_in_text,
    usage_json,
)
from keyswitch_engine.error_rules import provider_error
from keyswitch_engine.errors import ProviderError, StreamTruncated
from keyswitch_engine.events import (
    BlockEvent,
    Citation,
    CitationDelta,
    Ending,
    LogprobsDelta,
    ProviderState,
    ReportedUsage,
    StopReason,
    TokenLogprob,
    Usage,
)
from keyswitch_engine.wire.sse import SSEDecoder

__all__ = ["STOP_REASONS", "StreamDecoder", "WholeDecoder", "stop_reason"]

STOP_REASONS = {
    "COMPLETE": StopReason.STOP,
    "STOP_SEQUENCE": StopReason.STOP,
    "MAX_TOKENS": StopReason.LENGTH,
    "TOOL_CALL": StopReason.TOOL_CALLS,
    "ERROR_TOXIC": StopReason.CONTENT_FILTER,
}
"""Finish reasons by the API reference. `ERROR` and `TIMEOUT` are failures, not reasons."""

_FAILED = frozenset({"ERROR", "TIMEOUT", "ERROR_LIMIT"})
_PLAN, _THINKING = b'{"carrier":"tool_plan"}', b'{"carrier":"thinking"}'
_NOTHING = frozenset({b"", b"null", b"{}"})
_T = TypeVar("_T")


def stop_reason(raw: str) -> StopReason:
    """Translate a finish reason; one that is not known is `OTHER`, none at all `UNKNOWN`."""
    return STOP_REASONS.get(raw, StopReason.OTHER) if raw else StopReason.UNKNOWN


class _Answering:
    """What streams and whole answers have in common."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._blocks = BlockBuilder()
        self._calls: dict[int, int] = {}
        self._carrier = _THINKING
        self._finish = ""
        self._usage = b""
        self.response_id = ""
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        return self._blocks.take()

    def usage(self) -> Usage | None:
        return _usage(self._usage) if self._usage else None

    def _reason(self, text: str, carrier: bytes) -> None:
        """Add to reasoning, which is told apart by what carries it."""
        if self._blocks.in_reasoning and carrier != self._carrier:
            self._end_reasoning()
        self._carrier = carrier
        self._blocks.reasoning(text)

    def _end_reasoning(self) -> None:
        """Complete reasoning, and keep how it has to go back."""
        if self._blocks.in_reasoning:
            self._blocks.close_open(ProviderState(self._profile.provider, "cohere-v2", self._carrier))

    def _content(self, content: Content) -> None:
        """Read a content block, or a piece of one."""
        if content.thinking:
            self._reason(content.thinking, _THINKING)
        elif content.text:
            self._end_reasoning()
            self._blocks.text(content.text)

    def _tool_call(self, number: int, call: ToolCall) -> None:
        """Read a tool call, or a piece of one."""
        function = call.function
        if number not in self._calls:
            self._end_reasoning()
            name = (function.name or "") if function is not None else ""
            self._calls[number] = self._blocks.tool_call(call.id or new_call_id(), name)
        if function is not None and function.arguments:
            self._blocks.arguments(self._calls[number], function.arguments)

    def _cite(self, found: Cited) -> None:
        """Add a citation, once for each of its sources."""
        index = self._text_block()
        for source in found.sources or ():
            document = source.document or {}
            title, url = document.get("title"), document.get("url")
            citation = Citation(
                url if isinstance(url, str) else "",
                title if isinstance(title, str) else source.id or "",
                found.text or "",
                place_in_text(found.start),
                place_in_text(found.end),
            )
            self._blocks.add(CitationDelta(index, citation))

    def _text_block(self) -> int:
        """Return the text that what follows belongs to."""
        index = self._blocks.open_text()
        if index is None:
            self._end_reasoning()
            index = self._blocks.text("")
        return index

    def _ended(self, reason: str | None, usage: msgspec.Raw) -> None:
        """Note how the answer ended."""
        self._finish = reason or ""
        if bytes(usage) not in _NOTHING:
            self._usage = bytes(usage)

    def _failure(self, message: str, code: str) -> ProviderError:
        """Return the failure that an answer ended in."""
        told = message or f"the provider ended its answer with {self._finish}"
        return provider_error(200, code, [code] if code else [], told, self._profile.error_rules)

    def _close(self) -> tuple[list[BlockEvent], Ending]:
        """Close all blocks and say how the answer ended."""
        self._end_reasoning()
        self._blocks.close_all()
        return self._blocks.take(), Ending(stop_reason(self._finish), self._finish, self.usage())

    def _answer(self, body: bytes) -> tuple[list[BlockEvent], Ending]:
        """Read a whole answer."""
        answer = decode(ANSWER, body)
        message = answer.message
        if message is None or isinstance(message, str):
            raise read_error(body, 200, self._profile.error_rules)
        self.response_id = answer.id or ""
        self._ended(answer.finish_reason, answer.usage)
        if message.tool_plan:
            self._reason(message.tool_plan, _PLAN)
        for content in _listed(message.content):
            self._content(content)
        for citation in _listed(message.citations):
            self._cite(citation)
        for piece in answer.logprobs or ():
            self._logprobs(piece.text, piece.logprobs)
        for number, call in enumerate(_listed(message.tool_calls)):
            self._tool_call(number, call)
        if self._finish in _FAILED:
            raise self._failure("", "")
        return self._close()

    def _logprobs(self, text: str | None, logprobs: list[float] | None) -> None:
        """Read log probabilities; the text is that of all the tokens together."""
        if logprobs:
            tokens = tuple(TokenLogprob((text or "") if not n else "", value) for n, value in enumerate(logprobs))
            self._blocks.add(LogprobsDelta(self._text_block(), tokens))


def _listed(value: _T | list[_T] | None) -> list[_T]:
    """Return what comes as one value, as a list or not at all."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


_USAGE = msgspec.json.Decoder(WireUsage)


def _usage(raw: bytes) -> Usage:
    """Read token counts: those of the model, else those that are billed. Output includes reasoning."""
    found = decode(_USAGE, raw)
    counts = found.tokens or found.billed_units
    reported = ReportedUsage(
        input_tokens=first_count(counts.input_tokens) if counts is not None else None,
        output_tokens=first_count(counts.output_tokens) if counts is not None else None,
        cache_read_tokens=first_count(found.cached_tokens),
        reasoning_tokens=first_count(counts.reasoning_tokens) if counts is not None else None,
        json=usage_json(raw),
    )
    return Usage(
        input_tokens=reported.input_tokens,
        output_tokens=reported.output_tokens,
        cache_read_tokens=reported.cache_read_tokens,
        reasoning_tokens=reported.reasoning_tokens,
        reported=reported,
    )


class StreamDecoder(_Answering):
    """Decodes a stream; see `Decoder`. A body that is a JSON object is read as a whole answer, or as an error."""

    def __init__(self, profile: Profile) -> None:
        """Start before the first byte."""
        super().__init__(profile)
        self._sse = SSEDecoder()
        self._whole = WholeBody()
        self._complete = False

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._whole.possible and self._whole.takes(data):
            return []
        for framed in self._sse.feed(data):
            if self.done:
                break
            if framed.data.startswith(b"[DONE]"):
                self.done = True
            elif framed.type == "error":
                raise read_error(framed.data, 200, self._profile.error_rules)
            else:
                self._event(decode(EVENT, framed.data), framed.type, framed.data)
        return self._blocks.take()

    def _event(self, event: Event, framed_type: str, data: bytes) -> None:
        """Read one event; types that are not known mean nothing."""
        delta = event.delta
        message = delta.message if delta is not None else None
        match event.type or framed_type:
            case "content-delta" | "content-start" if message is not None:
                if isinstance(message.content, Content):
                    self._content(message.content)
                if event.logprobs is not None:
                    self._logprobs(event.logprobs.text, event.logprobs.logprobs)
            case "tool-plan-delta" if message is not None:
                if message.tool_plan:
                    self._reason(message.tool_plan, _PLAN)
            case "tool-call-start" | "tool-call-delta" if message is not None:
                for call in _listed(message.tool_calls):
                    self._tool_call(event.index, call)
            case "citation-start" if message is not None:
                for citation in _listed(message.citations):
                    self._cite(citation)
            case "message-start":
                self.response_id = event.id or ""
            case "message-end":
                self._complete = self.done = True
                if delta is not None:
                    self._ended(delta.finish_reason, delta.usage)
                    if delta.error or self._finish in _FAILED:
                        raise self._failure(delta.error or "", delta.error_type or "")
            case "error":
                raise read_error(data, 200, self._profile.error_rules)
            case "" if not {bytes(event.message), bytes(event.error)} <= _NOTHING:
                raise read_error(data, 200, self._profile.error_rules)
            case _:
                pass

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the stream; see `Decoder.end`."""
        if (body := self._whole.content) is not None:
            return self._answer(body)
        if not self._complete and (last := self._sse.rest()) is not None and is_json(last.data):
            self._event(decode(EVENT, last.data), last.type, last.data)
        if not self._complete:
            raise StreamTruncated
        return self._close()


class WholeDecoder(Collecting, _Answering):
    """Decodes one answer; see `Decoder`."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Decode the answer; see `Decoder.end`."""
        return self._answer(self.body)
