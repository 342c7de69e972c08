"""The registry: what is known of each provider, loaded from one TOML file each.

Loading is strict and fails closed: an unknown key, a bad pattern, a name claimed twice or a wrong schema version raises
`RegistryError` naming the file, since a row that is read half could send a key to the wrong place.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Dialect, Profile
from keyswitch_engine.error_rules import ErrorRule

__all__ = ["SCHEMA_VERSION", "Auth", "DialectRow", "Provider", "Registry", "RegistryError", "load"]

SCHEMA_VERSION = 1
"""Version of the form of provider rows."""


class RegistryError(Exception):
    """A provider file is invalid; the message names the file, and where possible the key."""


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a provider file."""


class Auth(_Row, frozen=True):
    """How a provider wants to be authenticated."""

    style: Literal["bearer", "header", "none"] = "bearer"
    """`bearer`: `Authorization: Bearer`; `header`: the bare key in `header`; `none`: no credential at all."""
    header: str = ""
    accepts: tuple[str, ...] = ("api_key", "bearer_token")
    """Kinds of credential, as the contract's `Credential` names its fields; `none` makes a credential optional."""
    organization_header: str = ""
    project_header: str = ""


class _DialectTable(_Row, frozen=True):
    """One `[[dialects]]` table of a provider file."""

    name: str
    path: str
    stream_path: str = ""
    compatibility: dict[str, Any] = {}


class _ProviderFile(_Row, frozen=True):
    """A provider file as it is written."""

    schema: int
    id: str
    name: str
    base_url: str
    dialects: tuple[_DialectTable, ...]
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
    models_path: str = ""
    headers: dict[str, str] = {}
    errors: tuple[ErrorRule, ...] = ()
    doubtful: tuple[str, ...] = ()


class DialectRow(msgspec.Struct, frozen=True):
    """A wire protocol as one provider speaks it."""

    dialect: Dialect
    profile: Profile


class Provider(msgspec.Struct, frozen=True):
    """One provider; the fields are described in CONTRIBUTING.md."""

    id: str
    name: str
    base_url: str
    origin_host: str
    """Host of the base URL, lower-case, with its port where that is not the scheme's default."""
    dialects: tuple[DialectRow, ...]
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
    models_path: str
    headers: dict[str, str]
    """Constant request headers."""


class Registry:
    """Every provider, by id; immutable once built."""

    def __init__(self, providers: Iterable[Provider], fingerprint: str) -> None:
        """Index *providers*.

        Raises:
            RegistryError: two of them claim a name.
        """
        by_id = {provider.id: provider for provider in sorted(providers, key=lambda provider: provider.id)}
        self.providers: Mapping[str, Provider] = MappingProxyType(by_id)
        self.fingerprint = fingerprint
        """16 hexadecimal digits over the data; comments and order do not change it."""
        self._names: dict[str, Provider] = {}
        for provider in by_id.values():
            for name in (provider.id, *provider.aliases):
                other = self._names.setdefault(name.lower(), provider)
                if other is not provider:
                    raise RegistryError(f"{provider.id}: the name {name!r} belongs to {other.id} already")

    def find(self, name: str) -> Provider | None:
        """Return the provider with this id or alias, in any case; None if there is none."""
        return self._names.get(name.lower())

    @property
    def names(self) -> tuple[str, ...]:
        """Every id and alias, sorted."""
        return tuple(sorted(self._names))


