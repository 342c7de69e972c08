from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine.errors import ProtocolError
from keyswitch_engine.wire.sse import MAX_EVENT_BYTES, ServerSentEvent, SSEDecoder

STREAM = (
    b"\xef\xbb\xbf: comment\r\n\r\nevent: ping\ndata: one\n\n"
    b"data:two\rdata\rdata: three \xe2\x80\xa8 \xc2\x85 \x0b\r\r"
    b"id: 7\nretry: 10\nunknown: x\n\n"
    b"event: only\n\ndata: \xf0\x9f\x91\x8b\r\n\r\n"
    b"error: it failed\n\ndata: never completed\n"
)
EVENTS = [
    ServerSentEvent("ping", b"one"),
    ServerSentEvent("", "two\n\nthree \u2028 \x85 \x0b".encode()),
    ServerSentEvent("", "👋".encode()),
    ServerSentEvent("error", b"it failed"),
]


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_a_stream_is_decoded_whole() -> None:
    """All three line ends, comments, multi-line data and a byte order mark are read as the standard says."""
    assert decode(STREAM) == EVENTS


def test_a_stream_is_decoded_byte_by_byte() -> None:
    """One byte at a time gives the same events."""
    assert decode(*(bytes([byte]) for byte in STREAM)) == EVENTS


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_stream_is_decoded_at_every_cut(cut: int) -> None:
    """Two chunks, cut anywhere, give the same events."""
    assert decode(STREAM[:cut], STREAM[cut:]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_is_decoded_at_random_cuts(cuts: list[int]) -> None:
    """Any number of chunks, empty ones too, gives the same events."""
    borders = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[start:end] for start, end in itertools.pairwise(borders))) == EVENTS


@given(st.lists(st.sampled_from([b"data: a", b"data:", b"event: e", b"\n", b"\r", b"\r\n", b": c", b"\n\n", b"x"])))
def test_cuts_never_matter(pieces: list[bytes]) -> None:
    """Whatever the bytes are, whole and byte by byte decode alike."""
    stream = b"".join(pieces)
    assert decode(stream) == decode(*(bytes([byte]) for byte in stream))


def test_an_event_is_out_before_the_next_byte_is_fed() -> None:
    """The byte that ends the blank line returns the event, for each kind of line end."""
    for end in (b"\n", b"\r", b"\r\n"):
        decoder = SSEDecoder()
        assert decoder.feed(b"data: x" + end) == []
        assert decoder.feed(end[:1]) == [ServerSentEvent("", b"x")]
        assert decoder.feed(end[1:] + b"data: y" + end + end[:1]) == [ServerSentEvent("", b"y")]


def test_an_endless_line_is_refused() -> None:
    """A line that never ends stops at the cap instead of filling memory."""
    decoder = SSEDecoder()
    for _ in range(MAX_EVENT_BYTES // 65536):
        decoder.feed(b"x" * 65536)
    with pytest.raises(ProtocolError):
        decoder.feed(b"x")


def test_an_endless_event_is_refused() -> None:
    """An event of ever more lines stops at the cap too."""
    decoder = SSEDecoder()
    line = b"data: " + b"x" * 65530 + b"\n"
    for _ in range(MAX_EVENT_BYTES // 65536):
        decoder.feed(line)
    with pytest.raises(ProtocolError):
        decoder.feed(line)
