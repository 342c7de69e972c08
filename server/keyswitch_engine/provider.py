"""Providers as the engine sees them.

A provider has surfaces: the ways in which it can be spoken to, each with the address where that is done. They are built
from the files that describe them; `provider_file` says what those may say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from keyswitch_engine.dialects.base import Dialect, Flags, Profile, TokenCounter
from keyswitch_engine.embeddings import EmbeddingDialect
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.model_listing import ModelListing
from keyswitch_engine.routing_preferences import Wishes

__all__ = ["Auth", "ModelOverride", "Provider", "Speaks", "Surface", "host_of", "origin_of"]


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a provider wants to be authenticated."""

    style: Literal["bearer", "header", "none"] = "bearer"
    """`bearer`: `Authorization: Bearer`; `header`: the bare key in `header`; `none`: no credential at all."""
    header: str = ""
    scheme: str = "Bearer"
    """Word before the key in `Authorization`."""
    accepts: tuple[Literal["api_key", "bearer_token", "aws", "google", "azure", "cloudflare", "none"], ...] = (
        "api_key",
        "bearer_token",
    )
    """Kinds of credential, as the contract's `Credential` names its fields; `none` makes a credential optional."""
    organization_header: str = ""
    project_header: str = ""
    aws_service: str = "bedrock"
    """Name of the AWS service that requests are signed for."""
    token_url: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
    """Where Google hands out tokens. Never taken from a credential."""


class Speaks(Protocol):
    """Something that speaks a surface: a dialect, or what reads embeddings, token counts or lists of models."""

    name: str
    flags: type[Flags]

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more. Header names are lower-case."""


class ModelOverride(msgspec.Struct, frozen=True):
    """What is different for the models whose native ids a pattern fits."""

    pattern: re.Pattern[str]
    compatibility: Mapping[str, Any]
    routing: Wishes


D = TypeVar("D", bound=Speaks, covariant=True)  # noqa: PLC0105 - it is one letter in every signature that has it


class Surface(msgspec.Struct, Generic[D], frozen=True):
    """One way of speaking to one provider, and where."""

    dialect: D
    profile: Profile
    base_url: str
    """May hold parameters in braces until a route fills them."""
    headers: dict[str, str]
    """Constant request headers."""
    needs: tuple[str, ...] = ()
    key_header: str = ""
    """Header that takes the place of `Authorization`; empty if none does."""
    routing_preferences: str = ""
    """Form in which wishes about the hosts behind a router are sent; empty where there are none."""
    routing: Wishes = {}
    """Wishes that every call begins with."""
    model_overrides: tuple[ModelOverride, ...] = ()

    @property
    def origin_host(self) -> str:
        """Host of the base URL, lower-case, with its port where that is not the scheme's default."""
        return host_of(self.base_url)

    @property
    def origin(self) -> str:
        """Scheme and host of the base URL: where the call's key goes."""
        return origin_of(self.base_url)


class Provider(msgspec.Struct, frozen=True):
    """One provider; the fields are described in CONTRIBUTING.md."""

    id: str
    name: str
    base_url: str
    dialects: tuple[Surface[Dialect], ...]
    auth: Auth
    model_listing: Surface[ModelListing] | None = None
    embeddings: Surface[EmbeddingDialect] | None = None
    token_counting: Surface[TokenCounter] | None = None
    aliases: tuple[str, ...] = ()
    vendor_token: str = ""
    default_model: str = ""
    small_model: str = ""
    models: tuple[str, ...] = ()
    matchers: tuple[re.Pattern[str], ...] = ()
    strip_own_prefix: bool = False
    router: bool = False
    foreign_id_form: re.Pattern[str] | None = None
    """What a foreign id looks like, for routers and hosts of foreign ids; None for providers that are neither."""
    key_variables: tuple[str, ...] = ()
    key_pattern: re.Pattern[str] | None = None
    parameters: Mapping[str, str] = {}
    """Parameters of its URLs with their defaults; one without a default is empty and has to be given."""
    regional_base_urls: Mapping[str, str] = {}
    """Base URLs of regions that have one of a form of its own."""
    prices: str = ""
    """Id in the price table; empty if prices are unknown."""

    @property
    def origin_host(self) -> str:
        """Host of the first surface."""
        return self.dialects[0].origin_host

    @property
    def hosts(self) -> frozenset[str]:
        """Every host that it is called at; parameters are in braces."""
        others = (self.model_listing, self.embeddings, self.token_counting)
        surfaces = (*self.dialects, *(surface for surface in others if surface is not None))
        return frozenset(map(host_of, (*(surface.base_url for surface in surfaces), *self.regional_base_urls.values())))


_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_of(url: str) -> str:
    """Return a URL's host, lower-case, with its port where that is not the scheme's default."""
    parts = urlsplit(url)
    host = parts.netloc.lower()
    name, _, port = host.rpartition(":")
    return name if port.isdigit() and int(port) == _DEFAULT_PORTS.get(parts.scheme) else host


def origin_of(url: str) -> str:
    """Return a URL's scheme and host as one text, the same for all URLs of one origin."""
    return f"{urlsplit(url).scheme}://{host_of(url)}"
