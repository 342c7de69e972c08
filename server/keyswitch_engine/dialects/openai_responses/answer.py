"""Answers of Responses, streamed and whole, as events."""

from __future__ import annotations

from typing import cast

import msgspec

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.openai_responses.flags import ResponsesFlags
from keyswitch_engine.dialects.openai_responses.items import Items
from keyswitch_engine.dialects.openai_responses.wire import EVENT, ITEM, RESPONSE, Event, Response
from keyswitch_engine.dialects.openai_responses.wire import Usage as WireUsage
from keyswitch_engine.dialects.reading import Collecting, WholeBody, decode, first_count, including, is_json, usage_json
from keyswitch_engine.errors import StreamTruncated
from keyswitch_engine.events import BlockEvent, Ending, ReportedUsage, StopReason, Usage
from keyswitch_engine.wire.sse import SSEDecoder

__all__ = ["StreamDecoder", "WholeDecoder", "stop_reason"]

_NOTHING = (b"", b"null")
_UNFINISHED = frozenset({"queued", "in_progress"})
_INCOMPLETE = {"max_output_tokens": StopReason.LENGTH, "content_filter": StopReason.CONTENT_FILTER}


def stop_reason(status: str, incomplete: str, *, called: bool) -> StopReason:
    """Translate a response's status and, if that is `incomplete`, the reason for it.

    The dialect has no status for tool calls: a completed response that *called* one waits for its result.
    """
    match status:
        case "completed":
            return StopReason.TOOL_CALLS if called else StopReason.STOP
        case "incomplete":
            return _INCOMPLETE.get(incomplete, StopReason.OTHER)
        case "":
            return StopReason.TOOL_CALLS if called else StopReason.UNKNOWN
        case _:
            return StopReason.OTHER


class _Answering:
    """What streams and whole responses have in common."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._items = Items(profile.provider)
        self._last: Response | None = None
        self._usage = b""
        self.response_id = ""
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        return self._items.take()

    def usage(self) -> Usage | None:
        return _usage(self._usage, cast("ResponsesFlags", self._profile.flags)) if self._usage else None

    def _note(self, response: Response) -> None:
        """Keep the response's latest state."""
        self._last = response
        self.response_id = self.response_id or response.id or ""
        if bytes(response.usage) not in _NOTHING:
            self._usage = bytes(response.usage)

    def _settle(self, response: Response, data: bytes) -> None:
        """Take a response as final; raise the error that it may be."""
        self._note(response)
        if response.status == "failed" or bytes(response.error) not in _NOTHING:
            error = bytes(response.error)
            raise read_error(data if error in _NOTHING else error, 200, self._profile.error_rules)

    def _response(self, body: bytes) -> tuple[list[BlockEvent], Ending]:
        """Read a whole response."""
        response = decode(RESPONSE, body)
        self._settle(response, body)
        if response.output is None:  # an error in a form of its own
            raise read_error(body, 200, self._profile.error_rules)
        if response.status in _UNFINISHED:
            raise StreamTruncated
        self._items.final(response.output)
        return self._close()

    def _close(self) -> tuple[list[BlockEvent], Ending]:
        """Complete what is open and say how the answer ended."""
        self._items.close()
        last = self._last or Response()
        status, details = last.status or "", last.incomplete_details
        reason = (details.reason or "") if details is not None else ""
        raw = f"incomplete:{reason}" if status == "incomplete" else status
        reached = stop_reason(status, reason, called=self._items.called)
        return self._items.take(), Ending(reached, raw, self.usage(), last.model or "")


_USAGE = msgspec.json.Decoder(WireUsage)


def _usage(raw: bytes, flags: ResponsesFlags) -> Usage:
    """Read token counts."""
    found = decode(_USAGE, raw)
    cached, written = None, None
    if found.input_tokens_details is not None:
        cached = first_count(found.input_tokens_details.cached_tokens)
        written = first_count(found.input_tokens_details.cache_write_tokens)
    reasoning = None
    if found.output_tokens_details is not None:
        reasoning = first_count(found.output_tokens_details.reasoning_tokens)
    reported = ReportedUsage(
        input_tokens=first_count(found.input_tokens),
        output_tokens=first_count(found.output_tokens),
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        total_tokens=first_count(found.total_tokens),
        json=usage_json(raw),
    )
    return Usage(
        input_tokens=including(reported.input_tokens, flags.input_includes_cache, (cached or 0) + (written or 0)),
        output_tokens=including(reported.output_tokens, flags.output_includes_reasoning, reasoning),
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        reported=reported,
    )


class StreamDecoder(_Answering):
    """Decodes a stream; see `Decoder`. A body that is a JSON object is read as a whole response, or as an error."""

    def __init__(self, profile: Profile) -> None:
        """Start before the first byte."""
        super().__init__(profile)
        self._sse = SSEDecoder()
        self._whole = WholeBody()

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._whole.possible and self._whole.takes(data):
            return []
        for framed in self._sse.feed(data):
            if self.done:
                break
            if not framed.data.startswith(b"[DONE]"):  # of re-implementers; says nothing about how it ended
                self._event(decode(EVENT, framed.data), framed.type, framed.data)
        return self._items.take()

    def _event(self, event: Event, framed_type: str, data: bytes) -> None:
        """Read one event; types that are not known mean nothing."""
        items = self._items
        match kind := event.type or framed_type:
            case "response.output_text.delta":
                items.text(event)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                items.arguments(event, event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                items.reasoning(event, event.delta)
            case "response.refusal.delta":
                items.refusal(event, event.delta)
            case "response.output_text.annotation.added":
                items.annotation(event)
            case "response.output_item.added":
                items.begin(event.output_index, decode(ITEM, event.item))
            case "response.output_item.done":
                items.whole(event.output_index, decode(ITEM, event.item), bytes(event.item))
            case "response.created" | "response.in_progress" | "response.queued":
                self._note(decode(RESPONSE, event.response))
            case "response.completed" | "response.incomplete" | "response.failed":
                self._final(kind, event, data)
            case "error":
                raise read_error(data, 200, self._profile.error_rules)
            case _:
                pass

    def _final(self, kind: str, event: Event, data: bytes) -> None:
        """Read the event that ends the stream. What it alone says of the answer is read from it."""
        response = decode(RESPONSE, event.response)
        self._settle(response, data)
        self._items.final(response.output or ())
        if not response.status:
            response.status = kind.removeprefix("response.")
        self.done = True

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the stream; see `Decoder.end`."""
        if (body := self._whole.content) is not None:
            return self._response(body)
        if not self.done and (last := self._sse.rest()) is not None and is_json(last.data):
            self._event(decode(EVENT, last.data), last.type, last.data)
        if not self.done:
            raise StreamTruncated
        return self._close()


class WholeDecoder(Collecting, _Answering):
    """Decodes one response; see `Decoder`."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Decode the answer; see `Decoder.end`."""
        return self._response(self.body)
