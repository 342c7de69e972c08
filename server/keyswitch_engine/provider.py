"""Providers as the engine sees them, built from the files that describe them.

A provider has surfaces: the ways in which it can be spoken to, each with the address where that is done. What a file
may say, and what is checked of it alone, is here; the registry checks files against each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from keyswitch_engine.dialects import DIALECTS, TOKEN_COUNTERS
from keyswitch_engine.dialects.base import Dialect, Flags, Profile, TokenCounter
from keyswitch_engine.embeddings import EMBEDDINGS, EmbeddingDialect
from keyswitch_engine.error_rules import ErrorRule
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.model_listing import LISTINGS, ModelListing

__all__ = [
    "PARAMETERS",
    "SCHEMA_VERSION",
    "Auth",
    "Provider",
    "ProviderFile",
    "Speaks",
    "Surface",
    "SurfaceTable",
    "build_provider",
    "check_parameters",
    "host_of",
]

SCHEMA_VERSION = 1
"""Version of the form of provider files."""

PARAMETERS = frozenset({"region", "organization", "project", "resource", "api_version", "account_id", "gateway_id"})
"""What may stand in braces in a URL: the target's region, or the field of the credential with that name."""


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a provider file."""


class Auth(_Row, frozen=True):
    """How a provider wants to be authenticated."""

    style: Literal["bearer", "header", "none"] = "bearer"
    """`bearer`: `Authorization: Bearer`; `header`: the bare key in `header`; `none`: no credential at all."""
    header: str = ""
    scheme: str = "Bearer"
    """Word before the key in `Authorization`."""
    accepts: tuple[str, ...] = ("api_key", "bearer_token")
    """Kinds of credential, as the contract's `Credential` names its fields; `none` makes a credential optional."""
    organization_header: str = ""
    project_header: str = ""
    aws_service: str = "bedrock"
    """Name of the AWS service that requests are signed for."""
    token_url: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
    """Where Google hands out tokens. Never taken from a credential."""


class SurfaceTable(_Row, frozen=True):
    """A table of a provider file that says where and how something is spoken."""

    name: str
    path: str
    stream_path: str = ""
    base_url: str = ""
    """Where it is not the provider's."""
    needs: tuple[str, ...] = ()
    """Parameters without which this table does not apply; the first that applies is taken."""
    headers: dict[str, str] = {}
    compatibility: dict[str, Any] = {}


class ProviderFile(_Row, frozen=True):
    """A provider file as it is written; CONTRIBUTING.md describes the fields."""

    schema: int
    id: str
    name: str
    base_url: str
    dialects: tuple[SurfaceTable, ...]
    model_listing: SurfaceTable | None = None
    embeddings: SurfaceTable | None = None
    token_counting: SurfaceTable | None = None
    auth: Auth = Auth()
    aliases: tuple[str, ...] = ()
    vendor_token: str = ""
    default_model: str = ""
    small_model: str = ""
    models: tuple[str, ...] = ()
    matchers: tuple[str, ...] = ()
    strip_own_prefix: bool = False
    router: bool = False
    hosts_foreign_models: bool = False
    foreign_id_form: str = ""
    key_variables: tuple[str, ...] = ()
    key_pattern: str = ""
    headers: dict[str, str] = {}
    parameters: dict[str, str] = {}
    regional_base_urls: dict[str, str] = {}
    prices: str = ""
    errors: tuple[ErrorRule, ...] = ()
    doubtful: tuple[str, ...] = ()


def _tables(file: ProviderFile) -> list[SurfaceTable]:
    """Return every table of a file that has an address."""
    others = (file.model_listing, file.embeddings, file.token_counting)
    return [*file.dialects, *(table for table in others if table is not None)]


class Speaks(Protocol):
    """Something that speaks a surface: a dialect, or what reads embeddings, token counts or lists of models."""

    name: str
    flags: type[Flags]

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more. Header names are lower-case."""


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

    @property
    def origin_host(self) -> str:
        """Host of the base URL, lower-case, with its port where that is not the scheme's default."""
        return host_of(self.base_url)


class Provider(msgspec.Struct, frozen=True):
    """One provider; the fields are described in CONTRIBUTING.md."""

    id: str
    name: str
    base_url: str
    dialects: tuple[Surface[Dialect], ...]
    model_listing: Surface[ModelListing] | None
    embeddings: Surface[EmbeddingDialect] | None
    token_counting: Surface[TokenCounter] | None
    auth: Auth
    aliases: tuple[str, ...]
    vendor_token: str
    default_model: str
    small_model: str
    models: tuple[str, ...]
    matchers: tuple[re.Pattern[str], ...]
    strip_own_prefix: bool
    router: bool
    foreign_id_form: re.Pattern[str] | None
    """What a foreign id looks like, for routers and hosts of foreign ids; None for providers that are neither."""
    key_variables: tuple[str, ...]
    key_pattern: re.Pattern[str] | None
    parameters: Mapping[str, str]
    """Parameters of its URLs with their defaults; one without a default is empty and has to be given."""
    regional_base_urls: Mapping[str, str]
    """Base URLs of regions that have one of a form of its own."""
    prices: str
    """Id in the price table; empty if prices are unknown."""

    @property
    def origin_host(self) -> str:
        """Host of the first surface."""
        return self.dialects[0].origin_host


