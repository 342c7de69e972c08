"""Where a request would call, for whoever has to decide beforehand whether that is theirs to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_engine.credential import ProviderCredential
from keyswitch_engine.custom_endpoint import PROVIDER_ID
from keyswitch_engine.keyring import find_provider
from keyswitch_engine.operator import Caller
from keyswitch_engine.plan import plan_routes
from keyswitch_engine.provider import origin_of
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing, resolve_token_counting

from keyswitch_bridge.operations import read_count_tokens, read_embed, read_list_models, read_validate_credential
from keyswitch_bridge.requests import read_explain, read_generate

__all__ = ["DispatchRequest", "Origin", "origins"]

DispatchRequest: TypeAlias = (
    pb.GenerateRequest
    | pb.StreamGenerateRequest
    | pb.ExplainRouteRequest
    | pb.EmbedRequest
    | pb.CountTokensRequest
    | pb.ListProviderModelsRequest
    | pb.ValidateCredentialRequest
)
"""A request to the dispatch service."""

_Resolve: TypeAlias = Callable[[Registry, Target, Sequence[ProviderCredential], Caller], Route[Any]]


class Origin(NamedTuple):
    """One place that a request would call."""

    base_url: str
    custom: bool
    """Whether the request itself has brought it, instead of a row."""

    def __str__(self) -> str:
        """Return scheme and host, as errors have them."""
        return origin_of(self.base_url)


def origins(registry: Registry, request: DispatchRequest) -> tuple[Origin, ...]:
    """Return the places that a request would call: its target's, then those of its fallbacks.

    Raises:
        DispatchError: it is not good, or goes nowhere.
    """
    asked: Any
    choose: _Resolve
    match request:
        case pb.GenerateRequest() | pb.StreamGenerateRequest():
            asked, choose = read_generate(request), resolve
        case pb.ExplainRouteRequest():
            asked, choose = read_explain(request), resolve
        case pb.EmbedRequest():
            asked, choose = read_embed(request), resolve_embeddings
        case pb.CountTokensRequest():
            asked, choose = read_count_tokens(request), resolve_token_counting
        case pb.ListProviderModelsRequest():
            listing = read_list_models(request)
            return (_origin(resolve_model_listing(registry, listing.target, listing.credential)),)
        case pb.ValidateCredentialRequest():
            name = read_validate_credential(request).credential.provider
            provider = find_provider(registry, name, field="credential.provider")
            return (Origin(provider.base_url, custom=False),)
    caller = Caller(tenant=asked.tenant)
    routes = plan_routes(
        (asked.target, *asked.fallbacks), lambda target: choose(registry, target, asked.credentials, caller)
    )
    return tuple(map(_origin, routes))


def _origin(route: Route[Any]) -> Origin:
    """Return where a route leads."""
    return Origin(route.surface.base_url, custom=route.provider.id == PROVIDER_ID)
