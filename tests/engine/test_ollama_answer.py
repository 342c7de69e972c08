from __future__ import annotations

import json
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import InvalidRequest, ProtocolError, ProviderError, Unavailable
from keyswitch_engine.events import BlockEvent, BlockStart, BlockStop, Ending, StopReason, TextBlock, TextDelta
from keyswitch_engine.generation import (
    CacheHint,
    CacheRetention,
    Generation,
    Message,
    Part,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

OLLAMA = DIALECTS["ollama"]
PROFILE = Profile("p", "/api/chat", OLLAMA.flags())


def decoded(*lines: dict[str, Any], stream: bool = True) -> tuple[list[BlockEvent], Ending]:
    decoder = OLLAMA.decoder(PROFILE, stream=stream)
    found = [one for line in lines for one in decoder.feed(json.dumps(line).encode() + b"\n")]
    last, ending = decoder.end()
    return found + last, ending


LAST = {"model": "m", "message": {"content": "hi"}, "done": True, "done_reason": "stop"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("nothing", [None, ""])
def test_an_error_that_is_none_means_nothing(nothing: object, stream: bool) -> None:
    """A field that stands there empty says that nothing failed."""
    events, ending = decoded(LAST | {"error": nothing}, stream=stream)
    assert events == [BlockStart(0, TextBlock()), TextDelta(0, "hi"), BlockStop(0)]
    assert ending == Ending(StopReason.STOP, "stop", None, "m")


@pytest.mark.parametrize("line", [LAST | {"error": "it broke"}, {"error": {"message": "it broke"}}, {"error": None}])
def test_an_error_is_told(line: dict[str, Any]) -> None:
    """As text, as an object, and where a line says nothing else."""
    with pytest.raises(ProviderError) as raised:
        decoded(line)
    assert not isinstance(raised.value, ProtocolError)
    if line["error"]:
        assert raised.value.message == "it broke"


def test_calls_are_bounded() -> None:
    """Each takes memory, even with nothing in it."""
    decoder = OLLAMA.decoder(PROFILE, stream=True)
    line = json.dumps({"message": {"tool_calls": [{}] * 1000}}).encode() + b"\n"
    with pytest.raises(ProtocolError, match="parts"):
        for _ in range(1 << 8):
            decoder.feed(line)


def messages(*turns: Message) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(OLLAMA.request(Generation(turns), "m", PROFILE, "", stream=True).body)[
        "messages"
    ]
    return found


def calling(arguments: str) -> Message:
    return Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", arguments)),))


@pytest.mark.parametrize("arguments", ["", "  ", "\n"])
def test_blank_arguments_are_an_empty_object(arguments: str) -> None:
    """Some providers write none for a function without parameters."""
    (turn,) = messages(calling(arguments))
    assert turn["tool_calls"] == [{"id": "1", "function": {"name": "f", "arguments": {}}}]


def test_arguments_that_are_no_object_are_refused() -> None:
    """The dialect has no other."""
    with pytest.raises(InvalidRequest) as raised:
        messages(calling("[]"))
    assert raised.value.field == "messages[0].parts[0].tool_call.arguments_json"


def test_a_cache_hint_on_a_result_is_refused() -> None:
    """On the result and on its parts."""
    hint = CacheHint(CacheRetention.SHORT)
    inner = ToolResultPart("1", (Part(TextPart("a"), cache_hint=hint),), is_error=False)
    outer = ToolResultPart("1", (Part(TextPart("a")),), is_error=False)
    for part, field in ((Part(inner), ".tool_result.parts[0]"), (Part(outer, cache_hint=hint), "")):
        with pytest.raises(Unavailable) as raised:
            messages(calling("{}"), Message(Role.TOOL, (part,)))
        assert raised.value.field == f"messages[1].parts[0]{field}.cache_hint"
