"""From a request to a provider: a pure function of request and registry.

Dispatch, `ExplainRoute` and the command line call the same `resolve`, so that what is explained can never disagree with
what is done. The order of a map or a command line never decides anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

import msgspec

from keyswitch_engine.address import at_address, parameters, placed
from keyswitch_engine.claims import Claim, Rank, folded
from keyswitch_engine.credential import ApiKey, Credential, NoCredential, ProviderCredential, kind_of
from keyswitch_engine.dialects.base import Dialect, TokenCounter
from keyswitch_engine.embeddings import EmbeddingDialect
from keyswitch_engine.errors import InvalidRequest, Reason, RequestError, Unavailable, Violation
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.model_listing import ModelListing
from keyswitch_engine.provider import D, Provider, Surface
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import ExcludedCandidate, Route, Target
from keyswitch_engine.routing_preferences import with_wishes

__all__ = ["find_provider", "resolve", "resolve_embeddings", "resolve_model_listing", "resolve_token_counting"]


def resolve(registry: Registry, target: Target, credentials: Sequence[ProviderCredential]) -> Route[Dialect]:
    """Decide where a generation for *target* goes.

    Raises:
        RequestError: it goes nowhere; the reason is one of the contract's for routing.
    """
    return _resolve(registry, target, credentials, lambda provider, values: _surface(provider, target, values))


def resolve_embeddings(
    registry: Registry, target: Target, credentials: Sequence[ProviderCredential]
) -> Route[EmbeddingDialect]:
    """Decide where embeddings for *target* come from. No provider has a default model for them.

    Raises:
        RequestError: from nowhere.
    """
    _refuse_generation_choices(target)
    if not _clean_model(target.model):
        raise RequestError(Reason.MODEL_REQUIRED, "name the embedding model", field="target.model")
    return _resolve(registry, target, credentials, lambda row, _: _offered(row, row.embeddings, "embeddings"))


def resolve_token_counting(
    registry: Registry, target: Target, credentials: Sequence[ProviderCredential]
) -> Route[TokenCounter]:
    """Decide who counts the tokens of a conversation with *target*.

    Raises:
        RequestError: nobody does.
    """
    _refuse_generation_choices(target, "options_json")
    return _resolve(registry, target, credentials, lambda row, _: _offered(row, row.token_counting, "token counting"))


def resolve_model_listing(
    registry: Registry, target: Target, credential: ProviderCredential | None
) -> Route[ModelListing]:
    """Decide where a provider's list of models comes from.

    Raises:
        RequestError: from nowhere.
    """
    any_model = msgspec.structs.replace(target, model="-")  # the rules for models have no say here
    credentials = (credential,) if credential is not None else ()
    return _resolve(registry, any_model, credentials, lambda row, _: _offered(row, row.model_listing, "list of models"))


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


def _resolve(
    registry: Registry,
    target: Target,
    credentials: Sequence[ProviderCredential],
    choose: Callable[[Provider, Mapping[str, str]], Surface[D]],
) -> Route[D]:
    """Decide where *target* goes, on the surface that *choose* picks of the provider's."""
    keys = _by_provider(registry, credentials)
    model = _clean_model(target.model)
    excluded: tuple[ExcludedCandidate, ...] = ()
    if target.provider:
        provider = find_provider(registry, target.provider)
        reasons = [f"the request names the provider {provider.id}"]
    elif model:
        provider, reason, excluded = _from_model(registry, model, keys)
        reasons = [reason]
    else:
        provider = _from_single_key(registry, keys)
        reasons = [f"the only key that came is for {provider.id}"]
    native, model_reason = _native_model(provider, model)
    reasons.append(model_reason)
    credential = _credential(provider, keys.get(provider.id, ()), target.credential_label)
    none = isinstance(credential.credential, NoCredential)
    reasons.append("no credential is needed" if none else "the caller's credential is used, and the caller pays")
    values = parameters(provider, credential.credential, target.region)
    surface = at_address(provider, choose(provider, values), values)
    if target.routing:
        reasons.append(f"the routing preferences are passed on to {provider.id} as they are")
    return Route(
        provider=provider,
        surface=surface,
        requested_model=target.model,
        model=native,
        options_json=_options(provider, surface, target),
        credential=credential.credential,
        credential_label=credential.label,
        credential_source=CredentialSource.NONE if none else CredentialSource.CALLER,
        billing=Billing.BYOK,
        region=values.get("region", ""),
        reasons=tuple(reasons),
        excluded=excluded,
    )


