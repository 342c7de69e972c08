"""Keys on the command line.

`--api-key provider=key` and `--credential provider.field=value`, where the value is literal, `@FILE`, `env:NAME`, or
`-` for standard input. No message ever repeats an argument: what is malformed may be a bare key.
"""

from __future__ import annotations

import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence

import click
from keyswitch.v1 import credential_pb2

__all__ = ["FIELDS", "api_key_option", "credential_option", "parse", "uses_stdin"]

_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def _api_key(message: credential_pb2.Credential, name: str, value: str) -> None:
    setattr(message.api_key, name, value)


def _bearer(message: credential_pb2.Credential, name: str, value: str) -> None:
    message.bearer_token.token = value


def _aws(message: credential_pb2.Credential, name: str, value: str) -> None:
    setattr(message.aws.access_key, name, value)


def _cloudflare(message: credential_pb2.Credential, name: str, value: str) -> None:
    setattr(message.cloudflare, name, value)


def _azure(message: credential_pb2.Credential, name: str, value: str) -> None:
    if name == "azure_key":
        message.azure.api_key.key = value
    else:
        setattr(message.azure, name, value)


def _google(message: credential_pb2.Credential, name: str, value: str) -> None:
    message.google.service_account.json = value


FIELDS: dict[str, tuple[str, Callable[[credential_pb2.Credential, str, str], None]]] = {
    "key": ("api_key", _api_key),
    "organization": ("api_key", _api_key),
    "project": ("api_key", _api_key),
    "token": ("bearer_token", _bearer),
    "access_key_id": ("aws", _aws),
    "secret_access_key": ("aws", _aws),
    "session_token": ("aws", _aws),
    "azure_key": ("azure", _azure),
    "resource": ("azure", _azure),
    "api_version": ("azure", _azure),
    "account_id": ("cloudflare", _cloudflare),
    "gateway_id": ("cloudflare", _cloudflare),
    "service_account": ("google", _google),
}
"""Fields of `--credential`: the kind of credential that each belongs to, and how it is set."""

api_key_option = click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    metavar="PROVIDER=KEY",
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
    """Return a credential for each provider.

    Raises:
        click.UsageError: an argument is malformed, a provider or field came twice, or a value cannot be read. The
            message names the option and its position, never the argument.
    """
    if sum(argument.partition("=")[2].strip() == "-" for argument in (*api_keys, *fields)) > 1:
        raise click.UsageError("standard input can give one value only")
    found: dict[str, dict[str, str]] = {}
    for number, argument in enumerate(api_keys, 1):
        where = f"--api-key (number {number})"
        provider, value = _split(argument, where, "provider=key")
        if provider in found:
            raise click.UsageError(f"{where}: this provider has a key already")
        found[provider] = {"key": _value(value, where, warn)}
    for number, argument in enumerate(fields, 1):
        where = f"--credential (number {number})"
        name, value = _split(argument, where, "provider.field=value")
        provider, dot, field = name.rpartition(".")
        if not dot or field not in FIELDS:
            raise click.UsageError(f"{where}: expected provider.field=value with one of the fields {', '.join(FIELDS)}")
        values = found.setdefault(_provider(provider, where), {})
        if field in values:
            raise click.UsageError(f"{where}: this field of this provider was given already")
        values[field] = _value(value, where, warn, secret=field != "service_account")
    return {provider: _credential(values, provider) for provider, values in found.items()}


def uses_stdin(api_keys: Iterable[str], fields: Iterable[str]) -> bool:
    """Tell whether a value comes from standard input."""
    return any(argument.partition("=")[2].strip() == "-" for argument in (*api_keys, *fields))


def _split(argument: str, where: str, form: str) -> tuple[str, str]:
    """Split at the first equals sign; keys may hold more of them."""
    name, equals, value = argument.partition("=")
    name, value = name.strip().lower(), value.strip()
    if not equals or not name or not value:
        raise click.UsageError(f"{where}: expected {form}, both sides non-empty")
    return (name if "." in form.partition("=")[0] else _provider(name, where)), value


def _provider(name: str, where: str) -> str:
    """Check a provider's name, which must not be a key by mistake."""
    if not _PROVIDER.fullmatch(name):
        raise click.UsageError(f"{where}: what stands before the equals sign is no provider's name")
    return name


def _value(value: str, where: str, warn: Callable[[str], None] | None, *, secret: bool = True) -> str:
    """Read a value from where it says it is."""
    if value == "-":
        text = sys.stdin.read()
    elif value.startswith("@"):
        try:
            text = pathlib.Path(value[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{where}: the file cannot be read: {type(error).__name__}") from None
    elif value.startswith("env:"):
        text = os.environ.get(value[4:], "")
    else:
        text = value
        if warn is not None:
            warn(f"{where}: a key on the command line is visible to other processes; prefer @FILE, env:NAME or -")
    text = text.strip()
    if not text:
        raise click.UsageError(f"{where}: the value is empty or not set")
    if secret and not _KEY.fullmatch(text):
        raise click.UsageError(f"{where}: a value has 1 to 4096 visible ASCII characters, without spaces and line ends")
    return text


def _credential(values: dict[str, str], provider: str) -> credential_pb2.Credential:
    """Build a credential; its fields have to be of one kind."""
    kinds = {FIELDS[field][0] for field in values}
    if kinds == {"bearer_token", "cloudflare"}:
        values = {("cloudflare_token" if field == "token" else field): value for field, value in values.items()}
    elif len(kinds) > 1:
        raise click.UsageError(
            f"--credential: the fields for {provider} belong to different kinds: {', '.join(sorted(kinds))}"
        )
    message = credential_pb2.Credential()
    for field, value in values.items():
        if field == "cloudflare_token":
            message.cloudflare.token = value
        else:
            FIELDS[field][1](message, field, value)
    return message
