"""Which clients and servers understand each other: versions of the client library, and capabilities by name.

A server refuses request fields and rpcs that it does not know by itself. What is left to agree on beforehand is which
clients it still understands, and what a client may count on.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType

from keyswitch_engine.errors import DispatchError, Reason

__all__ = ["CAPABILITIES", "MIN_CLIENT_VERSION", "is_older", "refuse_old_client"]

MIN_CLIENT_VERSION = "0.1.0"
"""Oldest client library that is understood fully."""

CAPABILITIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attempts": ("GenerateRequest.fallbacks", "Limits.hedge_after", "Limits.max_attempts"),
        "cache-hints": ("Part.cache_hint", "Tool.cache_hint"),
        "cloud-credentials": ("Credential.aws", "Credential.azure", "Credential.cloudflare", "Credential.google"),
        "count-tokens": ("DispatchService.CountTokens",),
        "custom-endpoints": ("Target.custom_endpoint", "CustomEndpoint.compatibility"),
        "embed": ("DispatchService.Embed",),
        "explain-body": ("ExplainRouteRequest.include_body",),
        "list-models": ("RegistryService.ListModels",),
        "list-provider-models": ("DispatchService.ListProviderModels",),
        "opaque-items": ("Part.opaque",),
        "platform-keys": ("Credential.platform",),
        "provider-tools": ("Tool.provider_tool",),
        "reasoning-text": ("Reasoning.include_text",),
        "refused-origins": (),
        "regions": ("Target.region",),
        "routing-preference-tables": (
            "MaxPrice.audio",
            "Percentiles.p50",
            "Percentiles.p75",
            "Percentiles.p90",
            "Percentiles.p99",
            "RoutingPreferences.preferred_max_latency_by",
            "RoutingPreferences.preferred_min_throughput_by",
            "RoutingPreferences.sort_by",
            "RoutingSort.by",
            "RoutingSort.partition",
        ),
        "routing-preferences": ("Target.routing",),
        "tenants": ("GenerateRequest.tenant",),
        "validate-credential": ("DispatchService.ValidateCredential",),
    }
)
"""What this server can do beside the first one, sorted by name, each with the rpcs and request fields that it means.

The commit that builds something adds its line, without any where nothing of the contract is meant.
"""

_REMEMBERED = 64
"""User agents, of which few come, and come again with every call."""
_CLIENT = re.compile(r"(?:^|\s)keyswitch-python/([0-9][0-9A-Za-z.+-]{0,63})")
_RELEASE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")


def is_older(version: str, minimum: str) -> bool:
    """Tell whether a version is older than another, by the numbers that they begin with.

    Trailing zeros count for nothing, nor does what follows the numbers, like `rc1`; without numbers nothing is older.
    """
    given, needed = _release(version), _release(minimum)
    return given is not None and needed is not None and given < needed


@functools.lru_cache(_REMEMBERED)
def _too_old(user_agent: str) -> str:
    """Return the version of our client library that a user agent names, if it is too old; empty if it is not."""
    client = _CLIENT.search(user_agent)
    return client[1] if client is not None and is_older(client[1], MIN_CLIENT_VERSION) else ""


def refuse_old_client(user_agent: str) -> None:
    """Refuse a client library of ours that is too old to be understood; others do not say what they know.

    Raises:
        DispatchError: it is; the reason is `CLIENT_TOO_OLD`.
    """
    if too_old := _too_old(user_agent):
        raise DispatchError(
            Reason.CLIENT_TOO_OLD,
            f"the client library is version {too_old}, this server needs {MIN_CLIENT_VERSION} or newer: "
            "upgrade the client's package keyswitch",
        )


def _release(version: str) -> list[int] | None:
    """Return the numbers that a version begins with, without trailing zeros; None if there are none."""
    found = _RELEASE.match(version)
    if found is None:
        return None
    numbers = [int(number) for number in found[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
