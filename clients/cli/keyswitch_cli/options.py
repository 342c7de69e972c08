"""Options that several commands share."""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from keyswitch.v1 import credential_pb2

from keyswitch_cli import credentials
from keyswitch_cli.completion import complete_dialects, complete_models, complete_providers

__all__ = [
    "Number",
    "config_option",
    "fallback_option",
    "local_option",
    "read_credentials",
    "selection_options",
    "server_option",
    "timeout_option",
    "warn_where_seen",
]

_DAY = 86_400


def _server(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """Fall back on what stands before the command."""
    return value or str(ctx.obj)


server_option = click.option(
    "--server", callback=_server, metavar="HOST:PORT", help="The server to talk to.  [env: KEYSWITCH_SERVER]"
)
"""`--server` behind the command, where people look for it too."""

fallback_option = click.option(
    "--fallback", "fallbacks", multiple=True, metavar="MODEL", help="Model to go on with if it fails; repeatable."
)
"""`--fallback`, each the next one's turn after the one before."""


class Number(click.FloatRange):
    """A number within bounds; click lets `nan` pass, which no bound excludes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raises `click.BadParameter` if it is none."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def config_option(what: str) -> Callable[[Any], Any]:
    """Return `--config`, a server's settings, for a command that decides as that server would; *what* it is for."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
        envvar="KEYSWITCH_CONFIG",
        help=f"{what}  [env: KEYSWITCH_CONFIG]",
    )


def timeout_option(default: float) -> Callable[[Any], Any]:
    """Return `--timeout`, in seconds."""
    return click.option(
        "--timeout",
        type=Number(min=0, min_open=True, max=_DAY),
        default=default,
        show_default=True,
        help="Seconds for the whole call.",
    )


local_option = click.option(
    "--local",
    type=click.Choice(("auto", "never", "always")),
    default="auto",
    show_default=True,
    envvar="KEYSWITCH_LOCAL",
    help="Calls made from this machine, without a server: those to local endpoints, none, or all.  "
    "[env: KEYSWITCH_LOCAL]",
)
"""`--local`."""

endpoint_options: tuple[Callable[[Any], Any], ...] = (
    local_option,
    click.option(
        "--endpoint-key",
        metavar="KEY",
        help="The key for --base-url; also @FILE, env:NAME, - for standard input. None is sent if not given.",
    ),
    click.option("--base-url", metavar="URL", help="A model server by its URL; --model and --dialect are its own."),
    click.option("-e", "--endpoint", metavar="NAME", help="A model server of yours, see `keyswitch endpoints`."),
)
"""What selects an endpoint of the user's own; the last one comes first in help."""


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a request goes."""
    options: tuple[Callable[[Any], Any], ...] = (
        click.option("--tenant", default="", help="For whom the call is made: whose menus apply."),
        click.option(
            "--allow-platform",
            is_flag=True,
            help="Consents to the operator's key, and bill, where none of yours came for the provider.",
        ),
        credentials.credential_option,
        credentials.api_key_option,
        click.option(
            "-m",
            "--model",
            default="",
            shell_complete=complete_models,
            help="Model id, native or with its provider's prefix.",
        ),
        *endpoint_options,
        click.option("--region", default="", help="Region or location, for providers that have them."),
        click.option(
            "--dialect",
            default="",
            shell_complete=complete_dialects,
            help="Wire protocol; the provider's first if not given.",
        ),
        click.option(
            "-p",
            "--provider",
            default="",
            shell_complete=complete_providers,
            help="Provider, by id or alias; derived from model or key if not given.",
        ),
        server_option,
    )
    for option in options:
        function = option(function)
    return function


def read_credentials(api_keys: Sequence[str], fields: Sequence[str]) -> dict[str, credential_pb2.Credential]:
    """Parse the keys; warn of literal ones where somebody looks."""
    return credentials.parse(api_keys, fields, warn=warn_where_seen())


def warn_where_seen() -> Callable[[str], None] | None:
    """Return what warns of literal keys, if somebody looks."""
    return _warn if sys.stderr is not None and sys.stderr.isatty() else None


def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)
