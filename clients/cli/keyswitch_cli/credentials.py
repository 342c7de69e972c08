"""Keys on the command line.

`--api-key provider=key` and `--credential provider.field=value`, where the value is literal, `@FILE`, `env:NAME`, or
`-` for standard input. No message ever repeats an argument: what is malformed may be a bare key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import click
from keyswitch.v1 import credential_pb2

from keyswitch_cli.completion import built_in_rows, complete_api_keys
from keyswitch_cli.inputs import is_literal, read_value

__all__ = ["FIELDS", "KINDS", "Kind", "advice", "api_key_option", "credential_option", "parse", "read_field"]


class Kind(NamedTuple):
    """A kind of credential: fields of `--credential`, each with its path in the contract's `Credential`."""

    needed: Mapping[str, str]
    optional: Mapping[str, str] = MappingProxyType({})

    @property
    def fields(self) -> dict[str, str]:
        """All fields."""
        return {**self.needed, **self.optional}


KINDS = (
    Kind({"key": "api_key.key"}, {"organization": "api_key.organization", "project": "api_key.project"}),
    Kind({"token": "bearer_token.token"}),
    Kind(
        {
            "access_key_id": "aws.access_key.access_key_id",
            "secret_access_key": "aws.access_key.secret_access_key",
        },
        {"session_token": "aws.access_key.session_token"},
    ),
    Kind({"aws_bearer_token": "aws.bearer_token.token"}),
    Kind({"key": "azure.api_key.key", "resource": "azure.resource"}, {"api_version": "azure.api_version"}),
    Kind({"token": "azure.access_token.token", "resource": "azure.resource"}, {"api_version": "azure.api_version"}),
    Kind(
        {"token": "cloudflare.token", "account_id": "cloudflare.account_id"},
        {"gateway_id": "cloudflare.gateway_id"},
    ),
    Kind({"service_account": "google.service_account.json"}, {"project": "google.project"}),
    Kind({"token": "google.access_token.token", "project": "google.project"}),
)
"""The kinds of credentials. A credential is of the first one that has all the fields given."""

FIELDS = tuple(dict.fromkeys(field for kind in KINDS for field in kind.fields))
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
        if values.keys() <= kind.fields.keys():
            credential = credential_pb2.Credential()
            for field, value in values.items():
                *path, name = kind.fields[field].split(".")
                message: Any = credential
                for step in path:
                    message = getattr(message, step)
                setattr(message, name, value)
            return credential
    together = "; ".join(", ".join(kind.fields) for kind in KINDS)
    raise click.UsageError(
        f"--credential: {', '.join(values)} do not make one credential; these go together: {together}"
    )


def advice(reason: str, field: str, provider: str) -> str:
    """Return which options give what *provider* takes, after a refusal of what came for it.

    Empty where another *field* was refused, or for another *reason*, and for providers that only a server knows.
    """
    rows = built_in_rows() if (reason, field) == ("INVALID_REQUEST", "credentials") else None
    row = rows.find(provider) if rows is not None else None
    accepted = row.auth.accepts if row is not None else ()
    forms = [_options(provider, kind) for kind in KINDS if _name(kind) in accepted]
    return f"give {', or '.join(forms)}" if forms else ""


def _name(kind: Kind) -> str:
    """Return the contract's name for a kind, which is how paths of its fields begin."""
    return next(iter(kind.needed.values())).partition(".")[0]


def _options(provider: str, kind: Kind) -> str:
    """Return the options that give a credential of one kind."""
    if kind.needed.keys() == {"key"}:
        return f"--api-key {provider}=…"
    return " ".join(f"--credential {provider}.{field}=…" for field in kind.needed)
