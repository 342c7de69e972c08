"""What a shell may offer for an option: from the registry of this installation, without settings, keys or a network.

Providers that only an operator's files have are not known here, and go through all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from keyswitch_engine.registry import Registry

__all__ = ["built_in_rows", "complete_api_keys", "complete_dialects", "complete_models", "complete_providers"]


def complete_providers(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer ids and aliases, each with the provider's name."""
    rows = built_in_rows()
    names = [(name, provider.name) for name in rows.names if (provider := rows.find(name))] if rows else []
    return _items(names, incomplete)


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the models that the provider given lists; without one, those of all, in a form that leads to theirs."""
    rows = built_in_rows()
    if rows is None:
        return []
    if given := ctx.params.get("provider"):
        provider = rows.find(given)
        return _items([(model, "") for model in provider.models] if provider else [], incomplete)
    found = {}
    for provider in rows.providers.values():
        prefix = f"{provider.vendor_token}/" if provider.strip_own_prefix else ""  # others would be sent the prefix
        for model in provider.models:
            found[model if model.startswith(prefix) else prefix + model] = provider.name
    return _items(sorted(found.items()), incomplete)


def complete_dialects(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the dialects that the provider given speaks, the first one first; without one, all."""
    rows = built_in_rows()
    if rows is None:
        return []
    given = ctx.params.get("provider")
    providers = rows.providers.values() if not given else [found] if (found := rows.find(given)) else []
    names = dict.fromkeys(row.dialect.name for provider in providers for row in provider.dialects)
    return _items([(name, "") for name in names], incomplete)


def complete_api_keys(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer what stands before the equals sign, and nothing of what follows it."""
    if "=" in incomplete:
        return []
    rows = built_in_rows()
    return _items([(f"{name}=", "") for name in rows.names] if rows else [], incomplete)


def built_in_rows() -> Registry | None:
    """Return the built-in rows; None if there are none to be had here, for then there is nothing to offer."""
    try:
        from keyswitch_engine import registry  # noqa: PLC0415 - costs more than all else here
    except ModuleNotFoundError:
        return None
    try:
        return registry.load()
    except registry.RegistryError:  # any command that needs them says so; a shell wants no words in its line
        return None


def _items(values: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem[str]]:
    """Return those values that begin with what is there, each with a word on it."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell that completes needs it

    return [CompletionItem(value, help=about or None) for value, about in values if value.startswith(incomplete)]
