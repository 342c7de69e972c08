"""Messages as people may see them: without what the contract marks as secret (`debug_redact = true`).

protobuf's runtime for Python does not heed that option: `repr`, `str`, `text_format` and `json_format` show everything.
So messages are formatted here and nowhere else, and the messages of the contract that can hold a secret show
themselves by this too, in every f-string, log line and traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message

__all__ = ["REDACTED", "hide_secrets", "message_json", "message_text", "redacted"]

REDACTED = "[redacted]"
"""What stands in place of a secret text."""

M = TypeVar("M", bound=Message)


def redacted(message: M) -> M:
    """Return a copy without secrets, at any depth: in lists, maps, oneofs, and in `Any` where its type is known.

    A secret text or bytes is `[redacted]`; a secret of another kind is left out, and so is what cannot be judged:
    fields that this build does not know, and the content of an `Any` of an unknown type.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    _redact(copy)
    return copy


def message_text(message: Message) -> str:
    """Return a message without secrets in protobuf's text format, over several lines."""
    return text_format.MessageToString(redacted(message))


def message_json(message: Message) -> str:
    """Return a message without secrets as JSON, in one line."""
    return json_format.MessageToJson(redacted(message), indent=None)


def hide_secrets(files: Iterable[FileDescriptor]) -> None:
    """Make the messages of *files* that can hold a secret show themselves without it: `repr`, `str`, f-strings."""
    for file in files:
        for kind in _nested(file.message_types_by_name.values()):
            if _can_hold_secrets(kind, set()):
                shown: Any = message_factory.GetMessageClass(kind)
                shown.__repr__ = shown.__str__ = message_text


def _nested(kinds: Iterable[Descriptor]) -> Iterable[Descriptor]:
    """Yield kinds of messages, and those that are declared inside of them."""
    for kind in kinds:
        yield kind
        yield from _nested(kind.nested_types)


def _can_hold_secrets(kind: Descriptor, seen: set[str]) -> bool:
    """Tell whether a secret, or an `Any`, can be anywhere below a kind of message; *seen* are judged already."""
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    if kind.full_name == any_pb2.Any.DESCRIPTOR.full_name or any(f.GetOptions().debug_redact for f in kind.fields):
        return True
    return any(_can_hold_secrets(f.message_type, seen) for f in kind.fields if f.message_type is not None)


def _redact(message: Message) -> None:
    """Redact a message in place."""
    if isinstance(message, any_pb2.Any):
        _redact_any(message)
        return
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            _hide(message, field, value)
        elif field.message_type is not None:
            for inner in _messages(field, value):
                _redact(inner)


def _hide(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Hide a secret: say that there was one where that can be said, and how many."""
    is_text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    stand_in = REDACTED if field.type == FieldDescriptor.TYPE_STRING else REDACTED.encode()
    if not is_text:
        message.ClearField(field.name)
    elif field.is_repeated:
        value[:] = [stand_in] * len(value)
    else:
        setattr(message, field.name, stand_in)


def _messages(field: FieldDescriptor, value: Any) -> Iterable[Message]:
    """Return the messages in a field: one, several, or the values of a map."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return value.values() if kind.fields_by_name["value"].message_type is not None else ()
    return value if field.is_repeated else (value,)


def _redact_any(packed: any_pb2.Any) -> None:
    """Redact what is packed; of an unknown type nothing is left but its name."""
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        inner = message_factory.GetMessageClass(kind)()
        packed.Unpack(inner)
    except (KeyError, DecodeError):
        packed.ClearField("value")
        return
    packed.Pack(redacted(inner), packed.type_url.rpartition("/")[0])