def find_provider(registry: Registry, name: str, *, field: str = "target.provider") -> Provider:
    """Return the provider of that name.

    Raises:
        RequestError: there is none; the message lists all, sorted, and suggests the nearest.
    """
    provider = registry.find(name)
    if provider is not None:
        return provider
    near = difflib.get_close_matches(folded(name), registry.names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RequestError(
        Reason.UNKNOWN_PROVIDER, f"unknown provider; known are {', '.join(registry.providers)}{hint}", field=field
    )


def _by_provider(
    registry: Registry, credentials: Sequence[ProviderCredential]
) -> dict[str, tuple[ProviderCredential, ...]]:
    """Sort credentials by the provider that they belong to; a provider may come twice only with distinct labels."""
    keys: dict[str, tuple[ProviderCredential, ...]] = {}
    for number, credential in enumerate(credentials):
        provider = find_provider(registry, credential.provider, field=f"credentials[{number}].provider")
        others = keys.get(provider.id, ())
        if any(other.label == credential.label for other in others):
            what = "label" if credential.label else "provider, without a label,"
            raise InvalidRequest(
                [Violation(f"credentials[{number}]", f"a credential for {provider.id} with this {what} came already")]
            )
        keys[provider.id] = (*others, credential)
    return keys


_MAX_MODEL = 256


def _clean_model(model: str) -> str:
    """Trim a model id and refuse what no id holds."""
    model = model.strip()
    if len(model) > _MAX_MODEL:
        _bad_model(f"at most {_MAX_MODEL} characters")
    if not model.isprintable():  # by Unicode's categories, which know every character of the kind
        _bad_model("visible characters only: no control, zero-width, bidirectional or private ones, no space but ' '")
    if any(segment in (".", "..") for segment in model.split("/")):
        _bad_model("no '.' or '..' as a path segment")
    return model


def _bad_model(rule: str) -> NoReturn:
    raise InvalidRequest([Violation("target.model", rule)])


def _from_model(
    registry: Registry, model: str, keys: dict[str, tuple[ProviderCredential, ...]]
) -> tuple[Provider, str, tuple[ExcludedCandidate, ...]]:
    """Derive the provider from a model id: keyed ones only, if any is keyed; then by rank."""
    candidates = _candidates(registry, model, keys)
    if not candidates:
        raise RequestError(
            Reason.UNROUTABLE_MODEL, "no provider owns this model; name the provider too", field="target.model"
        )
    keyed = [claim for claim in candidates if claim.provider.id in keys]
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
        ExcludedCandidate(
            provider.id, "no key came for it" if keyed and provider.id not in keys else f"only {rank.words}"
        )
        for provider, rank in sorted(candidates, key=lambda candidate: candidate[0].id)
        if provider is not winner
    )
    if not keyed and not _needs_no_key(winner):
        raise _missing(winner, _routers_for(registry, model))
    return winner, f"the model leads to {winner.id}, which {best.words}", excluded


def _candidates(registry: Registry, model: str, keys: dict[str, tuple[ProviderCredential, ...]]) -> tuple[Claim, ...]:
    """Return every provider that could serve a model, with its claim."""
    claims = registry.claims.on(model)
    claiming = {claim.provider.id for claim in claims}
    keyed = (registry.providers[id_] for id_ in keys if id_ not in claiming)
    takers = (row for row in keyed if row.foreign_id_form is not None and row.foreign_id_form.search(model))
    return (*claims, *(Claim(row, Rank.FOREIGN) for row in takers))


def _routers_for(registry: Registry, model: str) -> list[str]:
    """Return the routers that take a model's id."""
    return [
        provider.id
        for provider in registry.providers.values()
        if provider.router and provider.foreign_id_form and provider.foreign_id_form.search(model)
    ]


def _from_single_key(registry: Registry, keys: dict[str, tuple[ProviderCredential, ...]]) -> Provider:
    """Return the provider of the only key."""
    if len(keys) == 1:
        return registry.providers[next(iter(keys))]
    came = f"keys came for {', '.join(sorted(keys))}" if keys else "no key came either"
    raise RequestError(
        Reason.PROVIDER_REQUIRED, f"neither provider nor model is given, and {came}", field="target.provider"
    )


