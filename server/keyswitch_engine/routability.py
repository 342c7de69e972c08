"""Whether a list of models still leads somewhere: what a template or a caller's configuration names, model by model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from keyswitch_engine.decision import decide, native_model
from keyswitch_engine.errors import Reason, RequestError
from keyswitch_engine.keyring import Keyring, find_provider
from keyswitch_engine.model_id import clean_model
from keyswitch_engine.operator import Caller
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry

__all__ = ["Listed", "Routability", "routability"]


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model as a list names it."""

    model: str
    provider: str = ""


class Routability(msgspec.Struct, frozen=True):
    """Where a model of a list leads; nowhere if it has no provider, and `refusal` says why."""

    listed: Listed
    provider: Provider | None = None
    model: str = ""
    """Native id."""
    menu: str = ""
    """The menu that has it; empty if it takes a key of the caller's, or none."""
    refusal: RequestError | None = None


def routability(registry: Registry, listed: Listed, keyed: Sequence[str], caller: Caller) -> Routability:
    """Say where a model leads: by a menu, or with a key of one of *keyed*, or of any provider if none is named.

    Raises:
        RequestError: one of *keyed* is no provider.
    """
    keys = Keyring.naming(registry, keyed, consent=False)
    try:
        model = clean_model(listed.model, "model")
        return _on_menu(registry, listed, model, caller) or _derived(registry, listed, model, keys, caller)
    except RequestError as error:
        return Routability(listed, refusal=error)


def _derived(registry: Registry, listed: Listed, model: str, keys: Keyring, caller: Caller) -> Routability:
    """Say where a model leads with keys; where there are none at all, the one that is missing is taken for granted."""
    try:
        decision = decide(registry, listed.provider, model, keys, caller)
    except RequestError as error:
        if error.reason is not Reason.MISSING_CREDENTIAL or keys.named or not registry.operator.byok:
            raise
        provider = find_provider(registry, error.provider)
        return Routability(listed, provider, native_model(registry, provider, model).id)
    return Routability(listed, decision.provider, decision.model.id)


def _on_menu(registry: Registry, listed: Listed, model: str, caller: Caller) -> Routability | None:
    """Say by which menu a model is served; None if by none."""
    try:
        decision = decide(registry, listed.provider, model, Keyring.naming(registry, (), consent=True), caller)
    except RequestError:  # a key of the caller's may lead further
        return None
    return Routability(listed, decision.provider, decision.model.id, decision.menu) if decision.menu else None
