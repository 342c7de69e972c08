from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Decoder, Profile
from keyswitch_engine.errors import DispatchError, ProtocolError, StreamTruncated
from keyswitch_engine.events import (
    ArgumentsDelta,
    BlockEvent,
    BlockStart,
    BlockStop,
    Ending,
    OpaqueBlock,
    ReasoningBlock,
    ReasoningDelta,
    TextBlock,
    TextDelta,
    ToolCallBlock,
)
from keyswitch_sandbox.dialects import find
from keyswitch_sandbox.dialects.base import Request
from keyswitch_sandbox.scenarios import SCENARIOS, Conversation, Tool, Tuning, script

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))
PATHS = {
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic-messages": "/v1/messages",
    "vertex-rawpredict": "/publishers/anthropic/models/m:streamRawPredict",
    "bedrock-invoke": "/model/m/invoke-with-response-stream",
    "gemini": "/models/m:streamGenerateContent?alt=sse",
    "bedrock-converse": "/model/m/converse-stream",
    "cohere-v2": "/v2/chat",
    "ollama": "/api/chat",
}
ENDINGS = {
    "openai-chat": rb'finish_reason":"[a-z]|\[DONE\]',
    "openai-responses": rb"response\.(completed|incomplete)",
    "anthropic-messages": rb'stop_reason":"[a-z]|message_stop',
    "vertex-rawpredict": rb'stop_reason":"[a-z]|message_stop',
    "bedrock-invoke": rb"",
    "gemini": rb'finishReason":"[A-Z]',
    "bedrock-converse": rb"messageStop",
    "cohere-v2": rb'finish_reason":"[A-Z]|\[DONE\]',
    "ollama": rb'"done":true',
}
SAID = Conversation(
    "one two\nthree \u00e9\U0001f44b",
    (Tool("weather", {"type": "object"}), Tool("news", {"type": "object"})),
    None,
    None,
    b"",
    3,
)


def sent(dialect: str, scenario: str, *, whole: bool = False) -> list[bytes]:
    """Return what the double sends for a scenario, a piece each."""
    speaker, _ = find(PATHS[dialect])
    made = script(scenario, SAID, Tuning())
    assert made is not None
    request = Request("sandbox/m", stream=True, conversation=SAID)
    return [speaker.whole_body(request, made, "id")] if whole else list(speaker.stream_events(request, made, "id"))


def decoder_of(dialect: str, *, stream: bool = True) -> Decoder:
    spoken = DIALECTS[dialect]
    return spoken.decoder(Profile("sandbox", "/", spoken.flags()), stream=stream)


def decode(decoder: Decoder, chunks: Iterable[bytes]) -> tuple[list[BlockEvent], Ending | DispatchError]:
    """Decode everything; whatever else than an error of the tree is a bug."""
    events: list[BlockEvent] = []
    try:
        for chunk in chunks:
            events += decoder.feed(chunk)
        rest, ending = decoder.end()
    except DispatchError as error:
        return events + decoder.pending, error
    return events + rest, ending


def check_blocks(events: Sequence[BlockEvent], *, complete: bool) -> None:
    """Check that blocks begin before they are added to, stop once, and have the deltas of their kind."""
    kinds: dict[int, Any] = {}
    stopped: set[int] = set()
    for event in events:
        match event:
            case BlockStart(index=index, block=block):
                assert index not in kinds
                kinds[index] = type(block)
            case BlockStop(index=index):
                assert index in kinds
                assert index not in stopped
                stopped.add(index)
            case _:
                assert event.index in kinds
                assert event.index not in stopped
                wanted = {TextDelta: TextBlock, ReasoningDelta: ReasoningBlock, ArgumentsDelta: ToolCallBlock}
                assert kinds[event.index] is wanted.get(type(event), kinds[event.index])
                assert kinds[event.index] is not OpaqueBlock
    if complete:
        assert stopped == kinds.keys()


def content(events: Sequence[BlockEvent]) -> dict[str, str]:
    found: dict[str, str] = {}
    for event in events:
        match event:
            case TextDelta(text=text):
                found["text"] = found.get("text", "") + text
            case ReasoningDelta(text=text):
                found["reasoning"] = found.get("reasoning", "") + text
            case ArgumentsDelta(index=index, fragment=text):
                found[str(index)] = found.get(str(index), "") + text
            case _:
                pass
    return found


