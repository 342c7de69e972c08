"""What is in the contract but not built yet. This is the one list of it: building something removes its line.

An rpc or a field in here answers UNIMPLEMENTED with reason `NOT_YET_AVAILABLE`; nothing that is set is ever ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyswitch_engine.errors import Reason, Unavailable

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["FIELDS", "RPCS", "refuse_field", "refuse_fields"]

RPCS = frozenset(
    {
        "/keyswitch.v1.RegistryService/ListModels",
    }
)
"""Full names of the rpcs."""

FIELDS: dict[str, tuple[str, ...]] = {
    "GenerateRequest": ("tenant",),
    "StreamGenerateRequest": ("tenant",),
    "ExplainRouteRequest": ("tenant",),
    "EmbedRequest": ("tenant",),
    "CountTokensRequest": ("tenant",),
    "ListProviderModelsRequest": ("tenant",),
    "ValidateCredentialRequest": ("tenant",),
    "Target": ("custom_endpoint",),
    "Credential": ("stored", "platform"),
}
"""Fields by message."""


def refuse_field(path: str) -> Unavailable:
    """Return the refusal of a field or an rpc."""
    return Unavailable(Reason.NOT_YET_AVAILABLE, f"{path} is not available yet", field=path)


def refuse_fields(message: Message, path: str) -> None:
    """Refuse a message in which a field is set that is not built yet; *path* leads to the message, with its last dot.

    Raises:
        Unavailable: one is set.
    """
    for name in FIELDS[message.DESCRIPTOR.name]:
        field = message.DESCRIPTOR.fields_by_name[name]
        is_set = message.HasField(name) if field.has_presence else bool(getattr(message, name))
        if is_set:
            raise refuse_field(path + name)
