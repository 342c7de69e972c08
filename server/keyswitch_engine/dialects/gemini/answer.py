"""Answers of generateContent, streamed and whole, as events."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.blocks import BlockBuilder, new_call_id
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.gemini.wire import RESPONSE, Candidate, FunctionCall, InlineData, Part, Response
from keyswitch_engine.dialects.gemini.wire import Usage as WireUsage
from keyswitch_engine.dialects.reading import Collecting, WholeBody, bound, decode, first_count, is_json, usage_json
from keyswitch_engine.errors import ProtocolError, StreamTruncated
from keyswitch_engine.events import (
    AudioBlock,
    BlockEvent,
    Citation,
    CitationDelta,
    Ending,
    ImageBlock,
    LogprobsDelta,
    ProviderState,
    ReportedUsage,
    StopReason,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from keyswitch_engine.wire.json_array import JsonArrayDecoder
from keyswitch_engine.wire.sse import SSEDecoder

__all__ = ["STOP_REASONS", "StreamDecoder", "WholeDecoder", "stop_reason"]

_FILTERED = (
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION", "MODEL_ARMOR", "LANGUAGE",
)  # fmt: skip
STOP_REASONS = {
    "STOP": StopReason.STOP,
    "1": StopReason.STOP,
    "MAX_TOKENS": StopReason.LENGTH,
    "2": StopReason.LENGTH,
    "3": StopReason.CONTENT_FILTER,
    "4": StopReason.CONTENT_FILTER,
    "FUNCTION_CALL": StopReason.TOOL_CALLS,  # of re-implementers
    "FINISH_REASON_UNSPECIFIED": StopReason.UNKNOWN,
} | dict.fromkeys(_FILTERED, StopReason.CONTENT_FILTER)
"""Finish reasons by the API reference; numbers come where enums are asked for as numbers."""

_OPAQUE = ("executable_code", "code_execution_result", "tool_call", "tool_response", "file_data")
_WIRE_NAMES = {"executable_code": "executableCode", "code_execution_result": "codeExecutionResult",
               "tool_call": "toolCall", "tool_response": "toolResponse", "file_data": "fileData"}  # fmt: skip
_ROOM = 256
"""What a source counts for, in bytes."""
_NOTHING = (b"", b"null")


def stop_reason(raw: str, *, called: bool = False) -> StopReason:
    """Translate a finish reason; one that is not known is `OTHER`, none at all `UNKNOWN`.

    The dialect has none for tool calls: an answer that *called* one stops like any other.
    """
    reached = STOP_REASONS.get(raw, StopReason.OTHER) if raw else StopReason.UNKNOWN
    return StopReason.TOOL_CALLS if called and reached is StopReason.STOP else reached


class _Answering:
    """What streams and whole responses have in common."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._blocks = BlockBuilder()
        self._calls = 0
        self._cited: set[Citation] = set()
        self._finish = ""
        self._usage: dict[str, Any] = {}
        self._model = ""
        self.response_id = ""
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        return self._blocks.take()

    def usage(self) -> Usage | None:
        return _usage(self._usage) if self._usage else None

    def _response(self, data: bytes) -> Response:
        """Read a response, or a piece of one."""
        response = decode(RESPONSE, data)
        if bytes(response.error) not in _NOTHING:
            raise read_error(data, 200, self._profile.error_rules)
        if response.response_id and not self.response_id:
            self.response_id = response.response_id
        if response.model_version:
            self._model = response.model_version
        if response.usage_metadata:
            self._usage |= response.usage_metadata
        for candidate in response.candidates or ():
            if not candidate.index:
                self._candidate(candidate)
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason and not response.candidates:
            self._finish = f"promptFeedback:{feedback.block_reason}"
        return response

    def _candidate(self, candidate: Candidate) -> None:
        """Read what a candidate adds."""
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                self._part(part)
        if candidate.logprobs_result is not None:
            self._logprobs(candidate)
        if candidate.grounding_metadata is not None or candidate.citation_metadata is not None:
            self._cite(candidate)
        if candidate.finish_reason:
            self._finish = str(candidate.finish_reason)

    def _part(self, part: Part) -> None:
        """Read one part. A signature belongs to its part, so it ends the block that the part is in."""
        blocks = self._blocks
        signature = part.thought_signature
        if part.function_call is not None:
            self._call(part.function_call, signature)
        elif part.text is not None:
            if part.thought:
                blocks.reasoning(part.text)
            elif part.text or signature:
                blocks.text(part.text)
            if signature:
                blocks.close_open(self._state({"thoughtSignature": signature}))
        elif part.inline_data is not None:
            self._media(part.inline_data, signature)
        else:
            for name in _OPAQUE:
                raw: msgspec.Raw = getattr(part, name)
                if len(raw):
                    fields: dict[str, Any] = {_WIRE_NAMES[name]: raw}
                    blocks.opaque(_WIRE_NAMES[name], self._state(fields | _signed(signature)))

    def _state(self, fields: dict[str, Any]) -> ProviderState:
        """Return what has to go back with a part."""
        return ProviderState(self._profile.provider, "gemini", msgspec.json.encode(fields))

    def _call(self, call: FunctionCall, signature: str | None) -> None:
        """Read a call. Most models give it no id; the one that it gets here is taken away again on the way back."""
        index = self._blocks.tool_call(call.id or new_call_id(), call.name or "")
        self._calls += 1
        self._blocks.arguments(
            index, "{}" if bytes(call.args) in _NOTHING else bytes(call.args).decode("utf-8", "replace")
        )
        fields = ({"id": call.id} if call.id else {}) | _signed(signature)
        self._blocks.close_tool_call(index, self._state(fields))

    def _media(self, media: InlineData, signature: str | None) -> None:
        """Read an image or a sound."""
        try:
            data = base64.b64decode(media.data or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError("the provider sent media that is not in base64") from error
        kind = media.mime_type or "application/octet-stream"
        block = AudioBlock(kind) if kind.startswith("audio/") else ImageBlock(kind)
        self._blocks.media(block, data, self._state(_signed(signature)) if signature else None)

    def _text_block(self) -> int:
        """Return the text that what follows belongs to."""
        index = self._blocks.open_text()
        return self._blocks.text("") if index is None else index

    def _cite(self, candidate: Candidate) -> None:
        """Read the sources of the text. Their places count bytes of the whole answer, so the quoted text is given."""
        citations: list[Citation] = []
        if (found := candidate.citation_metadata) is not None:
            citations += [
                Citation(source.uri or "", source.title or "")
                for source in (*(found.citation_sources or ()), *(found.citations or ()))
            ]
        if (grounding := candidate.grounding_metadata) is not None:
            sources = [chunk.web or chunk.retrieved_context for chunk in grounding.grounding_chunks or ()]
            for support in grounding.grounding_supports or ():
                quote = (support.segment.text or "") if support.segment is not None else ""
                for number in support.grounding_chunk_indices or ():
                    if 0 <= number < len(sources) and (source := sources[number]) is not None:
                        citations.append(Citation(source.uri or "", source.title or "", quote))
            if not grounding.grounding_supports:
                citations += [
                    Citation(source.uri or "", source.title or "") for source in sources if source is not None
                ]
        for citation in citations:
            if citation not in self._cited:  # each piece may repeat those of the ones before
                self._cited.add(citation)
                bound(_ROOM * len(self._cited))
                self._blocks.add(CitationDelta(self._text_block(), citation))

    def _logprobs(self, candidate: Candidate) -> None:
        """Read log probabilities."""
        found = candidate.logprobs_result
        if found is None or not found.chosen_candidates:
            return
        tops = [row.candidates or () for row in found.top_candidates or ()]
        tokens = tuple(
            TokenLogprob(
                token.token, token.log_probability, b"",
                tuple(TopLogprob(top.token, top.log_probability) for top in (tops[n] if n < len(tops) else ())),
            )
            for n, token in enumerate(found.chosen_candidates)
        )  # fmt: skip
        self._blocks.add(LogprobsDelta(self._text_block(), tokens))

    def _close(self) -> tuple[list[BlockEvent], Ending]:
        """Close all blocks and say how the answer ended."""
        self._blocks.close_all()
        reached = (
            StopReason.CONTENT_FILTER
            if self._finish.startswith("promptFeedback:")
            else stop_reason(self._finish, called=self._calls > 0)
        )
        return self._blocks.take(), Ending(reached, self._finish, self.usage(), self._model)

    def _whole(self, body: bytes) -> tuple[list[BlockEvent], Ending]:
        """Read a whole response."""
        response = self._response(body)
        if response.candidates is None and response.prompt_feedback is None:
            raise read_error(body, 200, self._profile.error_rules)
        return self._close()


def _signed(signature: str | None) -> dict[str, Any]:
    return {"thoughtSignature": signature} if signature else {}


def _usage(counts: dict[str, Any]) -> Usage:
    """Read token counts. Neither thoughts nor the prompts of tools are in the other counts; the cache is."""
    try:
        found = msgspec.convert(counts, WireUsage)
    except msgspec.ValidationError as error:
        raise ProtocolError("the provider sent a usage object that is not in its dialect") from error
    prompt, answer = first_count(found.prompt_token_count), first_count(found.candidates_token_count)
    thoughts, tools = first_count(found.thoughts_token_count), first_count(found.tool_use_prompt_token_count)
    cached = first_count(found.cached_content_token_count)
    reported = ReportedUsage(
        input_tokens=prompt,
        output_tokens=answer,
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
        total_tokens=first_count(found.total_token_count),
        json=usage_json(msgspec.json.encode(counts)),
    )
    return Usage(
        input_tokens=prompt + (tools or 0) if prompt is not None else None,
        output_tokens=(answer or 0) + (thoughts or 0) if answer is not None or thoughts is not None else None,
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
        reported=reported,
    )


class StreamDecoder(_Answering):
    """Decodes a stream; see `Decoder`.

    It comes as server-sent events, or, where those were not asked for, as one JSON array whose elements complete one
    after the other. A body that is a JSON object is read as a whole response, or as an error.
    """

    def __init__(self, profile: Profile) -> None:
        """Start before the first byte."""
        super().__init__(profile)
        self._object = WholeBody()
        self._sse = SSEDecoder()
        self._array: JsonArrayDecoder | None = None
        self._begun = False

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._object.possible and self._object.takes(data):
            return []
        if not self._begun:
            self._begun = True
            if data.lstrip().startswith(b"["):
                self._array = JsonArrayDecoder()
        if self._array is not None:
            for element in self._array.feed(data):
                self._response(element)
        else:
            for event in self._sse.feed(data):
                if not event.data.startswith(b"[DONE]"):  # of proxies; says nothing about the answer
                    self._response(event.data)
        return self._blocks.take()

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the stream; see `Decoder.end`."""
        if (body := self._object.content) is not None:
            return self._whole(body)
        if not self._finish and self._array is None:
            last = self._sse.rest()
            if last is not None and is_json(last.data):
                self._response(last.data)
        if not self._finish:
            raise StreamTruncated
        return self._close()


class WholeDecoder(Collecting, _Answering):
    """Decodes one response; see `Decoder`."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Decode the answer; see `Decoder.end`."""
        return self._whole(self.body)
