"""Answers of chat completions, streamed and whole, as events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.blocks import BlockBuilder
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.openai_chat.attachments import audio_type, read_citation, read_sources
from keyswitch_engine.dialects.openai_chat.chunks import (
    DECODER,
    Choice,
    Completion,
    ContentPart,
    Delta,
    ToolCall,
    WireTokenLogprob,
)
from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.dialects.openai_chat.reasoning import ReasoningDetails, ThinkTagSplitter
from keyswitch_engine.dialects.openai_chat.tool_calls import ToolCalls
from keyswitch_engine.dialects.openai_chat.usage import read_usage
from keyswitch_engine.dialects.reading import Collecting, WholeBody, bound, decode_base64, encode, is_json, token_bytes
from keyswitch_engine.error_rules import provider_error
from keyswitch_engine.errors import ProtocolError, ProviderError, StreamTruncated
from keyswitch_engine.events import (
    BlockEvent,
    Citation,
    CitationDelta,
    Ending,
    ImageBlock,
    LogprobsDelta,
    ProviderState,
    StopReason,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from keyswitch_engine.wire import MALFORMED_JSON
from keyswitch_engine.wire.sse import ServerSentEvent, SSEDecoder

__all__ = ["STOP_REASONS", "StreamDecoder", "WholeDecoder", "stop_reason"]

STOP_REASONS = {
    "stop": StopReason.STOP,
    "eos": StopReason.STOP,
    "eos_token": StopReason.STOP,
    "end_turn": StopReason.STOP,
    "stop_sequence": StopReason.STOP,
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "model_length": StopReason.LENGTH,
    "tool_calls": StopReason.TOOL_CALLS,
    "tool_call": StopReason.TOOL_CALLS,
    "function_call": StopReason.TOOL_CALLS,
    "model_context_window_exceeded": StopReason.LENGTH,
    "content_filter": StopReason.CONTENT_FILTER,
    "sensitive": StopReason.CONTENT_FILTER,
    "refusal": StopReason.REFUSAL,
}
"""Finish reasons seen in chat completions, but for those that say that the answer failed."""

_FAILED = frozenset({"error", "insufficient_system_resource", "network_error"})  # the latter ones DeepSeek's and Z.AI's


def stop_reason(raw: str) -> StopReason:
    """Translate a finish reason; one that is not known is `OTHER`, none at all `UNKNOWN`."""
    return STOP_REASONS.get(raw.lower(), StopReason.OTHER) if raw else StopReason.UNKNOWN


_DONE = b"[DONE]"
_NOTHING = (b"", b"null", b"{}", b'""', b"[]", b"false")


_ROOM = 256
"""What a source counts for, in bytes."""


def _failed(base_resp: object) -> bool:
    """Tell whether MiniMax's own status says that the call failed."""
    return isinstance(base_resp, dict) and base_resp.get("status_code") not in (0, None)


