"""What the operator's settings may say of routing, and what is checked of it against the providers.

Everything that is wrong refuses to start, or to reload: a menu that is read half could send a bill to the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from keyswitch_engine.address import at_address, parameters, placed
from keyswitch_engine.credential import Credential
from keyswitch_engine.decision import native_model
from keyswitch_engine.errors import InvalidRequest, RequestError
from keyswitch_engine.keyring import check_kind
from keyswitch_engine.model_id import exact_model
from keyswitch_engine.operator import Menu, Operator, VirtualModel
from keyswitch_engine.overrides import overridden
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry, RegistryError
from keyswitch_engine.routing_preferences import Preferences, untold

__all__ = ["MenuTable", "OperatorTables", "PolicyTable", "VirtualModelTable", "govern", "quoted", "setting_of_key"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of the operator's settings."""


class MenuTable(_Table, frozen=True):
    """`[menus.NAME]`."""

    applies_to: tuple[str, ...]
    """`*`, names of callers, and `caller/tenant`. Who has not proved who it is, is `anonymous`."""
    models: tuple[str, ...]
    """`provider/model` with `*` and `?` in the model, or names of virtual models."""


class VirtualModelTable(_Table, frozen=True):
    """`[virtual_models.NAME]`."""

    provider: str
    model: str
    routing: Preferences = Preferences()
    compatibility: dict[str, Any] = {}


class PolicyTable(_Table, frozen=True):
    """`[policy]`."""

    byok: bool = True
    custom_endpoints: bool = True
    disabled_providers: tuple[str, ...] = ()


class OperatorTables(_Table, frozen=True):
    """What the settings say of routing, apart from keys."""

    menus: dict[str, MenuTable] = {}
    virtual_models: dict[str, VirtualModelTable] = {}
    policy: PolicyTable = PolicyTable()


def govern(registry: Registry, tables: OperatorTables, platform_keys: Mapping[str, Credential]) -> Registry:
    """Return *registry* under what the operator lays down; *platform_keys* are by names of providers.

    Raises:
        RegistryError: something in it is wrong; the message names the setting.
    """
    keys = dict(_keys(registry, platform_keys))
    virtual = {name: _virtual(registry, name, table) for name, table in sorted(tables.virtual_models.items())}
    _check_chains(virtual)
    menus = tuple(_menu(registry, keys, virtual, name, table) for name, table in sorted(tables.menus.items()))
    policy = tables.policy
    off = (
        _provider(registry, f"policy.disabled_providers[{number}]", name)
        for number, name in enumerate(policy.disabled_providers)
    )
    disabled = {provider.id: provider for provider in off}
    operator = Operator(keys, menus, virtual, policy.byok, policy.custom_endpoints, disabled)
    return Registry(registry.providers.values(), registry.fingerprint, operator)


def _provider(registry: Registry, setting: str, name: str) -> Provider:
    """Return the provider that a setting names."""
    provider = registry.find(name)
    if provider is None:
        raise RegistryError(f"{setting}: {quoted(name)} is no provider")
    return provider


def _keys(registry: Registry, platform_keys: Mapping[str, Credential]) -> Iterator[tuple[str, Credential]]:
    """Check the operator's keys: each is of a kind that its provider takes, and no provider has two."""
    owners: dict[str, str] = {}
    for name, credential in platform_keys.items():
        setting = setting_of_key(name)
        provider = _provider(registry, setting, name)
        try:
            check_kind(provider, credential, setting)
        except InvalidRequest as error:
            raise RegistryError(error.message) from error
        if (other := owners.setdefault(provider.id, name)) != name:
            raise RegistryError(f"{setting}: {provider.id} has a key already, as {other}")
        _check_address(setting, provider, credential)
        yield provider.id, credential


def _check_address(setting: str, provider: Provider, credential: Credential) -> None:
    """Check that what a key says beside its secret can stand in the provider's URLs; the region is the request's."""
    values = {"region": "region"} | dict(parameters(provider, credential, ""))
    try:
        at_address(provider, placed(provider.dialects, values), values)
    except InvalidRequest as error:
        raise RegistryError(f"{setting}: {error.violations[0].description}") from error


_VIRTUAL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


def _virtual(registry: Registry, name: str, table: VirtualModelTable) -> VirtualModel:
    """Check a virtual model: nobody else claims its name, and its provider can be told what it says."""
    setting = f"virtual_models.{name}"
    if not _VIRTUAL_NAME.fullmatch(name):
        raise RegistryError(f"{setting}: the name is made of lower-case letters, digits, '.', '_' and '-'")
    if claims := registry.claims.on(name):
        raise RegistryError(f"{setting}: the name belongs to {claims[0].provider.id} already")
    provider = _provider(registry, f"{setting}.provider", table.provider)
    if table.model:
        _check_id(f"{setting}.model", table.model)
    native = _native(registry, provider, f"{setting}.model", table.model)
    wishes = table.routing.wishes
    surface = provider.dialects[0]
    try:
        overridden(surface, native, table.compatibility)
    except InvalidRequest as error:
        raise RegistryError(f"{setting}.compatibility: {_reason(error)}") from error
    for wish in untold(surface.routing_preferences, wishes):
        raise RegistryError(f"{setting}.routing.{wish}: {provider.name} takes no such wish")
    return VirtualModel(name, provider, native, wishes, table.compatibility)


