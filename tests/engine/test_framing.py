from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine.errors import ProtocolError
from keyswitch_engine.wire.aws_event_stream import AwsEventStreamDecoder, AwsMessage
from keyswitch_engine.wire.json_array import JsonArrayDecoder
from keyswitch_engine.wire.ndjson import NDJSONDecoder
from keyswitch_sandbox.dialects.aws import message

VALUES = st.lists(
    st.dictionaries(
        st.text(max_size=4), st.text(max_size=6) | st.lists(st.text('[]{}"\\', max_size=4), max_size=3), max_size=3
    ),
    max_size=4,
)


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


@given(VALUES, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_an_array_gives_its_objects_at_any_cut(
    values: list[dict[str, object]],
    places: list[int],
    indent: int | None,
    ascii_only: bool,
) -> None:
    """Brackets, quotes and escapes inside strings, wherever they are cut, do not matter."""
    body = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    decoder = JsonArrayDecoder()
    objects = [json.loads(found) for chunk in cut(body, places) for found in decoder.feed(chunk)]
    assert objects == values


def test_an_object_of_an_array_comes_as_soon_as_it_is_complete() -> None:
    """Nothing waits for the comma or the bracket after it."""
    decoder = JsonArrayDecoder()
    assert decoder.feed(b'[{"a":1}') == [b'{"a":1}']
    assert decoder.feed(b',\r\n{"b"') == []
    assert decoder.feed(b":2}]") == [b'{"b":2}']


def test_brackets_that_close_what_was_not_opened_are_refused() -> None:
    """A body that is no array is told as that."""
    with pytest.raises(ProtocolError):
        JsonArrayDecoder().feed(b"]")


@given(VALUES, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_lines_are_the_same_at_any_cut(values: list[dict[str, object]], places: list[int], end: bytes) -> None:
    """Lines end in either way, empty ones are skipped, and what was not ended is the rest."""
    body = b"".join(json.dumps(value).encode() + end for value in values)
    decoder = NDJSONDecoder()
    lines = [json.loads(line) for chunk in cut(body, places) for line in decoder.feed(chunk)]
    assert lines == values
    assert decoder.rest == b""
    assert decoder.feed(b'{"a"') == []
    assert decoder.rest == b'{"a"'


@given(VALUES, st.lists(st.integers(0, 10_000), max_size=8))
def test_aws_messages_are_the_same_at_any_cut(values: list[dict[str, object]], places: list[int]) -> None:
    """Kind, type and payload come whole, and nothing of a message that is not."""
    body = b"".join(message("event", "chunk", value) for value in values) + message("exception", "oops", {})
    decoder = AwsEventStreamDecoder()
    found = [one for chunk in cut(body, places) for one in decoder.feed(chunk)]
    assert [(one.kind, one.type, json.loads(one.payload)) for one in found[:-1]] == [
        ("event", "chunk", value) for value in values
    ]
    assert found[-1] == AwsMessage("exception", "oops", b"{}")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_aws_message_with_a_flipped_byte_is_refused_or_never_complete(place: int, flip: int) -> None:
    """Every byte is under one of the two checksums."""
    body = bytearray(message("event", "chunk", {"bytes": "aGVsbG8="}))
    body[place % len(body)] ^= flip
    with contextlib.suppress(ProtocolError):
        assert AwsEventStreamDecoder().feed(bytes(body)) == []
