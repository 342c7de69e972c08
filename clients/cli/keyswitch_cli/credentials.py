"""Keys on the command line.

`--api-key provider=key` and `--credential provider.field=value`, where the value is literal, `@FILE`, `env:NAME`, or
`-` for standard input. No message ever repeats an argument: what is malformed may be a bare key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from keyswitch.v1 import credential_pb2

from keyswitch_cli.completion import complete_api_keys
from keyswitch_cli.inputs import is_literal, read_value

__all__ = ["FIELDS", "KINDS", "api_key_option", "credential_option", "parse", "read_field"]

KINDS: tuple[Mapping[str, str], ...] = (
    {"key": "api_key.key", "organization": "api_key.organization", "project": "api_key.project"},
    {"token": "bearer_token.token"},
    {
        "access_key_id": "aws.access_key.access_key_id",
        "secret_access_key": "aws.access_key.secret_access_key",
        "session_token": "aws.access_key.session_token",
    },
    {"aws_bearer_token": "aws.bearer_token.token"},
    {"key": "azure.api_key.key", "resource": "azure.resource", "api_version": "azure.api_version"},
    {"token": "azure.access_token.token", "resource": "azure.resource", "api_version": "azure.api_version"},
    {"token": "cloudflare.token", "account_id": "cloudflare.account_id", "gateway_id": "cloudflare.gateway_id"},
    {"service_account": "google.service_account.json", "project": "google.project"},
    {"token": "google.access_token.token", "project": "google.project"},
)
"""Kinds of credentials: each field of `--credential` with its path in the contract's `Credential`.

A credential is of the first kind that has all the fields given.
"""

FIELDS = tuple(dict.fromkeys(field for kind in KINDS for field in kind))
"""The fields of `--credential`."""

_PUBLIC = frozenset({"organization", "project", "resource", "api_version", "account_id", "gateway_id"})
_VALUE = re.compile(r"[\x21-\x7e]{1,4096}")
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

api_key_option = click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    metavar="PROVIDER=KEY",
    shell_complete=complete_api_keys,
    help="A provider's key; also PROVIDER=@FILE, PROVIDER=env:NAME, PROVIDER=- for standard input. Repeatable. "
    "A literal key is visible to other processes; prefer the other forms.",
)
"""`--api-key`."""

credential_option = click.option(
    "--credential",
    "credential_fields",
    multiple=True,
    metavar="PROVIDER.FIELD=VALUE",
    help=f"One field of a provider's credential, the value as for --api-key. Fields: {', '.join(FIELDS)}. Repeatable.",
)
"""`--credential`."""


def parse(
    api_keys: Sequence[str], fields: Sequence[str], *, warn: Callable[[str], None] | None = None
) -> dict[str, credential_pb2.Credential]:
    """Return a credential for each provider; *warn* is told of each literal secret.

    Raises:
        click.UsageError: an argument is malformed, a provider or field came twice, or a value cannot be read. The
            message names the option and its position, never the argument.
    """
    found: dict[str, dict[str, str]] = {}
    for number, argument in enumerate(api_keys, 1):
        where = f"--api-key (number {number})"
        name, value = _split(argument, where, "provider=key")
        provider = _provider(name, where)
        if provider in found:
            raise click.UsageError(f"{where}: this provider has a key already")
        found[provider] = {"key": read_field("key", value, where, warn)}
    for number, argument in enumerate(fields, 1):
        where = f"--credential (number {number})"
        name, value = _split(argument, where, "provider.field=value")
        name, _, field = name.rpartition(".")
        if field not in FIELDS:
            raise click.UsageError(f"{where}: expected provider.field=value with one of the fields {', '.join(FIELDS)}")
        values = found.setdefault(_provider(name, where), {})
        if field in values:
            raise click.UsageError(f"{where}: this field of this provider was given already")
        values[field] = read_field(field, value, where, warn)
    return {provider: _credential(values) for provider, values in found.items()}


def _split(argument: str, where: str, form: str) -> tuple[str, str]:
    """Split at the first equals sign; keys may hold more of them."""
    name, _, value = argument.partition("=")
    name, value = name.strip().lower(), value.strip()
    if not name or not value.strip("="):  # a bare key may end in equals signs, and is no provider
        raise click.UsageError(f"{where}: expected {form}, both sides non-empty")
    return name, value


def _provider(name: str, where: str) -> str:
    """Check a provider's name, which must not be a key by mistake."""
    if not _PROVIDER.fullmatch(name):
        raise click.UsageError(f"{where}: what stands before the equals sign is no provider's name")
    return name


def read_field(field: str, value: str, where: str, warn: Callable[[str], None] | None) -> str:
    """Read the value of a *field* from where it says it is; *warn* is told of a literal secret.

    Raises:
        click.UsageError: it cannot be read, or is none; the message names *where*, never the value.
    """
    if warn is not None and field not in _PUBLIC and is_literal(value):
        warn(f"{where}: a key on the command line is visible to other processes; prefer @FILE, env:NAME or -")
    text = read_value(value, where)
    if field != "service_account" and not _VALUE.fullmatch(text):
        raise click.UsageError(f"{where}: a value has 1 to 4096 visible ASCII characters, without spaces and line ends")
    return text


def _credential(values: Mapping[str, str]) -> credential_pb2.Credential:
    """Build a credential of the first kind that has all the fields."""
    for kind in KINDS:
        if values.keys() <= kind.keys():
            credential = credential_pb2.Credential()
            for field, value in values.items():
                *path, name = kind[field].split(".")
                message: Any = credential
                for step in path:
                    message = getattr(message, step)
                setattr(message, name, value)
            return credential
    together = "; ".join(", ".join(kind) for kind in KINDS)
    raise click.UsageError(
        f"--credential: {', '.join(values)} do not make one credential; these go together: {together}"
    )
