"""Answers of Ollama's chat as events. Each line is a whole message that adds to those before it."""

from __future__ import annotations

import msgspec

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.blocks import BlockBuilder, new_call_id
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.reading import bound, decode, first_count, token_bytes
from keyswitch_engine.errors import StreamTruncated
from keyswitch_engine.events import (
    BlockEvent,
    Ending,
    LogprobsDelta,
    ReportedUsage,
    StopReason,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from keyswitch_engine.wire import MALFORMED_JSON
from keyswitch_engine.wire.ndjson import NDJSONDecoder

__all__ = ["STOP_REASONS", "OllamaDecoder", "stop_reason"]

_NOTHING = (b"", b"null", b'""')

STOP_REASONS = {"stop": StopReason.STOP, "length": StopReason.LENGTH}
"""Done reasons. `load` and `unload` answer requests without a prompt, which are never sent."""


def stop_reason(raw: str, *, called: bool = False) -> StopReason:
    """Translate a done reason; one that is not known is `OTHER`, none at all `UNKNOWN`.

    The dialect has none for tool calls: an answer that *called* one stops like any other.
    """
    reached = STOP_REASONS.get(raw, StopReason.OTHER) if raw else StopReason.UNKNOWN
    return StopReason.TOOL_CALLS if called and reached is StopReason.STOP else reached


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _TopLogprob(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class _TokenLogprob(_TopLogprob):
    top_logprobs: list[_TopLogprob] | None = None


class _Line(msgspec.Struct):
    model: str | None = None
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: float | None = None
    eval_count: float | None = None
    logprobs: list[_TokenLogprob] | None = None
    error: msgspec.Raw = msgspec.Raw()


_LINE = msgspec.json.Decoder(_Line)


class OllamaDecoder:
    """Decodes one answer, streamed or whole; see `Decoder`."""

    def __init__(self, profile: Profile, *, stream: bool) -> None:
        """Start before the first byte. A whole answer is one message, however many lines it is written on."""
        self._profile = profile
        self._lines = NDJSONDecoder() if stream else None
        self._rest = bytearray()
        self._blocks = BlockBuilder()
        self._calls = 0
        self._finish = ""
        self._usage: Usage | None = None
        self._model = ""
        self.response_id = ""  # the dialect has none
        self.done = False

    @property
    def pending(self) -> list[BlockEvent]:
        """Events decoded by a call that then raised; see `Decoder.pending`."""
        return self._blocks.take()

    def usage(self) -> Usage | None:
        """Return the counts of the last line; see `Decoder.usage`."""
        return self._usage

    def feed(self, data: bytes) -> list[BlockEvent]:
        """Decode the next bytes; see `Decoder.feed`."""
        if self._lines is None:
            self._rest += data
            bound(len(self._rest))
            return []
        for line in self._lines.feed(data):
            if self.done:
                break
            self._line(line)
        return self._blocks.take()

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the answer; see `Decoder.end`. The last line may lack its end, unless it is cut itself."""
        rest = bytes(self._rest) if self._lines is None else self._lines.rest
        if not self.done and rest.strip():
            try:
                msgspec.json.decode(rest)
            except MALFORMED_JSON:
                raise StreamTruncated from None
            self._line(rest)
        if not self.done:
            raise StreamTruncated
        self._blocks.close_all()
        reached = stop_reason(self._finish, called=self._calls > 0)
        return self._blocks.take(), Ending(reached, self._finish, self._usage, self._model)

    def _line(self, data: bytes) -> None:
        """Read one line."""
        line = decode(_LINE, data)
        if bytes(line.error) not in _NOTHING or (line.message is None and not line.done):
            raise read_error(data, 200, self._profile.error_rules)
        self._model = line.model or self._model
        if line.message is not None:
            self._message(line.message)
        if line.logprobs:
            self._logprobs(line.logprobs)
        if line.done:
            self.done = True
            self._finish = line.done_reason or ""
            self._usage = _usage(line)

    def _message(self, message: _Message) -> None:
        """Read what a line adds."""
        if message.thinking:
            self._blocks.reasoning(message.thinking)
        if message.content:
            self._blocks.text(message.content)
        for call in message.tool_calls or ():
            function = call.function or _Function()
            index = self._blocks.tool_call(call.id or new_call_id(), function.name or "")
            self._calls += 1
            arguments = bytes(function.arguments).decode("utf-8", "replace") if len(function.arguments) else "{}"
            self._blocks.arguments(index, arguments)

    def _logprobs(self, tokens: list[_TokenLogprob]) -> None:
        """Read log probabilities of text; the contract has none for anything else."""
        index = self._blocks.open_text()
        if index is None:
            return
        converted = tuple(
            TokenLogprob(
                token.token, token.logprob, token_bytes(token.bytes),
                tuple(TopLogprob(top.token, top.logprob, token_bytes(top.bytes)) for top in token.top_logprobs or ()),
            )
            for token in tokens
        )  # fmt: skip
        self._blocks.add(LogprobsDelta(index, converted))


def _usage(line: _Line) -> Usage | None:
    """Read token counts. A prompt that was cached as a whole is not counted at all; output includes thinking."""
    given, made = first_count(line.prompt_eval_count), first_count(line.eval_count)
    if given is None and made is None:
        return None
    counts = {"prompt_eval_count": given, "eval_count": made}
    json = msgspec.json.encode({name: count for name, count in counts.items() if count is not None}).decode()
    return Usage(given, made, reported=ReportedUsage(given, made, json=json))
