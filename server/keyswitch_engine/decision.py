"""Which provider and model a request means, and who pays: the rules of routing, apart from what is sent.

Dispatch and explanations decide by this and so does the list of models on offer, which is why it looks at no secret:
that a key came is all that counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from keyswitch_engine.claims import Claim, Rank, folded
from keyswitch_engine.errors import Reason, RequestError
from keyswitch_engine.keyring import Keyring, find_provider, needs_no_key
from keyswitch_engine.model_id import clean_model
from keyswitch_engine.operator import Caller, VirtualModel
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry

__all__ = ["Decision", "ExcludedCandidate", "NativeModel", "decide", "native_model"]


class ExcludedCandidate(msgspec.Struct, frozen=True):
    """A provider that could have served the model, and why it was left out."""

    provider: str
    reason: str


class NativeModel(msgspec.Struct, frozen=True):
    """A model id as its provider knows it."""

    id: str
    reason: str
    """Why it is this one, as a sentence."""
    virtual: VirtualModel | None = None
    """The virtual model that stands for it, if the request named one."""

    @property
    def virtual_name(self) -> str:
        """Name of the virtual model; empty if there is none."""
        return self.virtual.name if self.virtual is not None else ""


class Decision(msgspec.Struct, frozen=True):
    """Where a request goes, and on whose bill."""

    provider: Provider
    model: NativeModel
    menu: str
    """The menu by which the operator's key serves it; empty where the caller's credential does, or none is needed."""
    reasons: tuple[str, ...]
    excluded: tuple[ExcludedCandidate, ...]


def decide(registry: Registry, provider_name: str, model: str, keyring: Keyring, caller: Caller) -> Decision:
    """Decide for a provider, which may be empty, and a model that is clean, and may be empty too.

    Raises:
        RequestError: the request goes nowhere; the reason is one of the contract's for routing.
    """
    excluded: tuple[ExcludedCandidate, ...] = ()
    if provider_name:
        provider = find_provider(registry, provider_name)
        reason = f"the request names the provider {provider.id}"
    elif model:
        provider, reason, excluded = _from_model(registry, model, keyring, caller)
    else:
        provider = _from_single_key(registry, keyring)
        reason = f"the only key that came is for {provider.id}"
    _check_policy(registry, provider, byok=False)
    native = native_model(registry, provider, model)
    menu = _menu(registry, provider, native, keyring, caller)
    _check_policy(registry, provider, byok=keyring.pays(provider))
    return Decision(provider, native, menu, (reason, native.reason), excluded)


def native_model(registry: Registry, provider: Provider, model: str) -> NativeModel:
    """Return a clean model id as the provider knows it, and why.

    Raises:
        RequestError: no model is given, and the provider has no default.
    """
    if not model:
        if provider.default_model:
            return NativeModel(
                provider.default_model, f"{provider.default_model} is the default model of {provider.id}"
            )
        raise RequestError(
            Reason.MODEL_REQUIRED, f"{provider.name} has no default model; name one", field="target.model"
        )
    if registry.operator.virtual_models and (virtual := _virtual(registry, provider, model)) is not None:
        return virtual
    if provider.strip_own_prefix and model not in provider.models:
        for separator in "/:":
            token, _, rest = model.partition(separator)
            if rest and folded(token) == provider.vendor_token and (not provider.router or "/" in rest):
                return NativeModel(
                    clean_model(rest), f"the prefix {token}{separator} is {provider.id}'s own and was dropped"
                )
    return NativeModel(model, "the model id goes through as it is")


def _virtual(registry: Registry, provider: Provider, name: str) -> NativeModel | None:
    """Return what a virtual model of a provider stands for, named alone or behind the provider's own token."""
    for separator in ("", "/", ":"):
        token, _, rest = name.partition(separator) if separator else (provider.vendor_token, "", name)
        virtual = registry.operator.virtual_models.get(rest)
        if virtual is not None and virtual.provider.id == provider.id and folded(token) == provider.vendor_token:
            return NativeModel(virtual.model, f"{rest} is the operator's name for {virtual.model}", virtual)
    return None


def _from_model(
    registry: Registry, model: str, keyring: Keyring, caller: Caller
) -> tuple[Provider, str, tuple[ExcludedCandidate, ...]]:
    """Derive the provider from a model id: keyed ones only, if any is keyed; then by rank."""
    candidates = _candidates(registry, model, keyring, caller)
    if not candidates:
        raise RequestError(
            Reason.UNROUTABLE_MODEL, "no provider owns this model; name the provider too", field="target.model"
        )
    keyed = [claim for claim in candidates if _is_keyed(registry, claim.provider, model, keyring, caller)]
    pool = keyed or candidates
    best = min(claim.rank for claim in pool)
    winners = [claim.provider for claim in pool if claim.rank is best]
    if len(winners) > 1:
        names = ", ".join(sorted(provider.id for provider in winners))
        raise RequestError(
            Reason.AMBIGUOUS_MODEL, f"this model could go to {names}; name the provider", field="target.model"
        )
    winner = winners[0]
    excluded = tuple(
        ExcludedCandidate(claim.provider.id, f"only {claim.rank.words}" if claim in pool else "no key came for it")
        for claim in sorted(candidates, key=lambda candidate: candidate.provider.id)
        if claim.provider is not winner
    )
    if not keyed and not needs_no_key(winner) and not keyring.consents(winner):
        _check_policy(registry, winner, byok=False)
        native = native_model(registry, winner, model)
        on_menu = bool(_menu_with(registry, winner, native, caller))
        raise _missing(registry, winner, keyring, _routers_for(registry, winner, model), on_menu=on_menu)
    return winner, f"the model leads to {winner.id}, which {best.words}", excluded


