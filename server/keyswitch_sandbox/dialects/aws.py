"""Messages of AWS's binary event stream (smithy.io, "Amazon Event Stream specification")."""

from __future__ import annotations

import struct
import zlib

import msgspec

__all__ = ["message"]

_STRING = 7


def message(kind: str, name: str, value: object) -> bytes:
    """Return one message: prelude and its checksum, headers, payload, checksum over all of it."""
    type_header = ":exception-type" if kind == "exception" else ":event-type"
    fields = {":message-type": kind, type_header: name, ":content-type": "application/json"}
    headers = b"".join(
        struct.pack(f"!B{len(key)}sBH", len(key), key.encode(), _STRING, len(text)) + text.encode()
        for key, text in fields.items()
    )
    payload = msgspec.json.encode(value)
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return head + struct.pack("!I", zlib.crc32(head))
