from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.openai_chat.answer import STOP_REASONS, stop_reason
from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.errors import ProtocolError, ProviderError, Reason, StreamTruncated
from keyswitch_engine.events import (
    ArgumentsDelta,
    AudioBlock,
    BlockEvent,
    BlockStart,
    BlockStop,
    Citation,
    CitationDelta,
    Ending,
    ImageBlock,
    LogprobsDelta,
    MediaDelta,
    OpaqueBlock,
    ProviderState,
    ReasoningBlock,
    ReasoningDelta,
    RefusalBlock,
    RefusalDelta,
    StopReason,
    TextBlock,
    TextDelta,
    TokenLogprob,
    ToolCallBlock,
    TopLogprob,
)

CHAT = DIALECTS["openai-chat"]


def profile(**flags: Any) -> Profile:
    return Profile("test", "/chat/completions", ChatFlags(**flags))


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    body = {"id": "c1", "model": "m1", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}]}
    return b"data: " + json.dumps(body | fields).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*chunks: bytes, marked: bool = True, **flags: Any) -> tuple[list[BlockEvent], Ending]:
    """Decode chunks, and the marker that completes them."""
    decoder = CHAT.decoder(profile(**flags), stream=True)
    events = [event for piece in (*chunks, *([DONE] if marked else [])) for event in decoder.feed(piece)]
    last, ending = decoder.end()
    return events + last, ending


def whole(message: dict[str, Any], finish: str = "stop", **fields: Any) -> tuple[list[BlockEvent], Ending]:
    decoder = CHAT.decoder(profile(), stream=False)
    body = {"id": "c1", "model": "m1", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    decoder.feed(b"\n   " + json.dumps(body | fields).encode())
    return decoder.end()


def text_of(events: Iterable[BlockEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_text_is_one_block() -> None:
    """Deltas of text open a block once, add to it, and the end closes it."""
    events, ending = stream(chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}),
                            chunk({"content": "b"}), chunk(finish="stop"))  # fmt: skip
    assert events == [BlockStart(0, TextBlock()), TextDelta(0, "a"), TextDelta(0, "b"), BlockStop(0)]
    assert ending == Ending(StopReason.STOP, "stop", None, "m1")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text"])
def test_reasoning_comes_in_a_block_before_the_text(field: str) -> None:
    """Every spelling of reasoning opens a block of its own, closed by the text."""
    events, _ = stream(chunk({field: "hm"}), chunk({"content": "so"}), chunk(finish="stop"))
    assert events == [
        BlockStart(0, ReasoningBlock()), ReasoningDelta(0, "hm"), BlockStop(0),
        BlockStart(1, TextBlock()), TextDelta(1, "so"), BlockStop(1),
    ]  # fmt: skip


def test_reasoning_details_become_state_and_are_not_counted_twice() -> None:
    """Fragments of details join by type and index into the state; their text is shown once."""
    detail = {"type": "reasoning.text", "index": 0}
    events, _ = stream(
        chunk({"reasoning": "a", "reasoning_details": [detail | {"text": "a"}]}),
        chunk({"reasoning": "b", "reasoning_details": [detail | {"text": "b", "signature": "s"}]}),
        chunk({"content": "so"}), chunk(finish="stop"),
    )  # fmt: skip
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == ["a", "b"]
    state = events[3].state if isinstance(events[3], BlockStop) else None
    assert isinstance(state, ProviderState)
    assert json.loads(state.data) == [detail | {"text": "ab", "signature": "s"}]
    assert (state.provider, state.dialect) == ("test", "openai-chat")


def test_details_without_text_still_make_a_block() -> None:
    """Encrypted reasoning alone is a block without text, with its state."""
    events, _ = whole({"content": "so", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]})
    assert events[0] == BlockStart(0, ReasoningBlock())
    assert isinstance(events[1], BlockStop)
    assert events[1].state is not None


def test_content_arrays_are_read() -> None:
    """Thinking and text chunks of an array are reasoning and text."""
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}]
    events, _ = whole({"content": content})
    assert [type(event).__name__ for event in events if isinstance(event, ReasoningDelta | TextDelta)] == [
        "ReasoningDelta",
        "TextDelta",
    ]