def _check_chains(virtual: Mapping[str, VirtualModel]) -> None:
    """Refuse names for names: a virtual model stands for what its provider knows, and is looked up once."""
    for model in virtual.values():
        other = virtual.get(model.model)
        if other is not None and other.model != model.model:
            raise RegistryError(
                f"virtual_models.{model.name}.model: {other.name} is a virtual model itself; name a model of a provider"
            )


_WHO = re.compile(r"\*|[^\s*/]+(/[^\s*/]+)?")


def _menu(
    registry: Registry, keys: Mapping[str, Credential], virtual: Mapping[str, VirtualModel], name: str, table: MenuTable
) -> Menu:
    """Check a menu: it names models of providers that the operator has keys for."""
    setting = f"menus.{name}"
    _check_filled(f"{setting}.applies_to", table.applies_to, "callers, or '*'")
    applies_to = set()
    for number, who in enumerate(table.applies_to):
        if not _WHO.fullmatch(who):
            raise RegistryError(f"{setting}.applies_to[{number}]: expected '*', a caller, or caller/tenant")
        caller, _, tenant = who.partition("/")
        applies_to.add((caller, tenant))
    _check_filled(f"{setting}.models", table.models, "models")
    models: dict[str, set[str]] = {}
    unlisted: dict[str, set[str]] = {}
    patterns: dict[str, list[str]] = {}
    virtual_names: set[str] = set()
    for number, text in enumerate(table.models):
        where = f"{setting}.models[{number}]"
        owner, slash, rest = text.partition("/")
        named = virtual.get(text) or virtual.get(rest)
        if named is not None and (not slash or named.provider is registry.find(owner)):
            provider = named.provider
            virtual_names.add(named.name)
        else:
            provider = _owner(registry, where, owner, rest)
            _check_id(where, rest)
            if _WILD.search(rest):
                patterns.setdefault(provider.id, []).append(_pattern(provider, rest, text))
            else:
                whole = text in provider.models
                models.setdefault(provider.id, set()).add(_native(registry, provider, where, text if whole else rest))
                if not provider.strip_own_prefix:
                    unlisted.setdefault(provider.id, set()).add(text)
        if provider.id not in keys:
            raise RegistryError(f"{where}: there is no platform key for {provider.id}")
    return Menu(
        name,
        frozenset(applies_to),
        {id_: frozenset(ids) for id_, ids in models.items()},
        {id_: frozenset(ids) for id_, ids in unlisted.items()},
        {id_: re.compile("|".join(texts)) for id_, texts in patterns.items()},
        frozenset(virtual_names),
    )


def _check_filled(setting: str, values: Collection[str], what: str) -> None:
    """Refuse an empty list, with which a menu would serve nobody or nothing."""
    if not values:
        raise RegistryError(f"{setting}: it is empty; name {what}, or leave the menu out")


_WILD = re.compile(r"[*?]")


def _owner(registry: Registry, where: str, owner: str, rest: str) -> Provider:
    """Return the provider that a line of a menu names, by id, alias or token."""
    if not rest:
        raise RegistryError(f"{where}: expected provider/model, or the name of a virtual model")
    provider = registry.find(owner) or registry.claims.vendor(owner)
    if provider is None:
        raise RegistryError(f"{where}: {quoted(owner)} is no provider")
    return provider


def _check_id(where: str, model: str) -> None:
    """Refuse an id, or a pattern of some, that no request could come with."""
    try:
        exact_model(model, where)
    except RequestError as error:
        raise RegistryError(f"{where}: {_reason(error)}") from error


def _native(registry: Registry, provider: Provider, where: str, model: str) -> str:
    """Return the native id that a setting means."""
    try:
        return native_model(registry, provider, model).id
    except RequestError as error:
        raise RegistryError(f"{where}: {_reason(error)}") from error


def _reason(error: RequestError) -> str:
    """Return what is wrong without the field of a request, which a setting has not."""
    return error.violations[0].description if isinstance(error, InvalidRequest) else error.message


def _pattern(provider: Provider, rest: str, text: str) -> str:
    """Return the pattern of the native ids that a line allows by its *rest*, or by all of its *text*.

    Some ids begin with their provider's own name, as `groq/compound` does: all may that keep it, else those listed.
    """
    whole = _wild(text)
    listed = [re.escape(model) for model in provider.models if re.fullmatch(whole, model)]
    return "|".join([_wild(rest), *(listed if provider.strip_own_prefix else [whole])])


def _wild(text: str) -> str:
    """Return the regular expression of a text in which `*` stands for anything and `?` for one character."""
    return re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")


_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_TOO_SHORT = 7
"""Characters that no key is made of."""


def quoted(name: str) -> str:
    """Return a name for a message, unless it could be a key in the wrong place."""
    return repr(name) if _NAME.fullmatch(name) or len(name) <= _TOO_SHORT else "this"


def setting_of_key(name: str) -> str:
    """Return the path of a key's setting for a message, likewise."""
    return f"platform_keys.{name if _NAME.fullmatch(name) else '…'}"
