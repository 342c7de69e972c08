"""The registry service: what this server knows of providers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import grpc
from keyswitch.v1 import registry_service_pb2 as pb
from keyswitch.v1 import registry_service_pb2_grpc as pb_grpc
from keyswitch_bridge.negotiation import CAPABILITIES, MIN_CLIENT_VERSION
from keyswitch_bridge.requests import read_tenant, refuse_unknown
from keyswitch_bridge.routes import model_message, provider_message
from keyswitch_bridge.violations import Violations
from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.keyring import Keyring, find_provider
from keyswitch_engine.offers import offers
from keyswitch_engine.operator import Caller
from keyswitch_engine.provider_file import SCHEMA_VERSION
from keyswitch_engine.registry import Registry

from keyswitch_server.caller import current_caller

__all__ = ["RegistryService"]

Context = grpc.aio.ServicerContext[Any, Any]
_DEFAULT_PAGE, _MAX_PAGE = 100, 1000
_PROVIDER_ID = re.compile(r"[a-z0-9.-]+")
"""What a token begins with; the provider itself may be gone since the page before."""


class RegistryService(pb_grpc.RegistryServiceServicer):
    """Serves `keyswitch.v1.RegistryService`."""

    def __init__(self, registry: Callable[[], Registry], version: str) -> None:
        """Tell of what *registry* returns, the one in force, as a server of *version*."""
        self._registry = registry
        self._version = version

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Context) -> pb.ListProvidersResponse:
        """Return a page of providers."""
        refuse_unknown(request)
        _check_page_size(request.page_size)
        after = request.page_token
        providers = self._registry().providers
        if after and not _PROVIDER_ID.fullmatch(after):
            raise _bad_token()
        words = request.query.lower().split()
        matching = [
            provider
            for provider in providers.values()
            if provider.id > after and _has(words, provider.id, provider.name, *provider.aliases)
        ]
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

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Return a page of the models that are routable for a caller."""
        refuse_unknown(request)
        _check_page_size(request.page_size)
        found = Violations()
        caller = Caller(current_caller(), read_tenant(request.tenant, found))
        found.check()
        registry = self._registry()
        keyring = Keyring.naming(registry, request.keyed_providers, consent=request.allow_platform)
        providers = list(registry.providers.values())
        if name := request.provider.strip():
            providers = [find_provider(registry, name, field="provider")]
        after = request.page_token.partition("/")[::2]
        if request.page_token and not (_PROVIDER_ID.fullmatch(after[0]) and after[1]):
            raise _bad_token()
        words = request.query.lower().split()
        matching = (
            offer
            for offer in offers(registry, [row for row in providers if row.id >= after[0]], keyring, caller)
            if (offer.provider.id, offer.id) > after and _has(words, offer.id, offer.provider.id, offer.provider.name)
        )
        size = request.page_size or _DEFAULT_PAGE
        page = list(itertools.islice(matching, size + 1))
        last = page[size - 1] if len(page) > size else None
        return pb.ListModelsResponse(
            models=[model_message(offer) for offer in page[:size]],
            next_page_token=f"{last.provider.id}/{last.id}" if last is not None else "",
        )

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


def _check_page_size(size: int) -> None:
    """Refuse a page that is too large."""
    if size > _MAX_PAGE:
        raise InvalidRequest([Violation("page_size", f"at most {_MAX_PAGE}")])


def _bad_token() -> InvalidRequest:
    """Return the refusal of a token that no page was given with."""
    return InvalidRequest([Violation("page_token", "must be the next_page_token of the page before")])


def _has(words: list[str], *texts: str) -> bool:
    """Tell whether every word occurs in one of the texts."""
    text = " ".join(texts).lower()
    return all(word in text for word in words)