def call(index: int | None, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    body: dict[str, Any] = {"function": function}
    if index is not None:
        body["index"] = index
    if call_id is not None:
        body["id"] = call_id
    return {"tool_calls": [body]}


@pytest.mark.parametrize(
    "fragments",
    [
        pytest.param([call(0, "a", "f", ""), call(1, "b", "g", ""), call(0, None, None, '{"x":'),
                      call(1, None, None, "{}"), call(0, None, None, "1}")], id="interleaved by index"),
        pytest.param([call(None, "a", "f", '{"x":1}'), call(None, "b", "g", "{}")], id="whole and without index"),
        pytest.param([call(0, "a", "f", '{"x":'), call(0, "a", None, "1}"), call(0, "b", "g", "{}")],
                     id="every call numbered 0"),
        pytest.param([call(None, "a", "f", '{"x":'), call(None, None, None, "1}"), call(None, "b", "g", "{}")],
                     id="continued without index and id"),
        pytest.param([call(0, "a", "f", '{"x":1}'), call(1, "b", "g", "{}")], id="whole in one delta"),
    ],
)  # fmt: skip
def test_fragments_of_tool_calls_find_each_other(fragments: list[dict[str, Any]]) -> None:
    """However providers number and name fragments, each call gets its own arguments in order."""
    events, ending = stream(*(chunk(fragment) for fragment in fragments), chunk(finish="tool_calls"))
    starts = {event.index: event.block for event in events if isinstance(event, BlockStart)}
    arguments: dict[int, str] = dict.fromkeys(starts, "")
    for event in events:
        if isinstance(event, ArgumentsDelta):
            arguments[event.index] += event.fragment
    assert starts == {0: ToolCallBlock("a", "f"), 1: ToolCallBlock("b", "g")}
    assert arguments == {0: '{"x":1}', 1: "{}"}
    assert [event.index for event in events if isinstance(event, BlockStop)] == [0, 1]
    assert ending.stop_reason is StopReason.TOOL_CALLS


def test_a_call_without_an_id_gets_one() -> None:
    """Results have to name their call, so a missing id is made up."""
    events, _ = stream(chunk(call(0, None, "f", "{}")), chunk(call(1, "", "g", "{}")), chunk(finish="tool_calls"))
    ids = [
        event.block.id for event in events if isinstance(event, BlockStart) and isinstance(event.block, ToolCallBlock)
    ]
    assert len(set(ids)) == 2
    assert all(ids)


def test_the_old_form_of_calls_is_read() -> None:
    """`function_call` is a tool call."""
    events, ending = whole({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call")
    assert isinstance(events[0], BlockStart)
    assert isinstance(events[0].block, ToolCallBlock)
    assert (events[0].block.name, ending.stop_reason) == ("f", StopReason.TOOL_CALLS)


def test_a_refusal_is_a_block_of_its_own() -> None:
    """Refusals are no text."""
    events, _ = stream(chunk({"refusal": "no"}), chunk(finish="stop"))
    assert events == [BlockStart(0, RefusalBlock()), RefusalDelta(0, "no"), BlockStop(0)]


def test_citations_and_logprobs_belong_to_the_text() -> None:
    """Annotations and log probabilities are deltas of the text block."""
    citation = {"type": "url_citation", "url_citation": {"url": "https://e.example", "title": "T", "start_index": 0}}
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97],
                             "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": None}]}]}  # fmt: skip
    choice = {"index": 0, "delta": {"content": "a", "annotations": [citation]}, "logprobs": logprobs}
    events, _ = stream(chunk(choices=[choice]), chunk(finish="stop"))
    assert events[2:4] == [
        CitationDelta(0, Citation("https://e.example", "T", "", 0, None)),
        LogprobsDelta(0, (TokenLogprob("a", -0.5, b"a", (TopLogprob("b", -1.0),)),)),
    ]


USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([chunk({"content": "a"}), chunk(finish="stop"), chunk(choices=[], usage=USAGE)], id="separate"),
        pytest.param([chunk({"content": "a"}), chunk(finish="stop", usage=USAGE)], id="with the finish"),
        pytest.param([chunk({"content": "a"}), chunk(finish="stop", usage=USAGE), chunk(choices=[], usage=USAGE)],
                     id="twice"),
        pytest.param([chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}),
                      chunk(finish="stop", usage=USAGE)], id="cumulative"),
        pytest.param([chunk({"content": "a"}), chunk(finish="stop"), chunk({"content": ""}, usage=USAGE)],
                     id="after it with a dummy choice"),
        pytest.param([chunk({"content": "a"}), chunk(finish="stop", x_groq={"usage": USAGE})], id="x_groq"),
    ],
)  # fmt: skip
def test_usage_is_set_wherever_it_comes(chunks: list[bytes]) -> None:
    """Counts are those of the last report, never sums."""
    events, ending = stream(*chunks)
    assert text_of(events) == "a"
    assert ending.usage is not None
    assert ending.usage.reported is not None
    reported = ending.usage.reported
    assert (reported.input_tokens, reported.output_tokens, reported.total_tokens) == (3, 4, 7)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, (None, None)),
        ({"output_includes_reasoning": "yes", "input_includes_cache": "yes"}, (10, 8)),
        ({"output_includes_reasoning": "no", "input_includes_cache": "no"}, (14, 13)),
    ],
)
def test_normalised_counts_include_their_parts_or_are_absent(
    flags: dict[str, str], expected: tuple[int | None, int | None]
) -> None:
    """Where the row does not say how a provider counts, a normalised count is absent rather than guessed."""
    usage = {"prompt_tokens": 10, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4},
             "completion_tokens_details": {"reasoning_tokens": 5}}  # fmt: skip
    _, ending = stream(chunk(finish="stop", usage=usage), **flags)
    assert ending.usage is not None
    assert (ending.usage.input_tokens, ending.usage.output_tokens) == expected
    assert (ending.usage.cache_read_tokens, ending.usage.reasoning_tokens) == (4, 5)


@pytest.mark.parametrize(
    ("terminal", "chunks", "complete"),
    [
        ("done", [], False),
        ("done", [chunk(finish="stop")], False),
        ("done", [DONE], True),
        ("done", [b"data: [DONE]"], True),
        ("done", [b"data: [DONE] \n"], True),
        ("done", [b"data: [DON"], False),
        ("done", [chunk(finish="stop"), DONE], True),
        ("finish", [], False),
        ("finish", [DONE], True),
        ("finish", [chunk(finish="stop")], True),
    ],
)
def test_the_row_says_what_completes_a_stream(terminal: str, chunks: list[bytes], complete: bool) -> None:
    """A stream that ends without its marker is truncated, never a stop."""
    if complete:
        stream(chunk({"content": "a"}), *chunks, marked=False, terminal=terminal)
    else:
        with pytest.raises(StreamTruncated):
            stream(chunk({"content": "a"}), *chunks, marked=False, terminal=terminal)


def test_a_marker_without_a_reason_is_unknown() -> None:
    """A stream that says it is over, but not why, stopped for an unknown reason."""
    _, ending = stream(chunk({"content": "a"}))
    assert (ending.stop_reason, ending.raw_stop_reason) == (StopReason.UNKNOWN, "")


def test_every_prefix_without_a_finish_reason_is_truncated() -> None:
    """A stream cut anywhere before its finish reason ends as truncated, with a prefix of the text."""
    body = b"".join([chunk({"content": word}) for word in ("a", "b", "c")])
    for cut in range(len(body)):
        decoder = CHAT.decoder(profile(), stream=True)
        assert "abc".startswith(text_of(decoder.feed(body[:cut])))
        with pytest.raises(StreamTruncated):
            decoder.end()


def test_each_delta_is_out_before_the_next_frame_is_fed() -> None:
    """Fed byte by byte, the last byte of a frame returns its delta."""
    decoder = CHAT.decoder(profile(), stream=True)
    for word in ("one", "two", "three"):
        frame = chunk({"content": word})
        got = [event for byte in frame for event in decoder.feed(bytes([byte]))]
        assert text_of(got) == word


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b'data: {"error":{"message":"Provider returned error","code":502}}\n\n', Reason.PROVIDER_UNAVAILABLE),
        (b'event: error\ndata: {"error":{"message":"bad call","code":"tool_use_failed","status_code":400}}\n\n',
         Reason.PROVIDER_REJECTED_REQUEST),
        (b"error: failed to decode\n\n", Reason.PROVIDER_UNAVAILABLE),
        (b'data: {"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}\n\n',
         Reason.INSUFFICIENT_CREDIT),
        (chunk(finish="error"), Reason.PROVIDER_UNAVAILABLE),
        (chunk(finish="network_error"), Reason.PROVIDER_UNAVAILABLE),
        (chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "error",
                         "error": {"code": 402, "message": "Insufficient credits"}}]), Reason.INSUFFICIENT_CREDIT),
        (b'data: {"object":"error","message":"boom","type":"InternalServerError","code":500}\n\n',
         Reason.PROVIDER_UNAVAILABLE),
        (b'data: {"base_resp":{"status_code":1000,"status_msg":"unknown"}}\n\n', Reason.PROVIDER_UNAVAILABLE),
        (b'data: {"choices":[],"base_resp":{"status_code":1000,"status_msg":"x"}}\n\n', Reason.PROVIDER_UNAVAILABLE),
    ],
)  # fmt: skip
def test_a_failure_in_the_middle_keeps_its_class_and_what_came_before(frame: bytes, reason: Reason) -> None:
    """Every spelling of a mid-stream failure raises it; what the same bytes held before it is pending."""
    decoder = CHAT.decoder(profile(), stream=True)
    with pytest.raises(ProviderError) as raised:
        decoder.feed(chunk({"content": "before"}) + frame)
    assert raised.value.reason is reason
    assert text_of(decoder.pending) == "before"


