"""Reading what a router is wished to do: each wish by OpenRouter's name for it, in the form in which it was given."""

from __future__ import annotations

import re
from typing import Any, get_args

from keyswitch.v1 import target_pb2
from keyswitch_engine.routing_preferences import HIGHEST, TWO_FORMS, Partition, Sort

from keyswitch_bridge.violations import Violations

__all__ = ["read_preferences"]

_HOST = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_HOSTS = 64
_DATA_COLLECTION: dict[int, str] = {target_pb2.DATA_COLLECTION_ALLOW: "allow", target_pb2.DATA_COLLECTION_DENY: "deny"}
_NAMES = {f"{name}_by": name for name in TWO_FORMS}


def read_preferences(preferences: target_pb2.RoutingPreferences, found: Violations, place: str) -> dict[str, Any]:
    """Read preferences, which stand at *place*: what was given, in the contract's order; an empty table is nothing."""
    wishes: dict[str, Any] = {}
    for field, value in preferences.ListFields():
        path = f"{place}.{field.name}"
        name = _NAMES.get(field.name, field.name)
        if name in wishes:
            found.add(path, f"says in another form what {place}.{name} says; set one of them")
        wishes[name] = _read(field.name, value, found, path)
    return {name: wish for name, wish in wishes.items() if wish != {}}


def _read(field: str, value: Any, found: Violations, path: str) -> Any:
    """Read the value of a field."""
    match field:
        case "order" | "only" | "ignore" | "quantizations":
            if len(value) > _MAX_HOSTS:
                found.add(path, f"at most {_MAX_HOSTS}")
            return [found.pattern(name, _HOST, f"{path}[{number}]") for number, name in enumerate(value)]
        case "sort":
            return found.one_of(value, get_args(Sort), path)
        case "sort_by":
            words = {"by": get_args(Sort), "partition": get_args(Partition)}
            return {
                part.name: found.one_of(word, words[part.name], f"{path}.{part.name}")
                for part, word in value.ListFields()
            }
        case "data_collection":
            return found.enum(value, _DATA_COLLECTION, path)
        case "max_price" | "preferred_min_throughput_by" | "preferred_max_latency_by":
            return {
                part.name: found.number(each, f"{path}.{part.name}", 0, HIGHEST) for part, each in value.ListFields()
            }
        case "preferred_min_throughput" | "preferred_max_latency":
            return found.number(value, path, 0, HIGHEST)
        case _:
            return value
