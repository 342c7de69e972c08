"""What is different for one call: compatibility flags and wishes about routing, each level over the one before it.

A request overrides the custom endpoint or the virtual model that it names, these override what the provider's file says
of the model, and that what it says of all. Tables merge key by key, lists are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.provider import D, Provider, Surface
from keyswitch_engine.routing_preferences import ROUTERS, Wishes, merged, path_of, untold, with_wishes

__all__ = ["overridden", "with_routing"]


_FLAG = re.compile(r"unknown field `(.+)`|`\$\.(.+)`")


def overridden(
    surface: Surface[D], model: str, *levels: Mapping[str, Any], routing: Wishes = MappingProxyType({})
) -> Surface[D]:
    """Return *surface* as it is for a model, under the flags of *levels*, the last of which wins, and *routing*.

    Raises:
        InvalidRequest: there is no such flag, or it has no such value.
    """
    fitting = [override for override in surface.model_overrides if override.pattern.search(model)]
    changes: dict[str, Any] = {}
    for level in (*(override.compatibility for override in fitting), *levels):
        changes |= level
    if changes:
        flags = msgspec.to_builtins(surface.profile.flags) | changes
        try:
            converted = msgspec.convert(flags, surface.dialect.flags)
        except msgspec.ValidationError as error:
            found = _FLAG.search(str(error))  # the rest quotes the value
            flag = (found[1] or found[2]) if found else "one of them"
            message = f"{flag}: no flag, or no value of it, that {surface.dialect.name} has"
            raise InvalidRequest([Violation("target.compatibility", message)]) from error
        surface = msgspec.structs.replace(surface, profile=msgspec.structs.replace(surface.profile, flags=converted))
    if fitting or routing:
        wishes = merged(surface.routing, *(override.routing for override in fitting), routing)
        surface = msgspec.structs.replace(surface, routing=wishes)
    return surface


def with_routing(provider: Provider, surface: Surface[D], options_json: str, wishes: Wishes) -> str:
    """Return what is merged into the body last: the caller's options, and what a router is wished to do.

    Raises:
        InvalidRequest: the options say it too, or the provider takes no such wish.
    """
    if not wishes:
        return options_json
    router = surface.routing_preferences
    if not router:
        rule = f"{provider.name} takes no routing preferences here; leave them out, or choose a router"
        raise InvalidRequest([Violation("target.routing", rule)])
    if unfit := untold(router, wishes):
        known = " and ".join(sorted(ROUTERS[router].takes))
        rule = f"{provider.name} knows no preference but {known}; leave this one out"
        raise InvalidRequest([Violation(path_of(name, wishes[name]), rule) for name in unfit])
    return with_wishes(options_json, router, wishes)
