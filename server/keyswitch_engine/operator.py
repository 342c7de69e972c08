"""What the operator lays down beside the providers: whom its own keys serve, virtual models, and what is switched off.

`operator_tables` reads it from the operator's settings and checks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from keyswitch_engine.credential import Credential
from keyswitch_engine.provider import Provider
from keyswitch_engine.routing_preferences import Wishes

__all__ = ["ANONYMOUS", "Caller", "Menu", "Operator", "VirtualModel"]

ANONYMOUS: Final = "anonymous"
"""What callers are called who have not proved who they are."""


class Caller(msgspec.Struct, frozen=True):
    """Who calls, and for whom: what menus apply to."""

    name: str = ANONYMOUS
    tenant: str = ""


class Menu(msgspec.Struct, frozen=True):
    """A named list of models that the operator's keys serve, for some callers."""

    name: str
    applies_to: frozenset[tuple[str, str]]
    """Callers with their tenants; `*` is every caller, and an empty tenant every one of a caller's."""
    models: Mapping[str, frozenset[str]]
    """Native ids, by the id of their provider."""
    unlisted: Mapping[str, frozenset[str]]
    """What the same lines allow beside them and nobody is offered: ids may begin with their provider's name."""
    patterns: Mapping[str, re.Pattern[str]]
    """What further native ids are allowed, by the id of their provider."""
    virtual: frozenset[str]
    """Virtual models, which open no other way to what they stand for."""

    def is_for(self, caller: Caller) -> bool:
        """Tell whether it applies to a caller."""
        return not self.applies_to.isdisjoint({("*", ""), (caller.name, ""), (caller.name, caller.tenant)})

    def allows(self, provider: Provider, model: str, virtual: str) -> bool:
        """Tell whether a native id of a provider, asked for by a *virtual* name or none, may be served."""
        if virtual in self.virtual:
            return True
        if model in self.models.get(provider.id, ()) or model in self.unlisted.get(provider.id, ()):
            return True
        pattern = self.patterns.get(provider.id)
        return pattern is not None and pattern.fullmatch(model) is not None


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
    disabled_providers: Mapping[str, Provider] = MappingProxyType({})
    """By id."""

    def menu_with(self, caller: Caller, provider: Provider, model: str, virtual: str = "") -> str:
        """Return the first menu that applies to a caller and has a provider's native id; empty if none has it."""
        menus = (menu.name for menu in self._for(caller) if menu.allows(provider, model, virtual))
        return next(menus, "")

    def disabled_at(self, host: str) -> Provider | None:
        """Return the provider that is switched off and called at *host*; None if there is none."""
        off = self.disabled_providers.values()
        return next((provider for provider in off if any(_fits(known, host) for known in provider.hosts)), None)

    def listing(self, caller: Caller, model: str) -> frozenset[str]:
        """Return the ids of the providers under which menus that apply to a caller list exactly this id."""
        return frozenset(id_ for menu in self._for(caller) for id_, models in menu.models.items() if model in models)

    def listed(self, caller: Caller, provider: Provider) -> list[str]:
        """Return the ids of a provider that menus that apply to a caller list, sorted."""
        return sorted({model for menu in self._for(caller) for model in menu.models.get(provider.id, ())})

    def _for(self, caller: Caller) -> Iterator[Menu]:
        """Return the menus that apply to a caller."""
        return (menu for menu in self.menus if menu.is_for(caller))


def _fits(known: str, host: str) -> bool:
    """Tell whether *host* is a known one, in which each parameter in braces is a part of a label or all of it."""
    return re.fullmatch(re.sub(r"\\{\w+\\}", "[^.:]+", re.escape(known)), host) is not None
