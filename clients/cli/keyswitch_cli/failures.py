"""Failures as the command line shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
from keyswitch_client import KeyswitchError

from keyswitch_cli import exit_codes

__all__ = ["RpcFailed", "rpc_failures", "server_option"]


class RpcFailed(click.ClickException):
    """A call failed."""

    def __init__(self, error: KeyswitchError) -> None:
        """Show *error*: one line, what was wrong field by field, and when a retry makes sense."""
        lines = [f"error: {error.reason or error.code.name}: {error.message}"]
        lines += [f"  {field}: {description}" for field, description in error.violations]
        if error.retry_after is not None:
            lines.append(f"  retry after {error.retry_after:g} s")
        super().__init__("\n".join(lines))
        self.exit_code = exit_codes.of_rpc(error.code.value[0], error.reason)  # type: ignore[misc] # click reads it so

    def show(self, file: object = None) -> None:
        """Print to standard error."""
        click.echo(self.message, err=True)


@contextlib.contextmanager
def rpc_failures() -> Iterator[None]:
    """Turn failed calls into what the command line shows."""
    try:
        yield
    except KeyswitchError as error:
        raise RpcFailed(error) from None


def _set_server(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    return value or str(ctx.obj)


server_option = click.option(
    "--server", callback=_set_server, metavar="HOST:PORT", help="The server to talk to.  [env: KEYSWITCH_SERVER]"
)
"""`--server` behind the command, where people look for it too."""
