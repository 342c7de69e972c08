"""Every routing preference that the contract has, and what OpenRouter is sent for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from keyswitch.v1 import target_pb2

__all__ = ["WISHED", "fields_of", "given_in"]


WISHED: dict[str, tuple[target_pb2.RoutingPreferences, dict[str, Any]]] = {
    "plain": (
        target_pb2.RoutingPreferences(
            order=["amazon-bedrock", "anthropic"],
            only=["amazon-bedrock"],
            ignore=["azure"],
            allow_fallbacks=False,
            require_parameters=True,
            data_collection=target_pb2.DATA_COLLECTION_DENY,
            zdr=True,
            enforce_distillable_text=False,
            quantizations=["fp8"],
            sort="exacto",
            max_price=target_pb2.MaxPrice(prompt=1.5, completion=2, request=0, image=0.25, audio=3),
            preferred_min_throughput=50,
            preferred_max_latency=2,
        ),
        {
            "order": ["amazon-bedrock", "anthropic"],
            "only": ["amazon-bedrock"],
            "ignore": ["azure"],
            "allow_fallbacks": False,
            "require_parameters": True,
            "data_collection": "deny",
            "zdr": True,
            "enforce_distillable_text": False,
            "quantizations": ["fp8"],
            "sort": "exacto",
            "max_price": {"prompt": 1.5, "completion": 2.0, "request": 0.0, "image": 0.25, "audio": 3.0},
            "preferred_min_throughput": 50.0,
            "preferred_max_latency": 2.0,
        },
    ),
    "tables": (
        target_pb2.RoutingPreferences(
            sort_by=target_pb2.RoutingSort(by="latency", partition="none"),
            preferred_min_throughput_by=target_pb2.Percentiles(p50=100, p75=80, p90=50.5, p99=0),
            preferred_max_latency_by=target_pb2.Percentiles(p90=3),
        ),
        {
            "sort": {"by": "latency", "partition": "none"},
            "preferred_min_throughput": {"p50": 100.0, "p75": 80.0, "p90": 50.5, "p99": 0.0},
            "preferred_max_latency": {"p90": 3.0},
        },
    ),
}
"""By which form is taken where there are two: what a request says, and OpenRouter's object."""


def fields_of(descriptor: Descriptor) -> Iterator[str]:
    """Return every field of a message and of those in it."""
    for field in descriptor.fields:
        yield field.full_name
        if field.message_type is not None:
            yield from fields_of(field.message_type)


def given_in(message: Message) -> Iterator[str]:
    """Return every field that is set in a message and in those in it."""
    for field, value in message.ListFields():
        yield field.full_name
        if field.message_type is not None:
            yield from given_in(value)