class _Answering:
    """What chunks and whole completions have in common."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._flags = cast("ChatFlags", profile.flags)
        self._blocks = BlockBuilder()
        self._tools = ToolCalls(self._blocks, self._close_stated)
        self._details = ReasoningDetails()
        self._think = ThinkTagSplitter() if self._flags.think_tags else None
        self._finish = ""
        self._sources: object = None
        self._cited: set[str] = set()
        self._audio = self._sound_text = ""
        self._usage = b""
        self._model = ""
        self.response_id = ""
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        return self._blocks.take()

    def usage(self) -> Usage | None:
        return read_usage(self._usage, self._flags) if self._usage else None

    def _answer(self, data: bytes) -> Completion:
        """Decode one JSON object, and raise the error that it may be."""
        try:
            answer = DECODER.decode(data)
        except MALFORMED_JSON as error:
            raise ProtocolError("the provider sent something that is not a chat completion") from error
        unwrapped = answer.choices is None and (answer.object == "error" or bytes(answer.message) not in _NOTHING)
        if bytes(answer.error) not in _NOTHING or unwrapped or (answer.base_resp and _failed(answer.base_resp)):
            self._note(answer)
            raise read_error(data, 200, self._profile.error_rules)
        return answer

    def _note(self, answer: Completion) -> None:
        """Keep what is said beside the choices. Usage is set, not added: repeated ones are cumulative."""
        if answer.id and not self.response_id:
            self.response_id = str(answer.id)
        if answer.model:
            self._model = answer.model
        if answer.usage and bytes(answer.usage) not in _NOTHING:
            self._usage = bytes(answer.usage)
        elif answer.x_groq is not None and bytes(answer.x_groq.usage) not in _NOTHING:
            self._usage = bytes(answer.x_groq.usage)
        self._sources = answer.search_results or answer.citations or self._sources

    def _choice(self, choice: Choice, delta: Delta | None) -> None:
        """Read what one choice adds. Only the first is asked for, so that others, if they come, are ignored."""
        if choice.index and not self._flags.split_choices:
            return
        if choice.usage and bytes(choice.usage) not in _NOTHING:
            self._usage = bytes(choice.usage)
        if delta is not None:
            self._delta(delta)
        if choice.logprobs is not None and choice.logprobs.content:
            self._logprobs(choice.logprobs.content)
        if bytes(choice.error) not in _NOTHING:
            raise read_error(bytes(choice.error), 200, self._profile.error_rules)
        if choice.finish_reason:
            if choice.finish_reason in _FAILED:
                raise self._failure(choice.finish_reason)
            self._finish = choice.finish_reason

    def _failure(self, reason: str) -> ProviderError:
        """Return the failure that a finish reason tells of, without a word of explanation."""
        message = f"the provider broke off its answer, with the finish reason {reason}"
        return provider_error(200, reason, [reason], message, self._profile.error_rules)

    def _delta(self, delta: Delta) -> None:
        """Read a delta or a message; reasoning comes before the text that it led to."""
        if reasoning := delta.reasoning_content or delta.reasoning or delta.reasoning_text:
            self._blocks.reasoning(reasoning)
        if delta.reasoning_details:
            self._reasoning_details(delta.reasoning_details, shown=bool(reasoning))
        content = delta.content
        if content:
            if isinstance(content, str):
                self._text(content)
            elif isinstance(content, list):
                self._parts(content)
            else:  # Cloudflare parses structured output for the caller
                self._text(encode(content).decode())
        if delta.refusal:
            self._close_stated()
            self._blocks.refusal(delta.refusal)
        if delta.annotations:
            self._cite(
                [read_citation(found.url_citation) for found in delta.annotations if found.url_citation is not None]
            )
        if delta.images or delta.audio:
            self._media(delta)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._tools.add(call)
        legacy = delta.function_call
        if legacy is not None and (legacy.name or legacy.arguments):  # the form before tool calls, still in use
            self._tools.add(ToolCall(0, None, legacy))

    def _text(self, text: str) -> None:
        """Add text, split from the reasoning inside it where the row says that the provider mixes them."""
        if self._think is None:
            self._close_stated()
            self._blocks.text(text)
            return
        self._split(self._think.feed(text))

    def _split(self, pieces: Iterator[tuple[bool, str]]) -> None:
        """Add pieces of reasoning and text."""
        for is_reasoning, piece in pieces:
            if is_reasoning:
                self._blocks.reasoning(piece)
            else:
                self._close_stated()
                self._blocks.text(piece)

    def _close_stated(self) -> None:
        """Close a block of reasoning or sound that is open, with the state that has to go back with it."""
        if self._blocks.in_reasoning:
            self._blocks.close_open(self._state(self._details.take()))
        elif self._blocks.in_sound:
            self._blocks.close_open(self._state(encode({"id": self._audio}) if self._audio else b""))

    def _state(self, data: bytes) -> ProviderState | None:
        """Return what the provider wants back, if there is anything."""
        return ProviderState(self._profile.provider, "openai-chat", data) if data else None

    def _reasoning_details(self, details: list[dict[str, Any]], *, shown: bool) -> None:
        """Collect OpenRouter's reasoning details; their text counts only where no plain field carried it already."""
        self._blocks.reasoning("")
        for detail in details:
            self._details.add(detail)
            text = detail.get("text") or detail.get("summary")
            if not shown and isinstance(text, str):
                self._blocks.reasoning(text)

    def _parts(self, parts: list[ContentPart]) -> None:
        """Read content that is an array: Mistral's thinking chunks, and plain text parts."""
        for part in parts:
            if part.type == "thinking":
                pieces = part.thinking if isinstance(part.thinking, list) else [part.thinking]
                for piece in pieces:
                    text = piece.get("text") if isinstance(piece, dict) else piece
                    if isinstance(text, str):
                        self._blocks.reasoning(text)
            elif part.refusal:
                self._close_stated()
                self._blocks.refusal(part.refusal)
            elif part.text:
                self._text(part.text)

    def _cite(self, citations: list[Citation]) -> None:
        """Add sources to the text."""
        index = self._blocks.open_text()
        for citation in citations:
            if index is None:
                self._close_stated()
                index = self._blocks.text("")
            self._cited.add(citation.url)
            bound(_ROOM * len(self._cited))
            self._blocks.add(CitationDelta(index, citation))

    def _media(self, delta: Delta) -> None:
        """Read images, each of which comes whole in a URL, and sound, which comes in pieces."""
        for image in delta.images if isinstance(delta.images, list) else ():
            match image:
                case {"image_url": {"url": str(url)}} if url.startswith("data:") and ";base64," in url:
                    kind, _, data = url.removeprefix("data:").partition(";base64,")
                    self._close_stated()
                    self._blocks.media(ImageBlock(kind), decode_base64(data))
                case _:
                    self._close_stated()
                    state = ProviderState(self._profile.provider, "openai-chat", encode(image))
                    self._blocks.opaque("image", state)
        if isinstance(delta.audio, dict):
            self._sound(delta.audio)

    def _sound(self, audio: dict[str, Any]) -> None:
        """Read a piece of sound, whose base64 may be cut anywhere."""
        found, data = audio.get("id"), audio.get("data")
        self._audio = found if isinstance(found, str) else self._audio
        if isinstance(data, str) and data:
            text = self._sound_text + data
            whole = len(text) // 4 * 4
            self._sound_text = text[whole:]
            if sound := decode_base64(text[:whole]):
                if not self._blocks.in_sound:
                    self._close_stated()
                self._blocks.sound(audio_type(sound), sound)

    def _logprobs(self, tokens: list[WireTokenLogprob]) -> None:
        """Read log probabilities, which belong to the text just added."""
        index = self._blocks.open_text()
        if index is None:
            return  # of a refusal or a tool call: the contract has them for text only
        converted = tuple(
            TokenLogprob(
                token.token,
                token.logprob,
                token_bytes(token.bytes),
                tuple(TopLogprob(top.token, top.logprob, token_bytes(top.bytes)) for top in token.top_logprobs or ()),
            )
            for token in tokens
        )
        self._blocks.add(LogprobsDelta(index, converted))

    def _completion(self, body: bytes) -> tuple[list[BlockEvent], Ending]:
        """Read a whole completion."""
        answer = self._answer(body)
        self._note(answer)
        if not answer.choices:  # an error in a form without `error`
            raise read_error(body, 200, self._profile.error_rules)
        self._tools.whole = True
        for choice in answer.choices:
            self._choice(choice, choice.message or choice.delta)
        return self._close()

    def _close(self) -> tuple[list[BlockEvent], Ending]:
        """Close all blocks and say how the answer ended."""
        if self._think is not None:
            self._split(self._think.end())
        if self._sound_text:
            raise ProtocolError("the provider sent sound that is not in base64")
        self._cite([citation for citation in read_sources(self._sources) if citation.url not in self._cited])
        self._close_stated()
        self._blocks.close_all()
        ending = Ending(stop_reason(self._finish), self._finish, self.usage(), self._model)
        return self._blocks.take(), ending


