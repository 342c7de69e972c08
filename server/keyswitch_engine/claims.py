"""Which providers claim a model id, whoever has keys: by listing it, by its vendor's prefix, or by a pattern.

An index, so that a decision costs the same among fifty providers as among a thousand.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from keyswitch_engine.matchers import Matchers
from keyswitch_engine.provider import Provider

__all__ = ["Claim", "Claims", "Rank", "folded"]

_REMEMBERED = 1024
"""Model ids whose claims are kept; each is of at most 256 characters, and services use few."""


def folded(name: str) -> str:
    """Return the spelling by which a name is looked up: case does not matter, nor do `_` and `-`."""
    return name.lower().replace("_", "-")


class Rank(enum.IntEnum):
    """How good a claim is, the best first."""

    EXACT = 0
    VENDOR = 1
    MATCHER = 2
    FOREIGN = 3

    @property
    def words(self) -> str:
        """What a provider of this rank does, to follow its name."""
        return _WORDS[self]


_WORDS = (
    "lists the id",
    "is the vendor that the id names",
    "has a matcher that fits",
    "takes ids of other vendors",
)


class Claim(NamedTuple):
    """A provider's claim on a model id."""

    provider: Provider
    rank: Rank


class Claims:
    """The claims that rows make; immutable once built."""

    def __init__(self, providers: Iterable[Provider], virtual_models: Mapping[str, Provider]) -> None:
        """Index *providers*, which come sorted by id; theirs are the operator's names in *virtual_models*."""
        self._listed: dict[str, list[Provider]] = {name: [provider] for name, provider in virtual_models.items()}
        self._vendors: dict[str, Provider] = {}
        providers = tuple(providers)
        self._matchers = Matchers(providers)
        for provider in providers:
            if not provider.router:
                for model in provider.models:
                    self._listed.setdefault(model, []).append(provider)
            if provider.vendor_token:
                self._vendors.setdefault(provider.vendor_token, provider)
        self.on: Callable[[str], tuple[Claim, ...]] = functools.lru_cache(_REMEMBERED)(self._on)
        """Returns the claims on a model id, each provider's best one. Only keyed providers take foreign ids, so that
        claims of that rank are not among them."""

    def _on(self, model: str) -> tuple[Claim, ...]:
        claims = {provider.id: Claim(provider, Rank.EXACT) for provider in self._listed.get(model, ())}
        if (vendor := self._vendor_of(model)) is not None:
            claims.setdefault(vendor.id, Claim(vendor, Rank.VENDOR))
        for provider in self._matchers.fitting(model):
            claims.setdefault(provider.id, Claim(provider, Rank.MATCHER))
        return tuple(claims.values())

    def vendor(self, token: str) -> Provider | None:
        """Return the provider with this vendor token, however it is `folded`; None if there is none."""
        return self._vendors.get(folded(token))

    def _vendor_of(self, model: str) -> Provider | None:
        """Return the provider whose vendor token is the prefix, split at the first `/`, else at the first `:`."""
        for separator in "/:":
            token, _, rest = model.partition(separator)
            if rest and (provider := self.vendor(token)) is not None:
                return provider
        return None
