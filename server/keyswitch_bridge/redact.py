"""Messages of the contract, fit to show.

Fields with the option `debug_redact` hold secrets, but no Python protobuf runtime honours the option, so the descriptor
is walked here. Anything that shows a request goes through this.
"""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.message import Message

__all__ = ["redacted", "show"]


def redacted(message: Message) -> Message:
    """Return a copy in which every secret that is set reads `[redacted]`."""
    copy = type(message)()
    copy.CopyFrom(message)
    _redact(copy)
    return copy


def show(message: Message) -> str:
    """Return the message as JSON on one line, without secrets."""
    return json_format.MessageToJson(redacted(message), indent=None)


def _redact(message: Message) -> None:
    """Redact in place, at any depth."""
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            setattr(message, field.name, b"[redacted]" if field.type == field.TYPE_BYTES else "[redacted]")
        elif field.type == field.TYPE_MESSAGE:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue  # no map of the contract holds messages
            for item in value if field.is_repeated else (value,):
                _redact(item)
