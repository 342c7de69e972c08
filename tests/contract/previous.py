"""The contract as its milestones left it, from the committed images, in messages of its own."""

from __future__ import annotations

import pathlib
from collections.abc import Collection
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

__all__ = ["MILESTONES", "Contract"]

_IMAGES = pathlib.Path(__file__).resolve().parents[2] / "proto" / "milestones"
MILESTONES = sorted(image.stem for image in _IMAGES.glob("*.binpb"))
"""Versions of the contract, the oldest one first."""


class Contract:
    """Messages and rpcs of an image; nothing of them is shared with the stubs."""

    def __init__(self, milestone: str = MILESTONES[0], without: Collection[str] = ()) -> None:
        """Leave out some rpcs, as `Service.Rpc`, and fields, as `Message.field`: a contract from before them."""
        image = descriptor_pb2.FileDescriptorSet.FromString((_IMAGES / f"{milestone}.binpb").read_bytes())
        left = set(without)
        pool = descriptor_pool.DescriptorPool()
        for file in image.file:
            for parent, parts in [
                *((service, service.method) for service in file.service),
                *((message, message.field) for message in file.message_type),
            ]:
                for part in list(parts):  # type: ignore[call-overload] # either kind has a name
                    if f"{parent.name}.{part.name}" in left:
                        parts.remove(part)
                        left.remove(f"{parent.name}.{part.name}")
            pool.AddSerializedFile(file.SerializeToString())
        assert not left, "what is left out was there"
        self._pool = pool
        services = [pool.FindServiceByName(f"keyswitch.v1.{name}") for name in ("DispatchService", "RegistryService")]
        self.methods: dict[str, MethodDescriptor] = {method.name: method for of in services for method in of.methods}

    def message(self, name: str) -> type[Message]:
        """Return the class of a message."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"keyswitch.v1.{name}"))

    def request(self, rpc: str, fields: dict[str, Any]) -> Message:
        """Return a request of an rpc from its JSON form."""
        return json_format.ParseDict(fields, self.message(self.methods[rpc].input_type.name)())

    def response(self, rpc: str) -> type[Message]:
        """Return the class of an rpc's answer."""
        return self.message(self.methods[rpc].output_type.name)

    def path(self, rpc: str) -> str:
        """Return the full name of an rpc."""
        return f"/{self.methods[rpc].containing_service.full_name}/{rpc}"
