from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.reading import MAX_ANSWER_BYTES
from keyswitch_engine.errors import ProtocolError, Unavailable
from keyswitch_engine.events import BlockEvent, BlockStart, BlockStop, Ending, OpaqueBlock, ReasoningBlock, StopReason
from keyswitch_engine.generation import (
    CacheHint,
    CacheRetention,
    FilePart,
    Generation,
    InlineMedia,
    Message,
    Part,
    Reasoning,
    ReasoningEffort,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from keyswitch_sandbox.dialects.aws import message

CONVERSE = DIALECTS["bedrock-converse"]
PROFILE = Profile("p", "/x/{model}", CONVERSE.flags())
END = [("messageStop", {"stopReason": "end_turn"}), ("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}})]


def start(begun: dict[str, Any], number: int = 0) -> tuple[str, Any]:
    return "contentBlockStart", {"contentBlockIndex": number, "start": begun}


def delta(added: dict[str, Any], number: int = 0) -> tuple[str, Any]:
    return "contentBlockDelta", {"contentBlockIndex": number, "delta": added}


STOP = ("contentBlockStop", {"contentBlockIndex": 0})


def stream(*events: tuple[str, Any]) -> tuple[list[BlockEvent], Ending]:
    decoder = CONVERSE.decoder(PROFILE, stream=True)
    found = [event for name, value in events for event in decoder.feed(message("event", name, value))]
    last, ending = decoder.end()
    return found + last, ending


def whole(*content: dict[str, Any], **fields: Any) -> tuple[list[BlockEvent], Ending]:
    decoder = CONVERSE.decoder(PROFILE, stream=False)
    body = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": "end_turn"}
    decoder.feed(json.dumps(body | fields).encode())
    return decoder.end()


def states(events: list[BlockEvent]) -> list[Any]:
    return [json.loads(event.state.data) for event in events if isinstance(event, BlockStop) and event.state]


def test_results_of_the_providers_own_tools_add_up() -> None:
    """Each piece of a result's content is added to those before it."""
    events, _ = stream(
        start({"toolResult": {"toolUseId": "1", "status": "success"}}),
        delta({"toolResult": [{"text": "a"}]}),
        delta({"toolResult": [{"text": "b"}, {"json": {"c": 12345678901234567890}}]}),
        STOP, *END,
    )  # fmt: skip
    content = [{"text": "a"}, {"text": "b"}, {"json": {"c": 12345678901234567890}}]
    assert events[0] == BlockStart(0, OpaqueBlock("toolResult"))
    assert states(events) == [{"toolResult": {"toolUseId": "1", "status": "success", "content": content}}]


def test_a_result_without_content_has_an_empty_one() -> None:
    """The API wants the field when the result goes back."""
    events, _ = stream(start({"toolResult": {"toolUseId": "1"}}), STOP, *END)
    assert states(events) == [{"toolResult": {"toolUseId": "1", "content": []}}]


def test_a_result_that_is_none_is_refused() -> None:
    """Content has to be a list."""
    with pytest.raises(ProtocolError):
        stream(start({"toolResult": {"toolUseId": "1"}}), delta({"toolResult": "a"}))
    with pytest.raises(ProtocolError):
        stream(start({"toolResult": []}))


def test_redacted_reasoning_joins_as_bytes() -> None:
    """Each piece is base64 of its own, with its own padding."""
    pieces = [base64.b64encode(piece).decode() for piece in (b"a", b"bcde")]
    events, _ = stream(*(delta({"reasoningContent": {"redactedContent": piece}}) for piece in pieces), STOP, *END)
    assert events[0] == BlockStart(0, ReasoningBlock())
    assert states(events) == [{"redactedContent": base64.b64encode(b"abcde").decode()}]


def test_redacted_reasoning_that_is_no_base64_is_refused() -> None:
    """It could not go back."""
    for text in ("a", "\u00e9"):
        with pytest.raises(ProtocolError):
            stream(delta({"reasoningContent": {"redactedContent": text}}))


def test_signatures_join_as_text() -> None:
    """A signature may come in pieces."""
    pieces = [{"text": "hm"}, {"signature": "a"}, {"signature": "b"}]
    events, _ = stream(*(delta({"reasoningContent": piece}) for piece in pieces), STOP, *END)
    assert states(events) == [{"signature": "ab"}]


SEARCH = {"toolUseId": "1", "name": "search", "type": "server_tool_use"}


def test_the_providers_own_tool_may_be_given_nothing() -> None:
    """The call goes back with an empty input, which the API wants."""
    wanted = [{"toolUse": SEARCH | {"input": {}}}]
    assert states(stream(start({"toolUse": SEARCH}), STOP, *END)[0]) == wanted
    assert states(whole({"toolUse": SEARCH})[0]) == wanted
    assert states(whole({"toolUse": SEARCH | {"input": None}})[0]) == wanted


def test_the_providers_own_tool_keeps_its_input() -> None:
    """In pieces or whole, as it was written."""
    wanted = [{"toolUse": SEARCH | {"input": {"q": "x"}}}]
    pieces = (delta({"toolUse": {"input": '{"q":'}}), delta({"toolUse": {"input": '"x"}'}}))
    assert states(stream(start({"toolUse": SEARCH}), *pieces, STOP, *END)[0]) == wanted
    assert states(whole({"toolUse": SEARCH | {"input": {"q": "x"}}})[0]) == wanted


def test_usage_may_be_null() -> None:
    """That is nothing wrong, and no usage."""
    _, ending = stream(delta({"text": "hi"}), STOP, END[0], ("metadata", {"usage": None, "metrics": {}}))
    assert ending == Ending(StopReason.STOP, "end_turn", None)
    assert whole({"text": "hi"}, usage=None)[1] == Ending(StopReason.STOP, "end_turn", None)


PIECE = base64.b64encode(bytes(3 << 20)).decode()


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        pytest.param(None, delta({"reasoningContent": {"signature": PIECE}}), id="signature"),
        pytest.param(None, delta({"reasoningContent": {"redactedContent": PIECE}}), id="redacted"),
        pytest.param(start({"toolUse": SEARCH}), delta({"toolUse": {"input": PIECE}}), id="input"),
        pytest.param(start({"toolResult": {"toolUseId": "1"}}), delta({"toolResult": [{"text": PIECE}]}), id="result"),
    ],
)
def test_what_is_kept_of_a_stream_is_bounded(begun: tuple[str, Any] | None, piece: tuple[str, Any]) -> None:
    """However small its events are."""
    with pytest.raises(ProtocolError, match="MiB"):
        stream(*([begun] if begun is not None else []), *[piece] * (MAX_ANSWER_BYTES // len(PIECE) + 1))


def test_blocks_that_are_never_completed_are_bounded() -> None:
    """Each takes memory, even with nothing in it."""
    decoder = CONVERSE.decoder(PROFILE, stream=True)
    with pytest.raises(ProtocolError, match="parts"):
        for first in range(0, 1 << 18, 1 << 10):
            blocks = (delta({"text": ""}, number) for number in range(first, first + (1 << 10)))
            decoder.feed(b"".join(message("event", name, value) for name, value in blocks))


def body(*messages: Message, **fields: Any) -> dict[str, Any]:
    made = CONVERSE.request(Generation(messages, **fields), "anthropic.claude-x", PROFILE, "", stream=True)
    found: dict[str, Any] = json.loads(made.body)
    return found


HINT = CacheHint(CacheRetention.SHORT)
CALL = Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", "{}")),))


def test_a_cache_hint_within_a_result_is_refused_and_one_at_it_is_written() -> None:
    """A cache point may follow a result, but not stand in it."""
    hinted = Part(ToolResultPart("1", (Part(TextPart("a")), Part(TextPart("b"), cache_hint=HINT)), is_error=False))
    with pytest.raises(Unavailable) as raised:
        body(CALL, Message(Role.TOOL, (hinted,)))
    assert raised.value.field == "messages[1].parts[0].tool_result.parts[1].cache_hint"
    result = Part(ToolResultPart("1", (Part(TextPart("a")),), is_error=False), cache_hint=HINT)
    written = body(CALL, Message(Role.TOOL, (result,)))["messages"][1]["content"]
    assert written[1:] == [{"cachePoint": {"type": "default", "ttl": "5m"}}]


def test_a_part_of_a_result_that_means_nothing_is_refused() -> None:
    """Reasoning without a state is nothing that a result can have."""
    result = Part(ToolResultPart("1", (Part(ReasoningPart("hm")),), is_error=False))
    with pytest.raises(Unavailable) as raised:
        body(CALL, Message(Role.TOOL, (result,)))
    assert raised.value.field == "messages[1].parts[0].tool_result.parts[0]"


@pytest.mark.parametrize("arguments", ["", "  ", "\n"])
def test_blank_arguments_are_an_empty_object(arguments: str) -> None:
    """Some providers write none for a function without parameters."""
    (turn,) = body(Message(Role.ASSISTANT, (Part(ToolCallPart("1", "f", arguments)),)))["messages"]
    assert turn["content"] == [{"toolUse": {"toolUseId": "1", "name": "f", "input": {}}}]


def test_documents_have_different_names() -> None:
    """A name that was there before gets a number, the same one however the conversation goes on."""
    names = ["a.pdf", "a.pdf", "a-2.pdf", "a.pdf", "", "b.pdf", "", "document-5.pdf"]
    parts = [Part(FilePart(InlineMedia(b"x", "application/pdf"), name)) for name in names]
    wanted = ["a", "a-2", "a-2-2", "a-3", "document-5", "b", "document-7", "document-5-2"]
    for length in range(1, len(parts) + 1):
        (turn,) = body(Message(Role.USER, tuple(parts[:length])))["messages"]
        assert [block["document"]["name"] for block in turn["content"]] == wanted[:length]


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        (Reasoning(ReasoningEffort.LOW, include_text=True), {"type": "adaptive", "display": "summarized"}),
        (Reasoning(ReasoningEffort.LOW), {"type": "adaptive"}),
        (Reasoning(budget_tokens=9, include_text=True), {"type": "enabled", "budget_tokens": 9}),
        (Reasoning(ReasoningEffort.NONE, include_text=True), {"type": "disabled"}),
        (Reasoning(include_text=True), None),
    ],
)
def test_the_text_of_reasoning_is_asked_for_where_it_may_be_left_out(reasoning: Reasoning, thinking: Any) -> None:
    """Claude shows it anyway where it thinks to a budget, may leave it out where it thinks adaptively, else has none."""
    hi = Message(Role.USER, (Part(TextPart("hi")),))
    assert body(hi, reasoning=reasoning).get("additionalModelRequestFields", {}).get("thinking") == thinking
