"""What the operator lays down beside the providers: whom its own keys serve, virtual models, and what is switched off.

`operator_tables` reads it from the operator's settings and checks it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from keyswitch_engine.credential import Credential
from keyswitch_engine.provider import Provider
from keyswitch_engine.routing_preferences import Wishes

__all__ = ["ANONYMOUS", "Caller", "Menu", "MenuLine", "Operator", "VirtualModel"]

ANONYMOUS: Final = "anonymous"
"""What callers are called who have not proved who they are."""


class Caller(msgspec.Struct, frozen=True):
    """Who calls, and for whom: what menus apply to."""

    name: str = ANONYMOUS
    tenant: str = ""


class MenuLine(msgspec.Struct, frozen=True):
    """One line of a menu: a model of a provider, a pattern of its models, or a virtual model."""

    provider: Provider
    pattern: re.Pattern[str]
    """What native ids it allows."""
    model: str = ""
    """The only id that it allows; empty where it is a pattern."""
    virtual: str = ""
    """The virtual model that it allows, and then no other way to the same model; empty where it is none."""

    def allows(self, provider: Provider, model: str, virtual: str) -> bool:
        """Tell whether a native id of a provider, asked for by a *virtual* name or none, may be served."""
        if self.virtual:
            return self.virtual == virtual
        return self.provider.id == provider.id and self.pattern.fullmatch(model) is not None


class Menu(msgspec.Struct, frozen=True):
    """A named list of models that the operator's keys serve, for some callers."""

    name: str
    applies_to: frozenset[tuple[str, str]]
    """Callers with their tenants; `*` is every caller, and an empty tenant every one of a caller's."""
    lines: tuple[MenuLine, ...]

    def is_for(self, caller: Caller) -> bool:
        """Tell whether it applies to a caller."""
        return not self.applies_to.isdisjoint({("*", ""), (caller.name, ""), (caller.name, caller.tenant)})


class VirtualModel(msgspec.Struct, frozen=True):
    """A name of the operator's for a model of a provider, with how it is to be called."""

    name: str
    provider: Provider
    model: str
    """Native id."""
    routing: Wishes
    compatibility: Mapping[str, Any]


class Operator(msgspec.Struct, frozen=True):
    """All of it, checked. By default there are no keys of the operator's, and nothing is switched off."""

    platform_keys: Mapping[str, Credential] = MappingProxyType({})
    """The operator's own credentials, by the id of their provider."""
    menus: tuple[Menu, ...] = ()
    """Sorted by name."""
    virtual_models: Mapping[str, VirtualModel] = MappingProxyType({})
    byok: bool = True
    """Whether callers may bring keys."""
    custom_endpoints: bool = True
    """Whether callers may name endpoints of their own."""
    disabled_providers: frozenset[str] = frozenset()
    """Ids."""

    def menu_with(self, caller: Caller, provider: Provider, model: str, virtual: str = "") -> str:
        """Return the first menu that applies to a caller and has a provider's native id; empty if none has it."""
        for menu in self.menus:
            if menu.is_for(caller) and any(line.allows(provider, model, virtual) for line in menu.lines):
                return menu.name
        return ""

    def listing(self, caller: Caller, model: str) -> tuple[Provider, ...]:
        """Return the providers under which menus that apply to a caller list exactly this id, sorted by id."""
        listed = {
            line.provider.id: line.provider
            for menu in self.menus
            if menu.is_for(caller)
            for line in menu.lines
            if line.model == model
        }
        return tuple(listed[id_] for id_ in sorted(listed))