class StreamDecoder(_Answering):
    """Decodes a stream of chunks; see `Decoder`.

    A body that turns out to be a JSON object is read as a whole answer, whatever its content type says: that is how
    providers answer a streaming request where they fail under a 200.
    """

    def __init__(self, profile: Profile) -> None:
        """Start before the first byte."""
        super().__init__(profile)
        self._sse = SSEDecoder()
        self._whole = WholeBody()

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._whole.possible and self._whole.takes(data):
            return []
        for event in self._sse.feed(data):
            if self.done:
                break
            self._event(event)
        return self._blocks.take()

    def _event(self, event: ServerSentEvent) -> None:
        """Read one event."""
        if event.data.startswith(_DONE):
            self.done = True
        elif event.type == "error":
            raise read_error(event.data, 200, self._profile.error_rules)
        elif event.data.strip():
            self._chunk(self._answer(event.data))

    def _chunk(self, answer: Completion) -> None:
        """Read one chunk."""
        self._note(answer)
        for choice in answer.choices or ():
            self._choice(choice, choice.delta)

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the stream; see `Decoder.end`."""
        if (body := self._whole.content) is not None:
            return self._completion(body)
        if (
            not self.done
            and (last := self._sse.rest()) is not None
            and (last.data.startswith(_DONE) or is_json(last.data))
        ):
            self._event(last)
        if not self.done and not (self._finish and self._flags.terminal == "finish"):
            raise StreamTruncated
        return self._close()


class WholeDecoder(Collecting, _Answering):
    """Decodes one completion; see `Decoder`. Whitespace before the object keeps connections alive and means nothing."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Decode the answer; see `Decoder.end`."""
        return self._completion(self.body)
