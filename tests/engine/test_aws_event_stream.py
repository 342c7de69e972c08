from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.errors import ProtocolError, ProviderError, Reason
from keyswitch_engine.wire.aws_event_stream import AwsEventStreamDecoder, AwsMessage
from keyswitch_sandbox.dialects.aws import message

INVOKE = DIALECTS["bedrock-invoke"]
NAME = b"\x0b:event-type"


def sealed(
    headers: bytes, payload: bytes = b"", *, total: int | None = None, headers_length: int | None = None
) -> bytes:
    """Return a message with right checksums, whatever it says of its lengths."""
    length = 16 + len(headers) + len(payload) if total is None else total
    prelude = struct.pack("!II", length, len(headers) if headers_length is None else headers_length)
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return head + struct.pack("!I", zlib.crc32(head))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(sealed(b"\x0b:ev"), id="name cut, then no type"),
        pytest.param(sealed(NAME), id="no type"),
        pytest.param(sealed(NAME + b"\x07"), id="no length"),
        pytest.param(sealed(NAME + b"\x07\x00"), id="length cut"),
        pytest.param(sealed(NAME + b"\x05\x00\x00"), id="number cut"),
        pytest.param(sealed(NAME + b"\x63\x00"), id="unknown type"),
        pytest.param(sealed(NAME + b"\x07\x00\x01\xff"), id="not UTF-8"),
        pytest.param(sealed(2 * (NAME + b"\x00")), id="twice the same"),
        pytest.param(sealed(b"", total=0), id="no length at all"),
        pytest.param(sealed(b"", total=12), id="shorter than a message"),
        pytest.param(sealed(b"\x01x\x00", total=19, headers_length=5), id="headers beyond the message"),
    ],
)
def test_a_message_that_is_none_behind_its_checksums_is_refused(body: bytes) -> None:
    """Right checksums over headers or lengths that make no sense are the provider's fault, not a crash."""
    with pytest.raises(ProtocolError):
        AwsEventStreamDecoder().feed(body)


@given(st.binary(max_size=40), st.binary(max_size=10), st.none() | st.integers(0, 60), st.none() | st.integers(0, 60))
def test_any_message_with_right_checksums_is_read_or_refused(
    headers: bytes, payload: bytes, total: int | None, headers_length: int | None
) -> None:
    """Nothing else is ever raised."""
    with contextlib.suppress(ProtocolError):
        AwsEventStreamDecoder().feed(sealed(headers, payload, total=total, headers_length=headers_length))


@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_any_lengths_are_read_or_refused(total: int, headers_length: int) -> None:
    """A prelude may say anything."""
    prelude = struct.pack("!II", total, headers_length)
    with contextlib.suppress(ProtocolError):
        AwsEventStreamDecoder().feed(prelude + struct.pack("!I", zlib.crc32(prelude)) + bytes(48))


def test_headers_of_every_type_are_read_over() -> None:
    """What AWS may add one day does no harm."""
    values = [b"\x00", b"\x01", b"\x02x", b"\x03xx", b"\x04xxxx", b"\x05" + bytes(8), b"\x06\x00\x01x", b"\x08" + bytes(8),
              b"\x09" + bytes(16)]  # fmt: skip
    headers = b"".join(b"\x01" + str(number).encode() + value for number, value in enumerate(values))
    found = AwsEventStreamDecoder().feed(sealed(headers + NAME + b"\x07\x00\x05chunk", b"{}"))
    assert found == [AwsMessage("event", "chunk", b"{}")]


def feed(*messages: bytes) -> None:
    decoder = INVOKE.decoder(Profile("p", "/", INVOKE.flags()), stream=True)
    for one in messages:
        decoder.feed(one)


@pytest.mark.parametrize("chunk", [{"bytes": "é"}, {"bytes": "a"}, {"bytes": 1}, [], {"bytes": "!"}])
def test_a_chunk_that_holds_no_base64_is_refused(chunk: object) -> None:
    """Whatever stands in its place is not in the dialect."""
    with pytest.raises(ProtocolError):
        feed(message("event", "chunk", chunk))


@pytest.mark.parametrize("kind", ["event", "exception"])
def test_an_exception_is_told_of_whichever_kind_its_message_is(kind: str) -> None:
    """An exception that comes as an event is no event that is not known."""
    with pytest.raises(ProviderError) as raised:
        feed(message(kind, "throttlingException", {"message": "slow down"}))
    assert (raised.value.reason, raised.value.message) == (Reason.PROVIDER_RATE_LIMITED, "slow down")
