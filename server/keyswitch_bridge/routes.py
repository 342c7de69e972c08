"""Routes and rows of the registry as messages of the contract."""

from __future__ import annotations

import msgspec
from keyswitch.v1 import dispatch_service_pb2, registry_service_pb2
from keyswitch_engine.dialects.base import Dialect
from keyswitch_engine.dispatch import write_request
from keyswitch_engine.key_shapes import key_warnings
from keyswitch_engine.offers import Offer
from keyswitch_engine.operator import ANONYMOUS, Caller
from keyswitch_engine.outline import outlined, outlined_options
from keyswitch_engine.plan import for_each, plan_routes
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve

from keyswitch_bridge.receipts import BILLINGS, SOURCES
from keyswitch_bridge.requests import ExplainCall

__all__ = ["explain_message", "model_message", "provider_message"]


def explain_message(
    registry: Registry, call: ExplainCall, caller: str = ANONYMOUS
) -> dispatch_service_pb2.ExplainRouteResponse:
    """Decide the routes of target and fallbacks for a *caller* and turn the decisions into their messages, in order.

    Raises:
        RequestError: one of them goes nowhere, or the body for it cannot be written.
    """

    def decided(target: Target) -> Route[Dialect]:
        return resolve(registry, target, call.credentials, Caller(caller, call.tenant))

    def explained(decision: tuple[Target, Route[Dialect]]) -> dispatch_service_pb2.Route:
        target, route = decision
        message = _route(route)
        message.warnings.extend(key_warnings(registry, route))
        if call.include_body:
            write_request(route, call.generation, stream=True)  # what cannot be written cannot be shown
            hidden = msgspec.structs.replace(target, options_json=outlined_options(target.options_json))
            body = write_request(decided(hidden), outlined(call.generation), stream=True).body
            message.body_json = body.decode()
        return message

    targets = (call.target, *call.fallbacks)
    routes = plan_routes(targets, decided)
    return dispatch_service_pb2.ExplainRouteResponse(routes=for_each(zip(targets, routes, strict=True), explained))


def _route(route: Route[Dialect]) -> dispatch_service_pb2.Route:
    """Turn a decision into its message."""
    return dispatch_service_pb2.Route(
        provider=route.provider.id,
        requested_model=route.requested_model,
        resolved_model=route.model,
        dialect=route.surface.dialect.name,
        origin_host=route.surface.origin_host,
        credential_source=SOURCES[route.credential_source],
        credential_label=route.credential_label,
        billing=BILLINGS[route.billing],
        reasons=route.reasons,
        excluded=[
            dispatch_service_pb2.ExcludedCandidate(provider=candidate.provider, reason=candidate.reason)
            for candidate in route.excluded
        ],
        compatibility=_flags(route.surface.profile.flags),
    )


def provider_message(provider: Provider) -> registry_service_pb2.Provider:
    """Turn a row of the registry into its message."""
    return registry_service_pb2.Provider(
        id=provider.id,
        display_name=provider.name,
        aliases=provider.aliases,
        dialects=list(dict.fromkeys(surface.dialect.name for surface in provider.dialects)),
        origin_host=provider.origin_host,
        default_model=provider.default_model,
        small_model=provider.small_model,
        models=provider.models,
        vendor_token=provider.vendor_token,
        router=provider.router,
        hosts_foreign_models=provider.foreign_id_form is not None and not provider.router,
        credential_kinds=provider.auth.accepts,
        key_variables=provider.key_variables,
        key_pattern=provider.key_pattern.pattern if provider.key_pattern else "",
        compatibility=_flags(provider.dialects[0].profile.flags),
    )


def model_message(offer: Offer) -> registry_service_pb2.Model:
    """Turn a model on offer into its message."""
    return registry_service_pb2.Model(
        id=offer.id, provider=offer.provider.id, resolved_model=offer.model, billing=BILLINGS[offer.billing]
    )


def _flags(flags: msgspec.Struct) -> dict[str, str]:
    """Show compatibility flags as words."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in msgspec.to_builtins(flags).items()
    }
