"""What is in the contract but not built yet. This is the one list of it: building something removes its line.

A field in here answers UNIMPLEMENTED with reason `NOT_YET_AVAILABLE`; nothing that is set is ever ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyswitch_engine.errors import Reason, Unavailable

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["FIELDS", "refuse_fields"]

FIELDS: dict[str, tuple[str, ...]] = {
    "CustomEndpoint": ("headers",),
    "Credential": ("stored",),
}
"""Fields by message."""


def refuse_fields(message: Message, path: str) -> None:
    """Refuse a message in which a field is set that is not built yet; *path* leads to the message, with its last dot.

    Raises:
        Unavailable: one is set.
    """
    for name in FIELDS[message.DESCRIPTOR.name]:
        field = message.DESCRIPTOR.fields_by_name[name]
        is_set = message.HasField(name) if field.has_presence else bool(getattr(message, name))
        if is_set:
            raise Unavailable(Reason.NOT_YET_AVAILABLE, f"{path}{name} is not available yet", field=path + name)
