"""Every way into a message of the contract, and a value put at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["leaves", "put"]

SAMPLES = {
    "base_url": "https://127.0.0.1:1/v1",
    "media_type": "image/png",
    "url": "https://example.com/x.png",
    "role": 1,
    "parameters_json_schema": '{"type": "object"}',
}


def leaves(kind: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Yield the ways to every field that holds no further message, going into no message twice on one way."""
    for field in kind.fields:
        inner = field.message_type
        if inner is None or inner.full_name in seen or inner.name == "Duration" or not inner.fields:
            yield (field,)
        else:
            for rest in leaves(inner, seen | {kind.full_name}):
                yield (field, *rest)


def put(message: Any, way: tuple[FieldDescriptor, ...], sample: Any = None) -> None:
    """Set the field at the end of a way to a sample, by default one of its own unless it has a value."""
    *parents, last = way
    for field in parents:
        inner = getattr(message, field.name)
        message = (inner[0] if inner else inner.add()) if field.is_repeated else inner
    if last.message_type is not None:
        inner = getattr(message, last.name)
        inner = inner.add() if last.is_repeated else inner
        inner.SetInParent()
        if last.message_type.name == "Duration":
            inner.seconds = 1
        return
    if sample is None and getattr(message, last.name):
        return
    sample = SAMPLES.get(last.name) if sample is None else sample
    if sample is None:
        number = 1.0 if last.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE) else 1
        text = "{}" if last.name.endswith(("json", "json_schema")) else "x"
        sample = {
            FieldDescriptor.CPPTYPE_STRING: b"x" if last.type == FieldDescriptor.TYPE_BYTES else text,
            FieldDescriptor.CPPTYPE_BOOL: True,
        }.get(last.cpp_type, number)
    if last.is_repeated:
        getattr(message, last.name).append(sample)
    else:
        setattr(message, last.name, sample)
