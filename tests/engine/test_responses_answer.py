from __future__ import annotations

import json
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.openai_responses.flags import ResponsesFlags
from keyswitch_engine.errors import ProtocolError, Unavailable
from keyswitch_engine.events import (
    ArgumentsDelta,
    BlockEvent,
    BlockStart,
    BlockStop,
    Ending,
    OpaqueBlock,
    ProviderState,
    ReasoningBlock,
    ReasoningDelta,
    RefusalBlock,
    RefusalDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ToolCallBlock,
)
from keyswitch_engine.generation import (
    CacheHint,
    CacheRetention,
    Generation,
    ImagePart,
    InlineMedia,
    Message,
    Part,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

RESPONSES = DIALECTS["openai-responses"]


def profile(**flags: Any) -> Profile:
    return Profile("p", "/responses", ResponsesFlags(**flags))


def event(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": f"response.{kind}"} | fields).encode() + b"\n\n"


def completed(*output: dict[str, Any], **fields: Any) -> bytes:
    return event("completed", response={"id": "r", "model": "m", "status": "completed", "output": output} | fields)


def stream(*pieces: bytes, **flags: Any) -> tuple[list[BlockEvent], Ending]:
    decoder = RESPONSES.decoder(profile(**flags), stream=True)
    found = [one for piece in pieces for one in decoder.feed(piece)]
    last, ending = decoder.end()
    return found + last, ending


def whole(*output: dict[str, Any], **fields: Any) -> tuple[list[BlockEvent], Ending]:
    decoder = RESPONSES.decoder(profile(), stream=False)
    decoder.feed(json.dumps({"id": "r", "model": "m", "status": "completed", "output": output} | fields).encode())
    return decoder.end()


def text(value: str) -> dict[str, Any]:
    return {"type": "output_text", "text": value}


def said(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "message", "content": list(parts)} | fields


def call(number: int, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{number}", "name": "f", "arguments": f"[{number}]"} | fields


def thought(*parts: str, **fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": part} for part in parts]} | fields


TEXT = [BlockStart(0, TextBlock()), TextDelta(0, "hi"), BlockStop(0)]


def test_parts_are_told_by_their_number_where_that_is_sound() -> None:
    """Deltas of the second part alone leave the first to be told; both are completed."""
    events, _ = stream(
        event("output_text.delta", output_index=0, content_index=1, delta="b"),
        event("output_item.done", output_index=0, item=said(text("a"), text("b"))),
        completed(),
    )
    assert events == [
        BlockStart(0, TextBlock()), TextDelta(0, "b"), BlockStart(1, TextBlock()), TextDelta(1, "a"),
        BlockStop(0), BlockStop(1),
    ]  # fmt: skip


def test_parts_that_are_counted_in_another_way_are_told_by_their_order() -> None:
    """A number that no part has cannot be that of a part; what is told later gets a block of its own."""
    refusal = {"type": "refusal", "refusal": "no"}
    events, _ = stream(
        event("output_text.delta", output_index=0, content_index=1, delta="a"),
        event("output_item.done", output_index=0, item=said(text("a"), refusal, text(""))),
        completed(),
    )
    assert events[:2] == [BlockStart(0, TextBlock()), TextDelta(0, "a")]
    assert events[2:] == [BlockStart(1, RefusalBlock()), RefusalDelta(1, "no"), BlockStop(0), BlockStop(1)]
    events, _ = stream(
        event("output_text.delta", output_index=0, content_index=2, delta="a"),
        event("output_item.done", output_index=0, item=said(text("a"), text("b"))),
        completed(),
    )
    assert events[2:] == [BlockStart(1, TextBlock()), TextDelta(1, "b"), BlockStop(0), BlockStop(1)]


@pytest.mark.parametrize("announced", [True, False])
def test_items_without_place_and_id_are_told_apart(announced: bool) -> None:
    """By their types and order, whether they are announced or not."""
    pieces = [
        event("output_item.added", item=said()),
        event("output_text.delta", delta="hi"),
        event("output_item.done", item=said(text("hi"))),
        event("output_item.added", item=call(1, arguments="")),
        event("function_call_arguments.delta", delta="[1"),
        event("function_call_arguments.delta", delta="]"),
        event("output_item.done", item=call(1)),
        event("output_item.added", item=call(2, arguments="")),
        event("output_item.done", item=call(2)),
        completed(said(text("hi")), call(1), call(2)),
    ]
    events, ending = stream(*(piece for piece in pieces if announced or b"item.added" not in piece))
    assert events[:3] == TEXT
    found = [one.block for one in events if isinstance(one, BlockStart)][1:]
    assert found == [ToolCallBlock("call_1", "f"), ToolCallBlock("call_2", "f")]
    arguments = {index: "".join(one.fragment for one in events if isinstance(one, ArgumentsDelta) and one.index == index)
                 for index in (1, 2)}  # fmt: skip
    assert arguments == {1: "[1]", 2: "[2]"}
    assert [one.index for one in events if isinstance(one, BlockStop)] == [0, 1, 2]
    assert ending.stop_reason is StopReason.TOOL_CALLS


def test_reasoning_and_text_without_place_and_id_are_two_items() -> None:
    """Even where neither is ever completed."""
    events, _ = stream(
        event("reasoning_text.delta", delta="hm"),
        event("output_text.delta", delta="h"),
        event("reasoning_text.delta", delta="m"),
        event("output_text.delta", delta="i"),
        completed(),
    )
    assert events == [
        BlockStart(0, ReasoningBlock()), ReasoningDelta(0, "hm"), BlockStart(1, TextBlock()), TextDelta(1, "h"),
        ReasoningDelta(0, "m"), TextDelta(1, "i"), BlockStop(0), BlockStop(1),
    ]  # fmt: skip


def test_an_item_that_was_only_announced_is_told_by_the_response() -> None:
    """Text, calls and reasoning that stand nowhere else are not lost."""
    output = (thought("hm", encrypted_content="x"), said(text("hi")), call(1))
    events, ending = stream(
        event("output_item.added", output_index=0, item={"type": "reasoning"}),
        event("output_item.added", output_index=1, item={"type": "message", "id": "m1"}),
        event("output_item.added", output_index=2, item=call(1, arguments="")),
        completed(*output),
    )
    state = ProviderState("p", "openai-responses", json.dumps(output[0]).encode())
    assert events == [
        BlockStart(0, ReasoningBlock()), BlockStart(1, ToolCallBlock("call_1", "f")),
        ReasoningDelta(0, "hm"), BlockStop(0, state),
        BlockStart(2, TextBlock()), TextDelta(2, "hi"), BlockStop(2),
        ArgumentsDelta(1, "[1]"), BlockStop(1),
    ]  # fmt: skip
    assert ending.stop_reason is StopReason.TOOL_CALLS


def test_an_item_that_never_came_is_told_by_the_response() -> None:
    """Beside those that did."""
    events, _ = stream(
        event("output_item.done", output_index=0, item=said(text("hi"), id="m1")), completed(said(text("hi")), call(1))
    )
    assert events[:3] == TEXT
    assert events[3:] == [BlockStart(1, ToolCallBlock("call_1", "f")), ArgumentsDelta(1, "[1]"), BlockStop(1)]


@pytest.mark.parametrize(
    ("place", "item_id", "output"),
    [
        pytest.param({"output_index": 0}, "m1", [said(text("hi"), id="m1")], id="the same place and id"),
        pytest.param({"output_index": 1}, "m1", [said(text("hi"), id="m2")], id="another place and id"),
        pytest.param({"output_index": 0}, "m1", [thought("a"), said(text("hi"), id="m1")], id="an item before it"),
        pytest.param({"item_id": "m1"}, "m1", [said(text("hi"), id="m1")], id="by id"),
        pytest.param({"item_id": "m1"}, "m1", [said(text("hi"))], id="by id that is left out later"),
        pytest.param({}, None, [said(text("hi"))], id="neither"),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_text_is_never_told_again_by_the_response(
    place: dict[str, Any], item_id: str | None, output: list[dict[str, Any]], done: bool
) -> None:
    """However the final output counts and names the items."""
    pieces = [event("output_text.delta", delta="hi", **place)]
    if done:
        here = {"output_index": place["output_index"]} if "output_index" in place else {}
        pieces.append(event("output_item.done", item=said(text("hi"), id=item_id), **here))
    events, _ = stream(*pieces, completed(*output))
    assert [one.text for one in events if isinstance(one, TextDelta)] == ["hi"]


def test_items_of_one_id_are_all_told() -> None:
    """Some re-implementers give every item the same."""
    items = [said(text("a"), id="x"), said(text("b"), id="x"), call(1, id="x")]
    for events, _ in (whole(*items), stream(completed(*items))):
        assert [one.text for one in events if isinstance(one, TextDelta)] == ["a", "b"]
        assert BlockStart(2, ToolCallBlock("call_1", "f")) in events


def test_an_item_is_completed_once() -> None:
    """Doubled events change nothing."""
    done = event("output_item.done", output_index=0, item=said(text("hi")))
    added = event("output_item.added", output_index=0, item=said())
    assert stream(added, added, done, done, added, completed())[0] == TEXT


def test_parts_of_reasoning_are_paragraphs() -> None:
    """In pieces and whole, a blank line stands between them and nowhere else."""
    place = {"output_index": 0}
    pieces = [(0, "**A"), (0, "**"), (1, "**B**"), (2, ""), (2, "c")]
    events, _ = stream(
        *(event("reasoning_summary_text.delta", summary_index=n, delta=piece, **place) for n, piece in pieces),
        event("output_item.done", item=thought("**A**", "**B**", "c"), **place),
        completed(),
    )
    assert "".join(one.text for one in events if isinstance(one, ReasoningDelta)) == "**A**\n\n**B**\n\nc"
    events, _ = whole(thought("**A**", "", "**B**", content=[{"type": "reasoning_text", "text": "c"}]))
    assert "".join(one.text for one in events if isinstance(one, ReasoningDelta)) == "**A**\n\n**B**\n\nc"


def test_a_final_event_may_have_its_type_in_the_frame_alone() -> None:
    """The status follows from it where the response has none."""
    response = {"response": {"id": "r", "output": [said(text("hi"))]}}
    events, ending = stream(b"event: response.completed\ndata: " + json.dumps(response).encode() + b"\n\n")
    assert (events, ending.raw_stop_reason) == (TEXT, "completed")


@pytest.mark.parametrize(
    ("includes", "details", "total"),
    [
        ("no", {"cached_tokens": 2, "cache_write_tokens": 3}, 15),
        ("no", {"cache_write_tokens": 3}, 13),
        ("no", {"cached_tokens": 2}, 12),
        ("no", {}, 10),
        ("yes", {"cached_tokens": 2, "cache_write_tokens": 3}, 10),
        ("unknown", {"cached_tokens": 0, "cache_write_tokens": 3}, None),
        ("unknown", {"cached_tokens": 0, "cache_write_tokens": 0}, 10),
    ],
)
def test_input_includes_what_is_read_from_and_written_to_the_cache(
    includes: str, details: dict[str, int], total: int | None
) -> None:
    """Both are added where the provider counts neither."""
    usage = {"input_tokens": 10, "output_tokens": 1, "input_tokens_details": details}
    _, ending = stream(completed(usage=usage), input_includes_cache=includes)
    assert ending.usage is not None
    assert ending.usage.input_tokens == total


def test_what_is_kept_of_a_stream_is_bounded() -> None:
    """Items that are begun and those that are complete take memory, however little is in them."""
    for kind, fields in (("output_item.added", {}), ("output_item.done", {}), ("output_text.delta", {"delta": ""})):
        decoder = RESPONSES.decoder(profile(), stream=True)
        item = {"type": "compaction", "id": "i"} if fields == {} else {}
        with pytest.raises(ProtocolError, match="MiB"):
            for number in range(1 << 14):
                decoder.feed(event(kind, output_index=number, item=item, **fields))


def test_long_ids_are_bounded() -> None:
    """They are kept, so they count."""
    for kind in ("output_item.added", "output_item.done", "output_text.delta"):
        decoder = RESPONSES.decoder(profile(), stream=True)
        with pytest.raises(ProtocolError, match="MiB"):
            for number in range(80):
                long = f"{number}" + "x" * (1 << 19)
                decoder.feed(event(kind, item={"type": "message", "id": long}, item_id=long))


def test_an_opaque_item_is_told_whole() -> None:
    """As it came."""
    item = {"type": "web_search_call", "id": "ws_1", "action": {"query": "x"}}
    events, _ = stream(
        event("output_item.added", output_index=0, item={"type": "web_search_call", "id": "ws_1"}),
        event("output_item.done", output_index=0, item=item),
        completed(item),
    )
    state = ProviderState("p", "openai-responses", json.dumps(item).encode())
    assert events == [BlockStart(0, OpaqueBlock("web_search_call")), BlockStop(0, state)]


HINT = CacheHint(CacheRetention.SHORT)
PICTURE = Part(ImagePart(InlineMedia(b"png", "image/png")))


def written(part: Part) -> Any:
    calls = Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", "{}")),))
    generation = Generation((calls, Message(Role.TOOL, (part,))))
    made = RESPONSES.request(generation, "m", profile(), "", stream=True)
    return json.loads(made.body)["input"][1]["output"]


@pytest.mark.parametrize("is_error", [False, True])
@pytest.mark.parametrize("lead", [Part(TextPart("a")), PICTURE])
def test_a_cache_hint_on_a_result_is_refused(is_error: bool, lead: Part) -> None:
    """On the result and on its parts, failed or not, naming the field."""
    field = "messages[1].parts[0]"
    with pytest.raises(Unavailable) as raised:
        written(Part(ToolResultPart("1", (lead,), is_error), cache_hint=HINT))
    assert raised.value.field == f"{field}.cache_hint"
    for number in range(2):
        hinted = [
            Part(part.content, cache_hint=HINT if n == number else None) for n, part in enumerate((lead, PICTURE))
        ]
        with pytest.raises(Unavailable) as raised:
            written(Part(ToolResultPart("1", tuple(hinted), is_error)))
        assert raised.value.field == f"{field}.tool_result.parts[{number}].cache_hint"


def test_a_failed_result_says_so() -> None:
    """In its first text, or in one before everything else."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,cG5n"}

    def failed(*parts: Part) -> Any:
        return written(Part(ToolResultPart("1", parts, is_error=True)))

    assert failed() == "Error"
    assert failed(Part(TextPart("no"))) == "Error: no"
    assert failed(Part(TextPart("no")), PICTURE) == [{"type": "input_text", "text": "Error: no"}, image]
    assert failed(PICTURE) == [{"type": "input_text", "text": "Error"}, image]


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}


def calls(events: list[BlockEvent]) -> dict[str, str]:
    """Return the arguments of every tool call by its id, each of which has to be there once."""
    starts = [one for one in events if isinstance(one, BlockStart) and isinstance(one.block, ToolCallBlock)]
    found = {one.index: "" for one in starts}
    for one in events:
        if isinstance(one, ArgumentsDelta):
            found[one.index] += one.fragment
    by_id = {one.block.id: found[one.index] for one in starts if isinstance(one.block, ToolCallBlock)}
    assert len(by_id) == len(starts)
    return by_id


def test_items_without_place_and_id_belong_to_the_deltas_after_them() -> None:
    """Items that only their calls name (llama.cpp) take the deltas that only ids name, in parallel too."""
    items = [CALL | {"call_id": f"fc_{n}", "name": f"f{n}"} for n in (1, 2)]
    whole = [item | {"arguments": f'{{"n":{n}}}'} for n, item in enumerate(items, 1)]
    events, ending = stream(
        event("output_item.added", item=items[0]),
        event("function_call_arguments.delta", item_id="fc_1", delta='{"n":'),
        event("function_call_arguments.delta", item_id="fc_1", delta="1}"),
        event("output_item.added", item=items[1]),
        event("function_call_arguments.delta", item_id="fc_2", delta='{"n":2}'),
        event("output_item.done", item=whole[0]),
        event("output_item.done", item=whole[1]),
        completed(*whole),
    )
    assert calls(events) == {"fc_1": '{"n":1}', "fc_2": '{"n":2}'}
    assert ending.stop_reason is StopReason.TOOL_CALLS


@pytest.mark.parametrize("named", ["fc_a", "other"])
def test_items_by_place_and_deltas_by_id_are_the_same(named: str) -> None:
    """Deltas without a place find the item by its id; what they cannot find is told with the whole item, once."""
    item = CALL | {"id": "fc_a"}
    events, _ = stream(
        event("output_item.added", output_index=0, item=item),
        event("function_call_arguments.delta", item_id=named, delta="{}"),
        event("output_item.done", output_index=0, item=item | {"arguments": "{}"}),
        completed(item | {"arguments": "{}"}),
    )
    assert calls(events) == {"c1": "{}"}


def test_a_text_by_place_and_deltas_by_id_is_told_once() -> None:
    """A message whose deltas have no place is not repeated."""
    message = {"type": "message", "id": "m1", "content": [{"type": "output_text", "text": "hello"}]}
    events, _ = stream(
        event("output_item.added", output_index=0, item=message | {"content": []}),
        event("output_text.delta", item_id="m1", delta="hello"),
        event("output_item.done", output_index=0, item=message),
        completed(message),
    )
    assert [one.text for one in events if isinstance(one, TextDelta)] == ["hello"]


def test_the_marker_needs_no_empty_line() -> None:
    """A last event that is whole counts even if the body ends with it."""
    assert stream(event("output_text.delta", output_index=0, delta="a"), completed().rstrip(b"\n"))[1].stop_reason
