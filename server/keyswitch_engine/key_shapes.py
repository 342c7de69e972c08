"""Whose key it looks like: for people who explain a route, not for the path of a call."""

from __future__ import annotations

import re

from keyswitch_engine.credential import ApiKey
from keyswitch_engine.dialects.base import Dialect
from keyswitch_engine.events import CredentialSource
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route

__all__ = ["key_warnings"]


def key_warnings(registry: Registry, route: Route[Dialect]) -> tuple[str, ...]:
    """Say so if the key of a route looks like another provider's. Shapes change, so this is no refusal."""
    provider = route.provider
    if route.credential_source is not CredentialSource.CALLER:  # nobody else's key is a caller's business
        return ()
    match route.credential:
        case ApiKey(key=key) if provider.key_pattern and not provider.key_pattern.search(key.reveal()):
            if owner := _owner_of_shape(registry, provider, key.reveal()):
                return (f"the key for {provider.id} has the shape of a key for {owner}",)
    return ()


def _owner_of_shape(registry: Registry, provider: Provider, key: str) -> str:
    """Return the only provider whose keys begin as this one does; empty if there is none, or several."""
    patterns = {row.id: row.key_pattern for row in registry.providers.values() if row.key_pattern is not None}
    prefixes = {
        name: _fixed_prefix(pattern, key)
        for name, pattern in patterns.items()
        if name != provider.id and pattern.search(key)
    }
    if not prefixes:
        return ""
    owner = max(prefixes, key=lambda name: len(prefixes[name]))
    prefix = prefixes[owner]
    shared = re.compile(r"(^|[\^(|])" + re.escape(prefix))  # where a pattern or a branch of it begins like that
    if any(
        name != owner and (prefixes.get(name) == prefix or shared.search(pattern.pattern))
        for name, pattern in patterns.items()
    ):
        return ""
    return owner


_STAND_INS = "abAB01-_."
"""One of each class of characters that patterns of keys tell apart, and another in case the key has that one."""


def _fixed_prefix(pattern: re.Pattern[str], key: str) -> str:
    """Return the characters at the beginning of a matching key that cannot be others."""
    for place, character in enumerate(key):
        others = (key[:place] + other + key[place + 1 :] for other in _STAND_INS if other != character)
        if any(pattern.search(other) for other in others):
            return key[:place]
    return key