def load(directories: Sequence[pathlib.Path] = (), base_urls: Mapping[str, str] = MappingProxyType({})) -> Registry:
    """Load the built-in rows, then the operator's, which add to them or replace those of the same id.

    *base_urls* moves providers, by id; that is how the sandbox is found on another port.

    Raises:
        RegistryError: a file is invalid or cannot be read, or *base_urls* names no provider.
    """
    built_in = pathlib.Path(str(importlib.resources.files("keyswitch_engine") / "providers"))
    rows: dict[str, _ProviderFile] = {}
    for directory in (built_in, *directories):
        if not directory.is_dir():
            raise RegistryError(f"{directory}: no such directory of provider files")
        seen: dict[str, pathlib.Path] = {}
        for file in sorted(directory.glob("*.toml")):
            row = _read(file)
            if row.id in seen:
                raise RegistryError(f"{file}: the id {row.id!r} is taken by {seen[row.id]}")
            seen[row.id] = file
            rows[row.id] = row
    for provider_id, url in base_urls.items():
        if provider_id not in rows:
            raise RegistryError(f"a base URL is set for {provider_id!r}, which is no provider")
        rows[provider_id] = msgspec.structs.replace(rows[provider_id], base_url=url)
    digest = hashlib.sha256(msgspec.json.encode([rows[key] for key in sorted(rows)], order="sorted"))
    return Registry([_provider(row) for row in rows.values()], digest.hexdigest()[:16])


def _read(file: pathlib.Path) -> _ProviderFile:
    """Read one provider file and check all that can be checked of it alone."""
    try:
        row = msgspec.toml.decode(file.read_bytes(), type=_ProviderFile)
        _provider(row)
    except (OSError, ValueError) as error:  # msgspec's and tomllib's errors are ValueErrors
        raise RegistryError(f"{file}: {error}") from error
    return row


_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_RESERVED = frozenset({"platform"})


def _provider(row: _ProviderFile) -> Provider:
    """Check a row and build the provider. Raises `ValueError`."""
    if row.schema != SCHEMA_VERSION:
        raise ValueError(f"schema {row.schema} is not {SCHEMA_VERSION}, the only one known")
    for name in (row.id, *row.aliases):
        if not _ID.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"{name!r} cannot name a provider")
    if not row.dialects:
        raise ValueError("at least one [[dialects]] table is needed")
    if row.default_model and row.models and row.default_model not in row.models:
        raise ValueError(f"the default model {row.default_model!r} is not among the models listed")
    if row.auth.style == "header" and not row.auth.header:
        raise ValueError("auth.header is needed with style 'header'")
    if bool(row.foreign_id_form) != (row.router or row.hosts_foreign_models):
        raise ValueError("foreign_id_form belongs to routers and hosts of foreign models, and only to them")
    url = urlsplit(row.base_url)
    if url.scheme not in _DEFAULT_PORTS or not url.hostname or url.query or url.fragment or url.username:
        raise ValueError(f"base_url {row.base_url!r} is no plain http or https URL")
    default_port = url.port in (None, _DEFAULT_PORTS[url.scheme])
    return Provider(
        id=row.id,
        name=row.name,
        base_url=row.base_url.rstrip("/"),
        origin_host=url.hostname if default_port else f"{url.hostname}:{url.port}",
        dialects=tuple(_dialect(row, table) for table in row.dialects),
        auth=row.auth,
        aliases=row.aliases,
        vendor_token=row.vendor_token,
        default_model=row.default_model,
        small_model=row.small_model,
        models=row.models,
        matchers=tuple(_pattern(matcher) for matcher in row.matchers),
        strip_own_prefix=row.strip_own_prefix,
        router=row.router,
        foreign_id_form=_pattern(row.foreign_id_form) if row.foreign_id_form else None,
        key_variables=row.key_variables,
        key_pattern=_pattern(row.key_pattern) if row.key_pattern else None,
        models_path=row.models_path,
        headers=row.headers,
    )


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern of a row."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error


def _dialect(row: _ProviderFile, table: _DialectTable) -> DialectRow:
    """Build a dialect's row."""
    dialect = DIALECTS.get(table.name)
    if dialect is None:
        raise ValueError(f"dialect {table.name!r} is not one of {', '.join(sorted(DIALECTS))}")
    flags = msgspec.convert(table.compatibility, dialect.flags)
    return DialectRow(dialect, Profile(row.id, table.path, flags, table.stream_path, row.errors))
