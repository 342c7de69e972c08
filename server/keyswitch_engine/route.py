"""A routing decision: where a call goes, on whose key and bill, and why."""

from __future__ import annotations

from typing import Generic

import msgspec

from keyswitch_engine.credential import Credential, NoCredential
from keyswitch_engine.custom_endpoint import CustomEndpoint
from keyswitch_engine.decision import ExcludedCandidate
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.provider import D, Provider, Surface
from keyswitch_engine.routing_preferences import Wishes

__all__ = ["Route", "Target"]


class Target(msgspec.Struct, frozen=True):
    """Where a call should go, as the caller wishes it; every part may be empty."""

    provider: str = ""
    model: str = ""
    dialect: str = ""
    region: str = ""
    credential_label: str = ""
    options_json: str = ""
    compatibility: dict[str, str | bool] = {}
    """Flags that override the row's, by name."""
    routing: Wishes = {}
    """How a router should choose among the hosts of a model."""
    custom_endpoint: CustomEndpoint | None = None
    """An endpoint of the caller's own, instead of provider and model."""


class Route(msgspec.Struct, Generic[D], frozen=True):
    """A decision; everything that dispatch needs to know of the provider."""

    provider: Provider
    surface: Surface[D]
    """The wire protocol as this provider speaks it, and where; compatibility overrides applied."""
    requested_model: str
    model: str
    """Native id, as sent to the provider."""
    options_json: str
    credential: Credential = NoCredential()
    credential_label: str = ""
    credential_source: CredentialSource = CredentialSource.NONE
    billing: Billing = Billing.BYOK
    region: str = ""
    """Region of the provider's that is called; empty where it has none."""
    reasons: tuple[str, ...] = ()
    """The rules that applied, in order, as sentences."""
    excluded: tuple[ExcludedCandidate, ...] = ()
