"""Who may call which method. What is not here nobody may: a new method without a policy fails a test."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["POLICIES", "Policy"]


class Policy(enum.Enum):
    """Who may call a method."""

    OPEN = enum.auto()
    """Everybody, always: load balancers and probes have no tokens."""
    AUTHENTICATED = enum.auto()
    """Who proved who they are, within their limits; everybody where the operator set up no way to prove it."""


_DISPATCH = (
    "Generate",
    "StreamGenerate",
    "Embed",
    "CountTokens",
    "ExplainRoute",
    "ValidateCredential",
    "ListProviderModels",
)
_REGISTRY = ("ListProviders", "GetProvider", "ListModels", "GetRegistryInfo")

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {f"/grpc.health.v1.Health/{name}": Policy.OPEN for name in ("Check", "Watch", "List")}
    | {f"/keyswitch.v1.DispatchService/{name}": Policy.AUTHENTICATED for name in _DISPATCH}
    | {f"/keyswitch.v1.RegistryService/{name}": Policy.AUTHENTICATED for name in _REGISTRY}
    | {
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": Policy.AUTHENTICATED
        for version in ("v1", "v1alpha")
    }
)
"""The policy of every method, by its full name as gRPC dispatches it; `:authority` and other headers do not matter."""
