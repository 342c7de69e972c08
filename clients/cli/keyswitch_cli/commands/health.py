"""`keyswitch health`."""

from __future__ import annotations

import click
from keyswitch_client.channels import health_request

from keyswitch_cli import exit_codes
from keyswitch_cli.command import Command
from keyswitch_cli.connection import connect
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.options import server_option, timeout_option

__all__ = ["command"]


def _service(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse a name that no request can hold."""
    try:
        health_request(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


@click.command("health", cls=Command)
@server_option
@click.option(
    "--service", default="", callback=_service, help="One service, by its full name, instead of the whole server."
)
@timeout_option(5.0)
def command(server: str, service: str, timeout: float) -> int:
    """Ask whether a server is serving; exits 0 only if it is."""
    with rpc_failures(), connect(server, timeout=timeout) as client:
        status = client.health(service)
    click.echo(status)
    return 0 if status == "SERVING" else exit_codes.ERROR