def _native_model(provider: Provider, model: str) -> tuple[str, str]:
    """Return the model id as the provider knows it, and why."""
    if not model:
        if provider.default_model:
            return provider.default_model, f"{provider.default_model} is the default model of {provider.id}"
        raise RequestError(
            Reason.MODEL_REQUIRED, f"{provider.name} has no default model; name one", field="target.model"
        )
    if provider.strip_own_prefix and model not in provider.models:
        for separator in "/:":
            token, found, rest = model.partition(separator)
            if found and rest and folded(token) == provider.vendor_token and (not provider.router or "/" in rest):
                return _clean_model(rest), f"the prefix {token}{separator} is {provider.id}'s own and was dropped"
    return model, "the model id goes through as it is"


def _needs_no_key(provider: Provider) -> bool:
    """Tell whether a provider can be called without a credential."""
    return provider.auth.style == "none" or "none" in provider.auth.accepts


def _missing(provider: Provider, routers: Iterable[str] = ()) -> RequestError:
    """Say which key is missing, and which router's key would do."""
    also = ", ".join(router for router in routers if router != provider.id)
    error = RequestError(
        Reason.MISSING_CREDENTIAL,
        f"no key for {provider.name} came; send one for {provider.id!r}" + (f" (or for {also})" if also else ""),
        field="credentials",
    )
    error.provider = provider.id
    return error


def _credential(provider: Provider, brought: tuple[ProviderCredential, ...], label: str) -> ProviderCredential:
    """Choose the credential for a provider by its label."""
    if label:
        labelled = tuple(credential for credential in brought if credential.label == label)
        if brought and not labelled:
            error = _missing(provider)
            error.message = f"no credential that came for {provider.id} has the label that is asked for"
            raise error
        brought = labelled
    elif len(brought) > 1:
        raise InvalidRequest(
            [
                Violation(
                    "target.credential_label", f"several credentials came for {provider.id}; choose one by its label"
                )
            ]
        )
    if not brought:
        if _needs_no_key(provider) and not label:
            return ProviderCredential(provider.id, NoCredential())
        raise _missing(provider)
    kind = kind_of(brought[0].credential)
    accepts = ("none",) if provider.auth.style == "none" else provider.auth.accepts
    if kind not in accepts:
        raise InvalidRequest([Violation("credentials", f"{provider.id} takes {' or '.join(accepts)}, not {kind}")])
    _check_billed(provider, brought[0].credential)
    return brought[0]


def _check_billed(provider: Provider, credential: Credential) -> None:
    """Refuse an organization or a project to bill where the provider cannot be told of it."""
    if isinstance(credential, ApiKey):
        for name, header in (
            ("organization", provider.auth.organization_header),
            ("project", provider.auth.project_header),
        ):
            if getattr(credential, name) and not header and name not in provider.parameters:
                raise InvalidRequest([Violation("credentials", f"{provider.id} takes no {name}")])


def _options(provider: Provider, surface: Surface[D], target: Target) -> str:
    """Return what is merged into the body last: the caller's options, and what it wishes of a router."""
    if not target.routing:
        return target.options_json
    if not surface.routing_preferences:
        raise Unavailable(
            Reason.UNSUPPORTED_FEATURE, f"{provider.name} is no router that takes preferences", field="target.routing"
        )
    return with_wishes(target.options_json, surface.routing_preferences, target.routing)


def _surface(provider: Provider, target: Target, values: Mapping[str, str]) -> Surface[Dialect]:
    """Choose the dialect, with the request's overrides of its flags."""
    name = target.dialect or provider.dialects[0].dialect.name
    surfaces = [surface for surface in provider.dialects if surface.dialect.name == name]
    if not surfaces:
        offered = sorted({surface.dialect.name for surface in provider.dialects})
        raise InvalidRequest([Violation("target.dialect", f"{provider.id} offers {', '.join(offered)}")])
    row = placed(surfaces, values)
    if not target.compatibility:
        return row
    flags = msgspec.to_builtins(row.profile.flags) | target.compatibility
    try:
        overridden = msgspec.convert(flags, row.dialect.flags)
    except msgspec.ValidationError as error:
        flag = str(error).rpartition("$.")[2].rstrip("`") or "one of them"  # the rest quotes the value
        message = f"{flag}: no flag, or no value of it, that {name} has"
        raise InvalidRequest([Violation("target.compatibility", message)]) from error
    return msgspec.structs.replace(row, profile=msgspec.structs.replace(row.profile, flags=overridden))
