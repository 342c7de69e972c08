"""The registry service: what this server knows of providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from keyswitch.v1 import registry_service_pb2 as pb
from keyswitch.v1 import registry_service_pb2_grpc as pb_grpc
from keyswitch_bridge.negotiation import CAPABILITIES, MIN_CLIENT_VERSION
from keyswitch_bridge.requests import refuse_unknown
from keyswitch_bridge.routes import provider_message
from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.provider import SCHEMA_VERSION, Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.routing import find_provider

__all__ = ["RegistryService"]

Context = grpc.aio.ServicerContext[Any, Any]
_DEFAULT_PAGE, _MAX_PAGE = 100, 1000


class RegistryService(pb_grpc.RegistryServiceServicer):
    """Serves `keyswitch.v1.RegistryService`."""

    def __init__(self, registry: Callable[[], Registry], version: str) -> None:
        """Tell of what *registry* returns, the one in force, as a server of *version*."""
        self._registry = registry
        self._version = version

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Context) -> pb.ListProvidersResponse:
        """Return a page of providers."""
        refuse_unknown(request)
        if request.page_size > _MAX_PAGE:
            raise InvalidRequest([Violation("page_size", f"at most {_MAX_PAGE}")])
        after = request.page_token
        providers = self._registry().providers
        if after and after not in providers:
            raise InvalidRequest([Violation("page_token", "must be the next_page_token of the page before")])
        words = request.query.lower().split()
        matching = [provider for provider in providers.values() if provider.id > after and _matches(provider, words)]
        page = matching[: request.page_size or _DEFAULT_PAGE]
        return pb.ListProvidersResponse(
            providers=[provider_message(provider) for provider in page],
            next_page_token=page[-1].id if len(page) < len(matching) else "",
        )

    async def GetProvider(self, request: pb.GetProviderRequest, context: Context) -> pb.GetProviderResponse:
        """Return one provider."""
        refuse_unknown(request)
        name = request.provider.strip()
        if not name:
            raise InvalidRequest([Violation("provider", "is required")])
        provider = find_provider(self._registry(), name, field="provider")
        return pb.GetProviderResponse(provider=provider_message(provider))

    async def GetRegistryInfo(self, request: pb.GetRegistryInfoRequest, context: Context) -> pb.GetRegistryInfoResponse:
        """Return the registry's identity."""
        refuse_unknown(request)
        registry = self._registry()
        return pb.GetRegistryInfoResponse(
            schema_version=SCHEMA_VERSION,
            fingerprint=registry.fingerprint,
            server_version=self._version,
            capabilities=CAPABILITIES,
            min_client_version=MIN_CLIENT_VERSION,
            provider_count=len(registry.providers),
        )


def _matches(provider: Provider, words: list[str]) -> bool:
    """Tell whether every word occurs in a provider's id, name or aliases."""
    text = " ".join((provider.id, provider.name, *provider.aliases)).lower()
    return all(word in text for word in words)
