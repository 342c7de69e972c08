"""From a request to a provider: a pure function of request and registry.

Dispatch, `ExplainRoute` and the command line call the same `resolve`, so that what is explained can never disagree with
what is done. The order of a map or a command line never decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from keyswitch_engine.address import at_address, parameters, placed
from keyswitch_engine.credential import NoCredential, ProviderCredential
from keyswitch_engine.custom_endpoint import FIELD, CustomEndpoint, provider_at
from keyswitch_engine.decision import Decision, NativeModel, decide
from keyswitch_engine.dialects.base import Dialect, TokenCounter
from keyswitch_engine.embeddings import EmbeddingDialect
from keyswitch_engine.errors import InvalidRequest, Reason, RequestError, Unavailable, Violation
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.keyring import Keyring, OwnCredential, check_kind
from keyswitch_engine.model_id import clean_model
from keyswitch_engine.model_listing import ModelListing
from keyswitch_engine.operator import Caller
from keyswitch_engine.overrides import overridden, with_routing
from keyswitch_engine.provider import D, Provider, Surface
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing_preferences import merged, path_of

__all__ = ["resolve", "resolve_embeddings", "resolve_model_listing", "resolve_token_counting"]

_ANYBODY = Caller()


def resolve(
    registry: Registry, target: Target, credentials: Sequence[ProviderCredential], caller: Caller = _ANYBODY
) -> Route[Dialect]:
    """Decide where a generation for *target* goes.

    Raises:
        RequestError: it goes nowhere; the reason is one of the contract's for routing.
    """
    return _resolve(
        registry, target, credentials, caller, lambda row, values: _spoken(row, target, values), generation=True
    )


def resolve_embeddings(
    registry: Registry, target: Target, credentials: Sequence[ProviderCredential], caller: Caller = _ANYBODY
) -> Route[EmbeddingDialect]:
    """Decide where embeddings for *target* come from. No provider has a default model for them.

    Raises:
        RequestError: from nowhere.
    """
    _refuse_generation_choices(target)
    if target.custom_endpoint is None and not clean_model(target.model):
        raise RequestError(Reason.MODEL_REQUIRED, "name the embedding model", field="target.model")
    return _resolve(registry, target, credentials, caller, lambda row, _: _offered(row, row.embeddings, "embeddings"))


def resolve_token_counting(
    registry: Registry, target: Target, credentials: Sequence[ProviderCredential], caller: Caller = _ANYBODY
) -> Route[TokenCounter]:
    """Decide who counts the tokens of a conversation with *target*.

    Raises:
        RequestError: nobody does.
    """
    _refuse_generation_choices(target, "options_json")
    return _resolve(
        registry, target, credentials, caller, lambda row, _: _offered(row, row.token_counting, "token counting")
    )


def resolve_model_listing(
    registry: Registry, target: Target, credential: ProviderCredential | None
) -> Route[ModelListing]:
    """Decide where a provider's list of models comes from.

    Raises:
        RequestError: from nowhere.
    """
    any_model = msgspec.structs.replace(target, model="-")  # the rules for models have no say here
    credentials = (credential,) if credential is not None else ()
    return _resolve(
        registry, any_model, credentials, _ANYBODY, lambda row, _: _offered(row, row.model_listing, "list of models")
    )


def _refuse_generation_choices(target: Target, *more: str) -> None:
    """Refuse what only a generation can choose."""
    for field in ("dialect", "compatibility", "routing", *more):
        if getattr(target, field):
            raise InvalidRequest([Violation(f"target.{field}", "only a generation has a choice of these")])


def _offered(provider: Provider, surface: Surface[D] | None, what: str) -> Surface[D]:
    """Return a surface that not every provider has."""
    if surface is None:
        raise Unavailable(Reason.UNSUPPORTED_FEATURE, f"{provider.name} offers no {what}", field="target.provider")
    return surface


class _Payment(NamedTuple):
    """What a call is authenticated and billed by."""

    credential: OwnCredential
    source: CredentialSource
    reason: str
    """Who pays, as a sentence."""


_NOTHING = _Payment(OwnCredential(NoCredential()), CredentialSource.NONE, "no credential is needed")


def _resolve(
    registry: Registry,
    target: Target,
    credentials: Sequence[ProviderCredential],
    caller: Caller,
    choose: Callable[[Provider, Mapping[str, str]], Surface[D]],
    *,
    generation: bool = False,
) -> Route[D]:
    """Decide where *target* goes, on the surface that *choose* picks of the provider's.

    What endpoints, virtual models and requests override is of generations alone.
    """
    keyring = Keyring.of(registry, credentials, target.credential_label)
    if target.custom_endpoint is not None:
        decision, payment = _to_endpoint(registry, target, target.custom_endpoint)
    else:
        model = clean_model(target.model)
        decision = decide(registry, target.provider, model, keyring, caller)
        payment = _payment(registry, decision, keyring)
    provider, native = decision.provider, decision.model
    credential = payment.credential.credential
    values = parameters(provider, credential, target.region)
    surface = at_address(provider, choose(provider, values), values)
    if payment.source is CredentialSource.PLATFORM:
        _check_operators_bill(target, native, surface)
    surface = _with_overrides(surface, native, target) if generation else overridden(surface, native.id)
    reasons = (*decision.reasons, payment.reason)
    if surface.routing:
        reasons = (*reasons, f"the routing preferences are passed on to {provider.id} as they are")
    return Route(
        provider=provider,
        surface=surface,
        requested_model=target.model if target.custom_endpoint is None else native.id,
        model=native.id,
        options_json=with_routing(provider, surface, target.options_json, surface.routing),
        credential=credential,
        credential_label=payment.credential.label,
        credential_source=payment.source,
        billing=Billing.PLATFORM if payment.source is CredentialSource.PLATFORM else Billing.BYOK,
        region=values.get("region", ""),
        reasons=reasons,
        excluded=decision.excluded,
    )


def _payment(registry: Registry, decision: Decision, keyring: Keyring) -> _Payment:
    """Return what a decision is paid by: the operator's key by a menu, the caller's own credential, or nothing."""
    provider = decision.provider
    if decision.menu:
        credential = OwnCredential(registry.operator.platform_keys[provider.id])
        reason = f"the request consents to the operator's key, the menu {decision.menu!r} allows it, the operator pays"
        return _Payment(credential, CredentialSource.PLATFORM, reason)
    brought = keyring.chosen(provider)
    if len(brought) > 1:
        message = f"several credentials came for {provider.id}; choose one by its label"
        raise InvalidRequest([Violation("target.credential_label", message)])
    return _own_payment(provider, brought[0], "credentials") if brought else _NOTHING


def _check_operators_bill(target: Target, native: NativeModel, surface: Surface[D]) -> None:
    """Refuse what could spend the operator's money on more than the model that a menu allows.

    Options can name other models, paid extras and objects in the operator's account; wishes can undo those by which the
    operator keeps to some hosts and prices.
    """
    if target.options_json.strip() not in ("", "{}"):
        raise _not_on_the_bill("options", "target.options_json")
    virtual = native.virtual.routing if native.virtual is not None else {}
    set_already = overridden(surface, native.id, routing=virtual).routing
    for name in sorted(target.routing.keys() & set_already.keys()):
        raise _not_on_the_bill("preferences that the operator has set", path_of(name, target.routing[name]))


def _not_on_the_bill(what: str, field: str) -> RequestError:
    """Return the refusal of what goes with keys of the caller's own only."""
    message = f"{what} cannot be chosen on the operator's bill; send a key of your own"
    return RequestError(Reason.PLATFORM_NOT_ALLOWED, message, field=field)


