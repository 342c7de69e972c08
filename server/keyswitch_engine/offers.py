"""Which models a caller could ask for: what is offered is what routing decides, asked model by model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from keyswitch_engine.decision import decide, native_model
from keyswitch_engine.errors import RequestError
from keyswitch_engine.events import Billing
from keyswitch_engine.keyring import Keyring, needs_no_key
from keyswitch_engine.model_id import clean_model
from keyswitch_engine.operator import Caller
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry

__all__ = ["Offer", "offers"]


class Offer(msgspec.Struct, frozen=True):
    """A model that a request can name, without naming a provider."""

    id: str
    """Id as the request may give it."""
    provider: Provider
    model: str
    """Native id."""
    billing: Billing


def offers(registry: Registry, providers: Iterable[Provider], keyring: Keyring, caller: Caller) -> Iterator[Offer]:
    """Yield what *providers* offer to a *caller* with these credentials, in their order and sorted by id.

    A model is offered under the first of its names that leads to it: its native id, or that behind the provider's
    token. What provider files and menus list is what is known; other ids of a provider go through all the same.
    """
    for provider in providers:
        if not _can_be_paid(registry, provider, keyring):  # spares asking for each of its models
            continue
        found = (_offer(registry, provider, model, keyring, caller) for model in _known(registry, provider, caller))
        yield from sorted((offer for offer in found if offer is not None), key=lambda offer: offer.id)


def _can_be_paid(registry: Registry, provider: Provider, keyring: Keyring) -> bool:
    """Tell whether anything at all could be served by a provider: with the caller's key, the operator's, or none."""
    by_operator = provider.id in registry.operator.platform_keys and keyring.consents(provider)
    return keyring.brings(provider) or by_operator or needs_no_key(provider)


def _known(registry: Registry, provider: Provider, caller: Caller) -> dict[str, None]:
    """Return the names under which models of a provider are known, each once."""
    operator = registry.operator
    listed = [*provider.models, provider.default_model, provider.small_model]
    listed += [name for name, virtual in operator.virtual_models.items() if virtual.provider.id == provider.id]
    listed += operator.listed(caller, provider)
    return dict.fromkeys(filter(None, listed))


def _offer(registry: Registry, provider: Provider, model: str, keyring: Keyring, caller: Caller) -> Offer | None:
    """Return the offer of a model under the first name that leads to it; None where none does."""
    for name in (model, f"{provider.vendor_token or provider.id}/{model}"):
        try:
            native = native_model(registry, provider, model).id
            decision = decide(registry, "", clean_model(name), keyring, caller)
        except RequestError:  # by this name it is not to be had
            continue
        if decision.provider.id == provider.id and decision.model.id == native:
            return Offer(name, provider, native, Billing.PLATFORM if decision.menu else Billing.BYOK)
    return None