_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_RESERVED = frozenset({"platform"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def host_of(url: str) -> str:
    """Return a URL's host, lower-case, with its port where that is not the scheme's default."""
    parts = urlsplit(url)
    host = parts.netloc.lower()
    name, _, port = host.rpartition(":")
    return name if port.isdigit() and int(port) == _DEFAULT_PORTS.get(parts.scheme) else host


def build_provider(file: ProviderFile) -> Provider:
    """Check a file and build the provider.

    Raises:
        ValueError: something in it is wrong; the message says what.
    """
    if file.schema != SCHEMA_VERSION:
        raise ValueError(f"schema {file.schema} is not {SCHEMA_VERSION}, the only one known")
    for name in (file.id, *file.aliases):
        if not _ID.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"{name!r} cannot name a provider")
    if not file.dialects:
        raise ValueError("at least one [[dialects]] table is needed")
    if file.default_model and file.models and file.default_model not in file.models:
        raise ValueError(f"the default model {file.default_model!r} is not among the models listed")
    if file.auth.style == "header" and not file.auth.header:
        raise ValueError("auth.header is needed with style 'header'")
    if bool(file.foreign_id_form) != (file.router or file.hosts_foreign_models):
        raise ValueError("foreign_id_form belongs to routers and hosts of foreign models, and only to them")
    _check_urls(file)
    return Provider(
        id=file.id,
        name=file.name,
        base_url=file.base_url.rstrip("/"),
        dialects=tuple(_surface(file, table, DIALECTS) for table in file.dialects),
        model_listing=_surface(file, file.model_listing, LISTINGS) if file.model_listing is not None else None,
        embeddings=_surface(file, file.embeddings, EMBEDDINGS) if file.embeddings is not None else None,
        token_counting=_surface(file, file.token_counting, TOKEN_COUNTERS) if file.token_counting is not None else None,
        auth=file.auth,
        aliases=file.aliases,
        vendor_token=file.vendor_token,
        default_model=file.default_model,
        small_model=file.small_model,
        models=file.models,
        matchers=tuple(_pattern(matcher) for matcher in file.matchers),
        strip_own_prefix=file.strip_own_prefix,
        router=file.router,
        foreign_id_form=_pattern(file.foreign_id_form) if file.foreign_id_form else None,
        key_variables=file.key_variables,
        key_pattern=_pattern(file.key_pattern) if file.key_pattern else None,
        parameters=file.parameters,
        regional_base_urls=file.regional_base_urls,
        prices=file.prices,
    )


def _check_urls(file: ProviderFile) -> None:
    """Check every base URL."""
    for url in (file.base_url, *(table.base_url for table in _tables(file)), *file.regional_base_urls.values()):
        parts = urlsplit(_PLACEHOLDER.sub("x", url or file.base_url))
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"base_url {url!r} is no plain http or https URL")


def check_parameters(file: ProviderFile) -> None:
    """Check that what stands in braces in URLs and what the file calls a parameter are the same.

    Raises:
        ValueError: they are not.
    """
    unknown = sorted(file.parameters.keys() - PARAMETERS)
    if unknown:
        raise ValueError(f"parameter {unknown[0]!r} is not one of {', '.join(sorted(PARAMETERS))}")
    texts = [
        file.base_url,
        *(table.base_url + table.path + table.stream_path for table in _tables(file)),
        *file.regional_base_urls.values(),
    ]
    used = set(_PLACEHOLDER.findall(" ".join(texts))) - {"model"}
    for name in sorted(used ^ file.parameters.keys()):
        raise ValueError(f"parameter {name!r} has to be both in [parameters] and in a URL")
    for table in _tables(file):
        if missing := sorted(set(table.needs) - file.parameters.keys()):
            raise ValueError(f"{table.name}: needs {missing[0]!r}, which is no parameter")
    if file.regional_base_urls and "region" not in file.parameters:
        raise ValueError("regional_base_urls needs the parameter 'region'")


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern of a file."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error


def _surface(file: ProviderFile, table: SurfaceTable, known: Mapping[str, D]) -> Surface[D]:
    """Build a surface."""
    dialect = known.get(table.name)
    if dialect is None:
        raise ValueError(f"dialect {table.name!r} is not one of {', '.join(sorted(known))}")
    flags = msgspec.convert(table.compatibility, dialect.flags)
    base_url = (table.base_url or file.base_url).rstrip("/")
    profile = Profile(file.id, table.path, flags, table.stream_path, file.errors)
    return Surface(dialect, profile, base_url, file.headers | table.headers, table.needs)