def _own_payment(provider: Provider, own: OwnCredential, field: str) -> _Payment:
    """Return what the caller's own credential pays for."""
    check_kind(provider, own.credential, field)
    if isinstance(own.credential, NoCredential):
        return _Payment(own, CredentialSource.NONE, _NOTHING.reason)
    return _Payment(own, CredentialSource.CALLER, "the caller's credential is used, and the caller pays")


def _to_endpoint(registry: Registry, target: Target, endpoint: CustomEndpoint) -> tuple[Decision, _Payment]:
    """Decide for an endpoint of the caller's own: no provider's credential and nobody else's bill has a part in it."""
    for name in ("provider", "model", "dialect", "region", "credential_label", "routing"):
        if getattr(target, name):
            raise InvalidRequest(
                [Violation(f"target.{name}", "belongs to providers; a custom endpoint says it itself")]
            )
    if not registry.operator.custom_endpoints:
        raise RequestError(Reason.DISABLED_BY_POLICY, "custom endpoints are switched off here", field=FIELD)
    if not registry.operator.byok and not isinstance(endpoint.credential, NoCredential):
        field = f"{FIELD}.credential"
        raise RequestError(Reason.DISABLED_BY_POLICY, "bringing your own key is switched off here", field=field)
    provider = provider_at(endpoint)
    if (off := registry.operator.disabled_at(provider.origin_host)) is not None:
        raise RequestError(Reason.DISABLED_BY_POLICY, f"{off.name} is switched off here", field=f"{FIELD}.base_url")
    model = clean_model(endpoint.model, f"{FIELD}.model")
    if not model:
        raise InvalidRequest([Violation(f"{FIELD}.model", "is required")])
    payment = _own_payment(provider, OwnCredential(endpoint.credential), f"{FIELD}.credential")
    native = NativeModel(model, "the model id goes through as it is")
    reasons = ("the request names an endpoint of its own", native.reason)
    return Decision(provider, native, "", reasons, ()), payment


def _spoken(provider: Provider, target: Target, values: Mapping[str, str]) -> Surface[Dialect]:
    """Choose the dialect."""
    name = target.dialect or provider.dialects[0].dialect.name
    surfaces = [surface for surface in provider.dialects if surface.dialect.name == name]
    if not surfaces:
        offered = sorted({surface.dialect.name for surface in provider.dialects})
        raise InvalidRequest([Violation("target.dialect", f"{provider.id} offers {', '.join(offered)}")])
    return placed(surfaces, values)


def _with_overrides(surface: Surface[D], native: NativeModel, target: Target) -> Surface[D]:
    """Return a surface as it is for this call."""
    virtual, endpoint = native.virtual, target.custom_endpoint
    if virtual is not None:
        try:
            overridden(surface, native.id, virtual.compatibility)
            with_routing(virtual.provider, surface, "", virtual.routing)
        except InvalidRequest:  # what the operator says fits its provider's first dialect, and the caller chose another
            rule = f"{virtual.name} is set up for another dialect"
            raise InvalidRequest([Violation("target.dialect", rule)]) from None
        routing = merged(virtual.routing, target.routing)
        return overridden(surface, native.id, virtual.compatibility, target.compatibility, routing=routing)
    between = endpoint.compatibility if endpoint is not None else {}
    return overridden(surface, native.id, between, target.compatibility, routing=target.routing)