def _is_keyed(registry: Registry, provider: Provider, model: str, keyring: Keyring, caller: Caller) -> bool:
    """Tell whether somebody's key is there for a model at a provider: the caller's, or the operator's by a menu."""
    if keyring.brings(provider):
        return True
    if provider.id not in registry.operator.platform_keys or not keyring.consents(provider):
        return False
    return bool(_menu_with(registry, provider, native_model(registry, provider, model), caller))


def _menu_with(registry: Registry, provider: Provider, native: NativeModel, caller: Caller) -> str:
    """Return the menu by which the operator's key may serve a model for a caller who consents; empty if none."""
    return registry.operator.menu_with(caller, provider, native.id, native.virtual_name)


def _candidates(registry: Registry, model: str, keyring: Keyring, caller: Caller) -> tuple[Claim, ...]:
    """Return every provider that could serve a model, with its claim."""
    claims = registry.claims.on(model)
    claiming = {claim.provider.id for claim in claims}
    operator = registry.operator
    with_keys = (keyring.own.keys() | operator.platform_keys.keys()) - claiming
    takers = (
        row
        for row in map(registry.providers.__getitem__, with_keys)
        if row.foreign_id_form is not None
        and row.foreign_id_form.search(model)
        and _is_keyed(registry, row, model, keyring, caller)
    )
    found = (*claims, *(Claim(row, Rank.FOREIGN) for row in takers))
    if found or not operator.menus:
        return found
    listed = operator.listing(caller, model)  # ids that only the operator knows
    return tuple(Claim(registry.providers[id_], Rank.EXACT) for id_ in sorted(listed))


def _routers_for(registry: Registry, winner: Provider, model: str) -> list[str]:
    """Return the routers, sorted, that take a model's id and may have what its own provider, *winner*, serves.

    What is spoken to by plain http is in somebody's own network, where no router has its models from.
    """
    if winner.base_url.startswith("http:"):
        return []
    return [
        provider.id
        for provider in registry.providers.values()
        if provider.router
        and provider is not winner
        and provider.foreign_id_form
        and provider.foreign_id_form.search(model)
        and provider.id not in registry.operator.disabled_providers
    ]


def _from_single_key(registry: Registry, keyring: Keyring) -> Provider:
    """Return the provider of the only key."""
    named = keyring.named
    if len(named) == 1:
        return registry.providers[named[0]]
    came = f"keys came for {', '.join(named)}" if named else "no key came either"
    raise RequestError(
        Reason.PROVIDER_REQUIRED, f"neither provider nor model is given, and {came}", field="target.provider"
    )


def _menu(registry: Registry, provider: Provider, native: NativeModel, keyring: Keyring, caller: Caller) -> str:
    """Return the menu by which the operator pays; empty where the caller's own credential is used, or none is needed.

    The caller's own credential always comes first, and nothing but a consent leads to the operator's.

    Raises:
        RequestError: there is no credential that could be used.
    """
    if keyring.chosen(provider):
        return ""
    menu = _menu_with(registry, provider, native, caller)
    if keyring.chose_consent(provider):
        if menu:
            return menu
        if not needs_no_key(provider):
            error = RequestError(
                Reason.PLATFORM_NOT_ALLOWED,
                f"the operator's key for {provider.name} may not serve this model: it is on no menu that applies"
                + ("; send a key of your own" if registry.operator.byok else ""),
                field="target.model",
            )
            error.provider = provider.id
            raise error
    if needs_no_key(provider) and not keyring.label:
        return ""
    raise _missing(registry, provider, keyring, on_menu=bool(menu))


def _missing(
    registry: Registry, provider: Provider, keyring: Keyring, routers: Iterable[str] = (), *, on_menu: bool
) -> RequestError:
    """Say which credential is missing, or its label, and what would do instead."""
    message = f"no key for {provider.name} came"
    if keyring.brings(provider):
        message = f"no credential that came for {provider.id} has the label that is asked for"
        on_menu = False  # nothing but the label is wrong
    elif not registry.operator.byok:
        message += ", and bringing your own is switched off here"
    else:
        also = ", ".join(routers)
        message += f", only for {', '.join(sorted(keyring.own))}" if keyring.own else ""
        message += f"; send one for {provider.id!r}" + (f" (or for {also})" if also else "")
    if on_menu:
        message += ", or consent to the operator's key" if registry.operator.byok else "; consent to the operator's key"
    error = RequestError(Reason.MISSING_CREDENTIAL, message, field="credentials")
    error.provider = provider.id
    return error


def _check_policy(registry: Registry, provider: Provider, *, byok: bool) -> None:
    """Refuse what the operator has switched off; what callers have stored elsewhere stays theirs."""
    operator = registry.operator
    if provider.id in operator.disabled_providers:
        raise _disabled(f"{provider.name} is switched off here", "target.provider")
    if byok and not operator.byok:
        raise _disabled("bringing your own key is switched off here", "credentials")


def _disabled(message: str, field: str) -> RequestError:
    """Return the refusal of what the operator has switched off."""
    return RequestError(Reason.DISABLED_BY_POLICY, message, field=field)