TALKING = [name for name in SCENARIOS if script(name, SAID, Tuning()).failure is None]  # type: ignore[union-attr] # they all exist


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("scenario", ["echo", "tools", "reasoning", "signed", "refusal", "length"])
def test_every_cut_gives_the_same_and_every_end_before_the_last_is_told(dialect: str, scenario: str) -> None:
    """Cut in two at every byte a stream decodes alike; ended at any byte it is complete only where it says so itself."""
    body = b"".join(sent(dialect, scenario))
    events, ending = decode(decoder_of(dialect), [body])
    assert isinstance(ending, Ending)
    check_blocks(events, complete=True)
    wanted = content(events)
    assert decode(decoder_of(dialect), (body[n : n + 1] for n in range(len(body))))[1] == ending
    for cut in range(len(body)):
        halves, again = decode(decoder_of(dialect), [body[:cut], body[cut:]])
        assert (content(halves), again) == (wanted, ending)
        begun, reached = decode(decoder_of(dialect), [body[:cut]])
        check_blocks(begun, complete=isinstance(reached, Ending))
        if isinstance(reached, Ending):
            assert re.search(ENDINGS[dialect], body[:cut]), body[:cut]
            assert content(begun) == wanted
        else:
            assert isinstance(reached, StreamTruncated | ProtocolError)


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_of_the_tree_or_harmless(dialect: str, data: st.DataObject) -> None:
    """Flipped, dropped, doubled and inserted bytes and pieces never raise anything else, and never break the blocks."""
    stream = data.draw(st.booleans())
    pieces = sent(dialect, data.draw(st.sampled_from(TALKING)), whole=not stream)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, max(len(pieces) - 1, 0)))
        action = data.draw(st.sampled_from(["drop", "double", "swap", "flip", "insert"]))
        if not pieces:
            break
        piece = pieces[place]
        match action:
            case "drop":
                del pieces[place]
            case "double":
                pieces.insert(place, piece)
            case "swap":
                pieces[place], pieces[0] = pieces[0], piece
            case "flip" if piece:
                at = data.draw(st.integers(0, len(piece) - 1))
                pieces[place] = piece[:at] + data.draw(st.binary(max_size=3)) + piece[at + 1 :]
            case _:
                pieces.insert(place, data.draw(st.binary(max_size=30)))
    events, ending = decode(decoder_of(dialect, stream=stream), pieces)
    check_blocks(events, complete=isinstance(ending, Ending))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def replaced(value: Any, data: st.DataObject) -> Any:
    """Return a value with one of its leaves or branches replaced by anything."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value)))
        return value | {key: replaced(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], replaced(value[place], data), *value[place + 1 :]]
    return data.draw(ANY_JSON)


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if not name.startswith("bedrock")])
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_values_of_wrong_types_are_errors_of_the_tree_or_harmless(dialect: str, data: st.DataObject) -> None:
    """Valid JSON with anything in the place of anything never raises anything else."""
    pieces = sent(dialect, data.draw(st.sampled_from(TALKING)))
    place = data.draw(st.integers(0, len(pieces) - 1))
    found = re.search(rb"\{.*\}", pieces[place], re.DOTALL)
    if found is not None:
        value = replaced(json.loads(found[0]), data)
        text = json.dumps(value, allow_nan=False, default=str) if _finite(value) else "{}"
        pieces[place] = pieces[place][: found.start()] + text.encode() + pieces[place][found.end() :]
    events, ending = decode(decoder_of(dialect), pieces)
    check_blocks(events, complete=isinstance(ending, Ending))


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_endless_answer_is_cut_off(dialect: str) -> None:
    """Neither a whole answer nor one event of a stream can grow without bound."""
    chunk = b"x" * (1 << 20)
    whole = decoder_of(dialect, stream=False)
    with pytest.raises(ProtocolError):
        for _ in range(64):
            whole.feed(chunk)
    stream = decoder_of(dialect)
    with pytest.raises(ProtocolError):
        stream.feed(b"data: ")
        for _ in range(64):
            stream.feed(chunk)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_in_place_of_a_stream_is_told(dialect: str) -> None:
    """A JSON object with an error, where a stream was asked for, is that error."""
    body = msgspec.json.encode(
        {"error": {"message": "insufficient quota", "code": "insufficient_quota"}, "message": "m"}
    )
    _, ending = decode(decoder_of(dialect), [b"  \n", body + b"\n"])
    assert isinstance(ending, DispatchError)
    assert not isinstance(ending, StreamTruncated)
