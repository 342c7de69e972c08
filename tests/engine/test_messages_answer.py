from __future__ import annotations

import json
from typing import Any

import pytest
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.anthropic_messages.flags import MessagesFlags
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import ProtocolError, StreamTruncated
from keyswitch_engine.events import BlockEvent, BlockStart, Ending, StopReason, TextDelta, ToolCallBlock

MESSAGES = DIALECTS["anthropic-messages"]
PROFILE = Profile("test", "/messages", MessagesFlags())


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


BEGUN = event("message_start", message={"id": "m", "model": "c", "content": [], "stop_reason": None})
TEXT = [
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"}),
    event("content_block_stop", index=0),
]
ENDED = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
STOPPED = event("message_stop")
DONE = b"data: [DONE]\n\n"


def stream(*pieces: bytes) -> tuple[list[BlockEvent], Ending]:
    decoder = MESSAGES.decoder(PROFILE, stream=True)
    events = [found for piece in pieces for found in decoder.feed(piece)]
    last, ending = decoder.end()
    return events + last, ending


@pytest.mark.parametrize("marker", [STOPPED, DONE])
def test_a_stream_is_complete_once_its_marker_came(marker: bytes) -> None:
    """`message_stop` completes a stream, and so does the marker of re-implementers after a stop reason."""
    events, ending = stream(BEGUN, *TEXT, ENDED, marker)
    assert [found.text for found in events if isinstance(found, TextDelta)] == ["hi"]
    assert ending.stop_reason is StopReason.STOP


def test_the_marker_needs_no_empty_line() -> None:
    """A marker that is whole counts even if the body ends with it; one that is cut does not."""
    assert stream(BEGUN, *TEXT, ENDED, STOPPED.rstrip(b"\n"))[1].stop_reason is StopReason.STOP
    with pytest.raises(StreamTruncated):
        stream(BEGUN, *TEXT, ENDED, STOPPED[:-4])


def test_a_row_may_waive_the_marker() -> None:
    """Where only a stop reason can be relied on, it completes a stream."""
    waived = Profile("test", "/messages", MessagesFlags(terminal="finish"))
    decoder = MESSAGES.decoder(waived, stream=True)
    decoder.feed(b"".join([BEGUN, *TEXT, ENDED]))
    assert decoder.end()[1].stop_reason is StopReason.STOP


@pytest.mark.parametrize(
    "pieces",
    [
        [BEGUN, *TEXT, ENDED],
        [BEGUN, *TEXT, DONE],
        [BEGUN.replace(b"null", b'"end_turn"'), *TEXT],
        [BEGUN, *TEXT],
    ],
)
def test_a_stop_reason_alone_completes_nothing(pieces: list[bytes]) -> None:
    """Without the marker a stream was cut off, whatever reason it gave before, and wherever."""
    with pytest.raises(StreamTruncated):
        stream(*pieces)


def test_a_whole_message_may_have_an_error_that_is_null() -> None:
    """Re-implementers send one, and it means nothing."""
    decoder = MESSAGES.decoder(PROFILE, stream=False)
    message = {"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "error": None}
    decoder.feed(json.dumps(message).encode())
    assert decoder.end()[1].stop_reason is StopReason.STOP


def test_calls_without_ids_get_ids_that_no_other_answer_has() -> None:
    """Two answers of one conversation never share a made-up id."""
    call = event("content_block_start", index=0, content_block={"type": "tool_use", "name": "f", "input": {}})
    ids = {
        found.block.id
        for _ in range(2)
        for found in stream(BEGUN, call, event("content_block_stop", index=0), ENDED, STOPPED)[0]
        if isinstance(found, BlockStart) and isinstance(found.block, ToolCallBlock)
    }
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("block", "delta"),
    [
        ({"type": "thinking", "thinking": ""}, {"type": "signature_delta", "signature": "x" * 1_000_000}),
        ({"type": "server_tool_use", "id": "a"}, {"type": "input_json_delta", "partial_json": "x" * 1_000_000}),
        ({"type": "text", "text": ""}, {"type": "citations_delta", "citation": {"cited_text": "x" * 1_000_000}}),
    ],
)
def test_what_is_kept_until_a_block_ends_is_bounded(block: dict[str, Any], delta: dict[str, Any]) -> None:
    """Endless signatures, inputs and citations end as a protocol error."""
    decoder = MESSAGES.decoder(PROFILE, stream=True)
    decoder.feed(BEGUN + event("content_block_start", index=0, content_block=block))
    piece = event("content_block_delta", index=0, delta=delta)
    with pytest.raises(ProtocolError):
        for _ in range(40):
            decoder.feed(piece)