def test_an_error_object_instead_of_a_stream_is_that_error() -> None:
    """A JSON error under a 200, to a streaming request, is read as one."""
    decoder = CHAT.decoder(profile(), stream=True)
    decoder.feed(b' {"error": {"message": "The model is overloaded"')
    decoder.feed(b', "code": 503}}')
    with pytest.raises(ProviderError) as raised:
        decoder.end()
    assert raised.value.reason is Reason.PROVIDER_OVERLOADED


@pytest.mark.parametrize("body", [b"data: {not json\n\n", b'data: {"choices": 7}\n\n', b"data: \xff\xfe\n\n"])
def test_what_is_not_the_dialect_is_a_protocol_error(body: bytes) -> None:
    """Broken JSON and wrong types are never skipped."""
    with pytest.raises(ProtocolError):
        CHAT.decoder(profile(), stream=True).feed(body)


def test_think_tags_are_split_only_where_the_row_says_so() -> None:
    """`<think>` is text by default, and reasoning with the flag, however it is cut."""
    text = "<think>\nhm</think>\n\nso < that"
    plain, _ = stream(chunk({"content": text}))
    assert text_of(plain) == text
    events, _ = stream(*(chunk({"content": letter}) for letter in text), think_tags=True)
    assert text_of(events) == "so < that"
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "hm"


def test_calls_of_other_names_are_others_under_the_same_number() -> None:
    """Without ids and all numbered 0, two functions are two calls."""
    events, _ = stream(chunk(call(0, "", "f", "{}")), chunk(call(0, "", "g", "{}")))
    assert [
        event.block.name for event in events if isinstance(event, BlockStart) and isinstance(event.block, ToolCallBlock)
    ] == ["f", "g"]


def test_calls_that_share_an_id_do_not_share_it_here() -> None:
    """Another function under an id that is in use is another call, with an id of its own."""
    events, _ = stream(chunk(call(0, "a", "f", "{}")), chunk(call(1, "a", "g", "{}")))
    blocks = [event.block for event in events if isinstance(event, BlockStart)]
    assert [block.name for block in blocks if isinstance(block, ToolCallBlock)] == ["f", "g"]
    assert len({block.id for block in blocks if isinstance(block, ToolCallBlock)}) == 2


def test_the_input_of_a_custom_tool_comes_in_pieces() -> None:
    """Free text is a tool call's arguments."""
    first = {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}]}
    rest = {"tool_calls": [{"index": 0, "custom": {"input": "SELECT 1"}}]}
    events, _ = stream(chunk(first), chunk(rest), chunk(finish="tool_calls"))
    assert events[:2] == [BlockStart(0, ToolCallBlock("a", "f")), ArgumentsDelta(0, "SELECT 1")]


def test_an_empty_custom_tool_beside_a_function_means_nothing() -> None:
    """Some providers send every field that there is (Snowflake)."""
    both = call(0, "a", "f", "{}")["tool_calls"][0] | {"custom": {"name": "", "input": ""}}
    events, _ = whole({"content": None, "tool_calls": [both]}, "tool_calls")
    assert events[:2] == [BlockStart(0, ToolCallBlock("a", "f")), ArgumentsDelta(0, "{}")]


