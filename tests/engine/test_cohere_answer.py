from __future__ import annotations

import json
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import ProtocolError, ProviderError, Reason, StreamTruncated, Unavailable
from keyswitch_engine.events import BlockEvent, BlockStart, BlockStop, Ending, StopReason, TextBlock, TextDelta
from keyswitch_engine.generation import (
    CacheHint,
    CacheRetention,
    Generation,
    Message,
    Part,
    Reasoning,
    ReasoningEffort,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

COHERE = DIALECTS["cohere-v2"]
PROFILE = Profile("p", "/v2/chat", COHERE.flags())
DONE = b"data: [DONE]\n\n"


def event(kind: str, value: Any, name: str | None = None) -> bytes:
    body = json.dumps(value | {"type": kind} if kind else value).encode()
    return f"event: {kind if name is None else name}\ndata: ".encode() + body + b"\n\n"


TEXT = event("content-delta", {"index": 0, "delta": {"message": {"content": {"text": "hi"}}}})
SAID = [BlockStart(0, TextBlock()), TextDelta(0, "hi"), BlockStop(0)]


def message_end(**fields: Any) -> bytes:
    return event("message-end", {"delta": {"finish_reason": "COMPLETE"} | fields})


def stream(*pieces: bytes) -> tuple[list[BlockEvent], Ending]:
    decoder = COHERE.decoder(PROFILE, stream=True)
    found = [one for piece in pieces for one in decoder.feed(piece)]
    last, ending = decoder.end()
    return found + last, ending


@pytest.mark.parametrize(
    ("piece", "reason", "told"),
    [
        (
            event("error", {"message": "too many requests", "code": 429}),
            Reason.PROVIDER_RATE_LIMITED,
            "too many requests",
        ),
        (b"event: error\ndata: it broke\n\n", Reason.PROVIDER_UNAVAILABLE, "it broke"),
        (event("", {"message": "it broke"}, "error"), Reason.PROVIDER_UNAVAILABLE, "it broke"),
        (b'data: {"type":"error","message":"it broke"}\n\n', Reason.PROVIDER_UNAVAILABLE, "it broke"),
        (b'data: {"message":"internal server error"}\n\n', Reason.PROVIDER_UNAVAILABLE, "internal server error"),
        (b'data: {"id":"1","error":"it broke"}\n\n', Reason.PROVIDER_UNAVAILABLE, "it broke"),
    ],
)
def test_an_error_within_a_stream_is_told(piece: bytes, reason: Reason, told: str) -> None:
    """Whatever follows it, and whether the frame, the event or neither has a type."""
    with pytest.raises(ProviderError) as raised:
        stream(TEXT, piece, message_end(), DONE)
    assert (raised.value.reason, raised.value.message) == (reason, told)


@pytest.mark.parametrize("value", [{}, {"message": None}, {"id": "1"}])
def test_an_event_without_a_type_that_is_no_error_means_nothing(value: Any) -> None:
    """As those of unknown types."""
    assert stream(event("", value, ""), TEXT, event("debug", {"message": "x"}), message_end())[0] == SAID


def test_an_event_may_have_its_type_in_the_frame_alone() -> None:
    """It is the same event."""
    pieces = (piece.replace(b', "type": "content-delta"', b"") for piece in (TEXT, message_end()))
    assert stream(*pieces)[0] == SAID


@pytest.mark.parametrize("usage", [None, {}])
def test_usage_may_be_null(usage: Any) -> None:
    """That is nothing wrong, and no usage."""
    assert stream(TEXT, message_end(usage=usage)) == (SAID, Ending(StopReason.STOP, "COMPLETE", None))
    whole = COHERE.decoder(PROFILE, stream=False)
    message = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}
    whole.feed(json.dumps({"id": "1", "message": message, "finish_reason": "COMPLETE", "usage": usage}).encode())
    assert whole.end() == (SAID, Ending(StopReason.STOP, "COMPLETE", None))


def test_a_stream_is_done_with_its_last_event() -> None:
    """Nobody waits for what may follow."""
    decoder = COHERE.decoder(PROFILE, stream=True)
    decoder.feed(TEXT)
    assert not decoder.done
    decoder.feed(message_end(usage={"tokens": {"input_tokens": 1, "output_tokens": 2}}))
    assert decoder.done
    _, ending = decoder.end()
    assert ending.usage is not None
    assert (ending.usage.input_tokens, ending.usage.output_tokens) == (1, 2)


def test_a_stream_without_its_last_event_is_truncated() -> None:
    """Even where it says that it is done."""
    for pieces in ((TEXT,), (TEXT, DONE), (DONE,)):
        with pytest.raises(StreamTruncated):
            stream(*pieces)


def test_calls_are_bounded() -> None:
    """Each takes memory, even with nothing in it."""
    decoder = COHERE.decoder(PROFILE, stream=True)
    with pytest.raises(ProtocolError, match="parts"):
        for number in range(1 << 18):
            decoder.feed(event("tool-call-start", {"index": number, "delta": {"message": {"tool_calls": {}}}}))


def body(generation: Generation) -> Any:
    return json.loads(COHERE.request(generation, "m", PROFILE, "", stream=True).body)


def test_a_cache_hint_on_a_result_is_refused() -> None:
    """On the result and on its parts."""
    hint = CacheHint(CacheRetention.SHORT)
    call = Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", "{}")),))
    inner = ToolResultPart("1", (Part(TextPart("a"), cache_hint=hint),), is_error=False)
    outer = ToolResultPart("1", (Part(TextPart("a")),), is_error=False)
    for part, field in ((Part(inner), ".tool_result.parts[0]"), (Part(outer, cache_hint=hint), "")):
        with pytest.raises(Unavailable) as raised:
            body(Generation((call, Message(Role.TOOL, (part,)))))
        assert raised.value.field == f"messages[1].parts[0]{field}.cache_hint"


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        (Reasoning(budget_tokens=9, include_text=True), {"type": "enabled", "token_budget": 9}),
        (Reasoning(ReasoningEffort.NONE, include_text=True), {"type": "disabled"}),
        (Reasoning(include_text=True), None),
    ],
)
def test_asking_for_the_text_of_reasoning_changes_nothing(reasoning: Reasoning, thinking: Any) -> None:
    """It is shown whenever there is any."""
    hi = Message(Role.USER, (Part(TextPart("hi")),))
    assert body(Generation((hi,), reasoning=reasoning)).get("thinking") == thinking
