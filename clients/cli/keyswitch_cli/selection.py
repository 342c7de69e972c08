"""Options that say where a request goes, shared by `generate` and `explain`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from keyswitch.v1 import credential_pb2

from keyswitch_cli import credentials
from keyswitch_cli.failures import server_option

__all__ = ["read_credentials", "selection_options"]


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options."""
    options: tuple[Callable[[Any], Any], ...] = (
        credentials.credential_option,
        credentials.api_key_option,
        click.option("-m", "--model", default="", help="Model id, native or with its provider's prefix."),
        click.option("-p", "--provider", default="", help="Provider; derived from model or key if not given."),
        server_option,
    )
    for option in options:
        function = option(function)
    return function


def read_credentials(api_keys: Sequence[str], fields: Sequence[str]) -> dict[str, credential_pb2.Credential]:
    """Parse the keys; warn of literal ones where somebody looks."""
    warn = _warn if sys.stderr.isatty() else None
    return credentials.parse(api_keys, fields, warn=warn)


def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)