def test_a_second_choice_is_part_of_the_answer_where_the_row_says_so() -> None:
    """Text in the first choice and a call in the second are one answer."""
    second = {"index": 1, "delta": call(0, "a", "f", "{}"), "finish_reason": "tool_calls"}
    events, ending = stream(chunk({"content": "so"}), chunk(choices=[second]), split_choices=True)
    assert [type(event.block) for event in events if isinstance(event, BlockStart)] == [TextBlock, ToolCallBlock]
    assert ending.stop_reason is StopReason.TOOL_CALLS


def test_images_and_sound_are_blocks() -> None:
    """An image comes whole in a data URL, sound in pieces."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}}
    events, _ = stream(chunk({"content": "look"}), chunk({"images": [image]}), chunk({"audio": {"id": "a1"}}),
                       chunk({"audio": {"data": "YWI="}}), chunk({"audio": {"data": "Yw=="}}))  # fmt: skip
    assert events[2:] == [
        BlockStop(0), BlockStart(1, ImageBlock("image/png")), MediaDelta(1, b"png"), BlockStop(1),
        BlockStart(2, AudioBlock("audio/pcm")), MediaDelta(2, b"ab"), MediaDelta(2, b"c"),
        BlockStop(2, ProviderState("test", "openai-chat", b'{"id":"a1"}')),
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["https://e.example/a.png", "data:image/svg+xml;utf8,<svg/>"])
def test_an_image_in_an_unknown_form_is_an_opaque_item(url: str) -> None:
    """What cannot be shown is passed on as it came, and costs no answer."""
    image = {"type": "image_url", "image_url": {"url": url}}
    events, _ = stream(chunk({"content": "a"}), chunk({"images": [image]}))
    assert BlockStart(1, OpaqueBlock("image")) in events
    stop = next(event for event in events if isinstance(event, BlockStop) and event.index == 1)
    assert stop.state is not None
    assert json.loads(stop.state.data) == image


def test_sound_may_be_cut_anywhere() -> None:
    """Pieces of one base64 text are one sound; what is no base64 is a protocol error."""
    for pieces in (["YWJj", "ZGU="], ["YW", "JjZG", "U="], ["YWI=", "Y2Rl"]):
        events, _ = stream(*(chunk({"audio": {"data": piece}}) for piece in pieces))
        assert b"".join(event.data for event in events if isinstance(event, MediaDelta)) == b"abcde"
    for wrong in ("%%%%", "YW"):
        with pytest.raises(ProtocolError):
            stream(chunk({"audio": {"data": wrong}}))


@pytest.mark.parametrize(
    "fields",
    [
        {"base_resp": {"status_code": None}},
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"base_resp": None},
        {"object": 7},
        {"error": False},
    ],
)
def test_odd_fields_cost_no_answer(fields: dict[str, Any]) -> None:
    """What means nothing is ignored, whatever its type."""
    events, _ = stream(chunk({"content": "a", "audio": ""}, **fields), b'data: {"message":null,"usage":null}\n\n')
    assert text_of(events) == "a"


def test_the_last_event_needs_no_empty_line() -> None:
    """An event that is whole counts even if the body ends with it."""
    finish = chunk(finish="stop").rstrip(b"\n")
    _, ending = stream(chunk({"content": "a"}), finish, marked=False, terminal="finish")
    assert ending.stop_reason is StopReason.STOP
    with pytest.raises(StreamTruncated):
        stream(chunk({"content": "a"}), finish[:-2], marked=False, terminal="finish")


def test_whole_calls_are_calls_of_their_own() -> None:
    """In a whole answer nothing is a fragment, even if ids and names are the same."""
    twice = {
        "tool_calls": [call(0, "a", "f", '{"x":1}')["tool_calls"][0], call(0, "a", "f", '{"x":2}')["tool_calls"][0]]
    }
    events, _ = whole({"content": None} | twice, "tool_calls")
    assert [event.fragment for event in events if isinstance(event, ArgumentsDelta)] == ['{"x":1}', '{"x":2}']
    assert len({event.index for event in events if isinstance(event, ArgumentsDelta)}) == 2


def test_a_name_in_pieces_is_no_second_call() -> None:
    """Before arguments came another name is more of the first, and never a call."""
    events, _ = stream(chunk(call(0, "a", "get_", "")), chunk(call(0, None, "weather", "{}")))
    assert sum(isinstance(event, BlockStart) for event in events) == 1


def test_sources_beside_the_text_are_not_told_again() -> None:
    """A URL that was cited in the text is not cited for the whole."""
    citation = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}
    events, _ = stream(
        chunk({"content": "a", "annotations": [citation]}, citations=["https://a.example", "https://b.example"])
    )
    assert [event.citation.url for event in events if isinstance(event, CitationDelta)] == [
        "https://a.example",
        "https://b.example",
    ]


@pytest.mark.parametrize(
    ("field", "citations"),
    [
        ({"search_results": [{"url": "https://a.example", "title": "A", "snippet": "q", "date": None}]},
         [Citation("https://a.example", "A", "q")]),
        ({"citations": ["https://a.example", "https://b.example"]},
         [Citation("https://a.example"), Citation("https://b.example")]),
        ({"citations": ["https://a.example"], "search_results": [{"url": "https://a.example", "title": "A"}]},
         [Citation("https://a.example", "A")]),
        ({"citations": "none"}, []),
    ],
)  # fmt: skip
def test_sources_of_the_whole_answer_are_cited_once(field: dict[str, Any], citations: list[Citation]) -> None:
    """Repeated on every chunk, they stand once at the end of the text."""
    events, _ = stream(
        chunk({"content": "a"}, **field), chunk({"content": "b"}, **field), chunk(finish="stop", **field)
    )
    assert [event.citation for event in events if isinstance(event, CitationDelta)] == citations


@pytest.mark.parametrize("place", [-1, 10**18])
def test_a_place_that_cannot_be_one_is_left_out(place: int) -> None:
    """The citation stays."""
    citation = {"type": "url_citation", "url_citation": {"url": "u", "start_index": place, "end_index": place}}
    events, _ = stream(chunk({"content": "a", "annotations": [citation]}))
    assert CitationDelta(0, Citation("u")) in events


@pytest.mark.parametrize("count", [-1, 1e30, 2**60])
def test_a_count_that_cannot_be_one_is_left_out(count: float) -> None:
    """Neither negative nor absurd counts are passed on."""
    _, ending = stream(chunk(finish="stop", usage={"prompt_tokens": count, "completion_tokens": 4}))
    assert ending.usage is not None
    assert (ending.usage.input_tokens, ending.usage.output_tokens) == (None, 4)


def test_citations_and_think_tags_do_not_lose_the_state_of_reasoning() -> None:
    """Whatever ends the reasoning, its details go with it; entries with ids of their own stay apart."""
    details = [
        {"type": "reasoning.encrypted", "data": "A", "id": "1"},
        {"type": "reasoning.encrypted", "data": "B", "id": "2"},
    ]
    citation = {"type": "url_citation", "url_citation": {"url": "u"}}
    for following, flags in (({"annotations": [citation]}, {}), ({"content": "so"}, {"think_tags": True})):
        events, _ = stream(chunk({"reasoning_details": details}), chunk(following), **flags)
        stop = next(event for event in events if isinstance(event, BlockStop))
        assert stop.state is not None
        assert json.loads(stop.state.data) == details


def test_endless_reasoning_details_are_bounded() -> None:
    """What has to be kept until the end has a bound."""
    decoder = CHAT.decoder(profile(), stream=True)
    big = chunk({"reasoning_details": [{"type": "reasoning.text", "text": "x" * 1_000_000}]})
    with pytest.raises(ProtocolError):
        for _ in range(40):
            decoder.feed(big)


def test_deep_nesting_is_a_protocol_error() -> None:
    """JSON nested beyond any sense is not the provider's dialect, wherever it stands."""
    for deep in ("[" * 5000, '{"x":' + "[" * 5000):
        with pytest.raises(ProtocolError):
            CHAT.decoder(profile(), stream=True).feed(f"data: {deep}\n\n".encode())


def test_other_choices_are_ignored() -> None:
    """Only the first choice was asked for."""
    other = {"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"}
    with pytest.raises(StreamTruncated):
        stream(chunk(choices=[other]), marked=False)


@pytest.mark.parametrize(
    ("raw", "reason"), [*STOP_REASONS.items(), ("", StopReason.UNKNOWN), ("novel", StopReason.OTHER)]
)
def test_stop_reasons_are_translated_totally(raw: str, reason: StopReason) -> None:
    """Known words have a meaning, unknown ones are OTHER, and the raw word is kept."""
    assert stop_reason(raw) is reason
