from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from keyswitch_bridge.answers import generate_response
from keyswitch_bridge.responses import MAX_BATCH_BYTES, batches
from keyswitch_engine.events import (
    ArgumentsDelta,
    Attempt,
    AttemptOutcome,
    Billing,
    BlockStart,
    BlockStop,
    Citation,
    CitationDelta,
    CredentialSource,
    Ending,
    Event,
    Finished,
    ImageBlock,
    MediaDelta,
    ProviderState,
    ReasoningBlock,
    ReasoningDelta,
    Receipt,
    Started,
    StopReason,
    TextBlock,
    TextDelta,
    ToolCallBlock,
    Usage,
)

ATTEMPT = Attempt(1, "p", "m", "h", CredentialSource.CALLER, Billing.BYOK, AttemptOutcome.SUCCEEDED, total_time=0.25)
STARTED = Started("id", "p", "", "m", Billing.BYOK, 1)
FINISHED = Finished(Ending(StopReason.STOP, "stop", Usage(input_tokens=0)), Receipt((ATTEMPT,)))


def test_nothing_makes_no_response() -> None:
    """No events, no message."""
    assert batches([]) == []


def test_neighbouring_deltas_of_a_block_become_one() -> None:
    """Runs of one kind and block are joined; the order of everything else stays."""
    events: list[Event] = [
        BlockStart(0, TextBlock()), TextDelta(0, "a"), TextDelta(0, "b"), BlockStop(0),
        TextDelta(1, "c"), ReasoningDelta(1, "d"), ReasoningDelta(1, "e"), ArgumentsDelta(2, "f"), ArgumentsDelta(3, "g"),
    ]  # fmt: skip
    (response,) = batches(events)
    shown = [
        (event.block_delta.index, event.block_delta.text + event.block_delta.reasoning + event.block_delta.arguments)
        for event in response.events
        if event.HasField("block_delta")
    ]
    assert shown == [(0, "ab"), (1, "c"), (1, "de"), (2, "f"), (3, "g")]


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=40)).map(lambda pair: TextDelta(*pair)), max_size=30))
def test_no_text_is_lost_or_reordered(events: list[TextDelta]) -> None:
    """Whatever is joined, each block's text is what it was."""
    for index in range(3):
        want = "".join(event.text for event in events if event.index == index)
        got = "".join(
            event.block_delta.text
            for response in batches(events)
            for event in response.events
            if event.block_delta.index == index
        )
        assert got == want


def test_no_response_exceeds_its_bound() -> None:
    """Long text and media are split at the bound, characters whole, nothing lost."""
    text, data = "👋ü" * 900_000, b"x" * 3_000_000
    responses = batches([TextDelta(0, text), MediaDelta(1, data), *[TextDelta(2, "y" * 100_000)] * 20])
    assert max(response.ByteSize() for response in responses) <= MAX_BATCH_BYTES
    deltas = [event.block_delta for response in responses for event in response.events]
    assert "".join(delta.text for delta in deltas if delta.index == 0) == text
    assert b"".join(delta.media for delta in deltas if delta.index == 1) == data
    assert sum(len(delta.text) for delta in deltas if delta.index == 2) == 2_000_000


def test_a_whole_answer_is_folded_in_block_order() -> None:
    """Each block is a part with its state; empty ones without state are dropped; citations go beside."""
    response = generate_response(
        [
            STARTED,
            BlockStart(0, ReasoningBlock()), ReasoningDelta(0, "hm"), BlockStop(0, ProviderState("p", "d", b"s")),
            BlockStart(1, TextBlock()), BlockStop(1),
            BlockStart(2, TextBlock()), TextDelta(2, "so"), CitationDelta(2, Citation("https://e.example")), BlockStop(2),
            BlockStart(3, ToolCallBlock("c", "f")), ArgumentsDelta(3, '{"a"'), ArgumentsDelta(3, ":1}"), BlockStop(3),
            BlockStart(4, ImageBlock("image/png")), MediaDelta(4, b"\x00\x01"), BlockStop(4),
            FINISHED,
        ]
    )  # fmt: skip
    parts = response.message.parts
    assert [part.WhichOneof("kind") for part in parts] == ["reasoning", "text", "tool_call", "image"]
    assert (parts[0].reasoning.text, parts[0].provider_state.data) == ("hm", b"s")
    assert (parts[1].text.text, parts[2].tool_call.arguments_json) == ("so", '{"a":1}')
    assert (parts[3].image.source.data, parts[3].image.source.media_type) == (b"\x00\x01", "image/png")
    assert [(detail.part_index, detail.citations[0].url) for detail in response.details] == [(1, "https://e.example")]
    assert response.started.response_id == "id"


def test_an_absent_count_is_not_zero() -> None:
    """Counts that are unknown stay absent, a count of zero is there."""
    (response,) = batches([FINISHED])
    usage = response.events[0].finished.usage
    assert usage.HasField("input_tokens")
    assert not usage.HasField("output_tokens")
    assert not usage.HasField("reported")
    attempt = response.events[0].finished.receipt.attempts[0]
    assert not attempt.HasField("connect_time")
    assert attempt.total_time.nanos == 250_000_000
