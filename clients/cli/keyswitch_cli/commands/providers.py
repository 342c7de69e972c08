"""`keyswitch providers`."""

from __future__ import annotations

import click
from keyswitch.redaction import message_json

from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.connection import connect
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.options import server_option
from keyswitch_cli.output import print_line, table

__all__ = ["command"]


@click.command("providers", cls=PrintingCommand)
@click.argument("query", nargs=-1)
@server_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(query: tuple[str, ...], server: str, *, as_json: bool) -> None:
    """List the providers that a server knows; words of QUERY must all occur in id, name or aliases."""
    with rpc_failures(), connect(server) as client:
        found = client.providers(" ".join(query))
    if as_json:
        for provider in found:
            print_line(message_json(provider))
        return
    rows = [(provider.id, provider.default_model, provider.origin_host, provider.display_name) for provider in found]
    for line in table(("PROVIDER", "DEFAULT MODEL", "HOST", "NAME"), rows):
        print_line(line)
