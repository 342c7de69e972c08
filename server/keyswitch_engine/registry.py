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
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Compatibility, Dialect
from keyswitch_engine.error_rules import ErrorRule

__all__ = ["SCHEMA_VERSION", "Auth", "DialectRow", "Provider", "Registry", "RegistryError", "load"]

SCHEMA_VERSION = 1
"""Version of the form of provider rows."""


class RegistryError(Exception):
    """A provider file is invalid; the message names the file, and where possible the key."""


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a provider file."""


class Auth(_Row):
    """How a provider wants to be authenticated."""

    style: Literal["bearer", "header", "none"] = "bearer"
    """`bearer`: `Authorization: Bearer`; `header`: the bare key in `header`; `none`: no credential at all."""
    header: str = ""
    accepts: tuple[str, ...] = ("api_key", "bearer_token")
    """Kinds of credential, as the contract's `Credential` names its fields; `none` makes a credential optional."""
    organization_header: str = ""
    project_header: str = ""


class _DialectTable(_Row):
    """One `[[dialects]]` table of a provider file."""

    name: str
    path: str
    compatibility: dict[str, Any] = {}


class _ProviderFile(_Row):
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
    path: str
    """Path below the base URL."""
    flags: Compatibility


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
    error_rules: tuple[ErrorRule, ...]
    """What this provider's errors mean where the general table would misread them."""
