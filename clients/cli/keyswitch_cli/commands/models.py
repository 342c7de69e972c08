"""`keyswitch models`."""

from __future__ import annotations

import click
from keyswitch.redaction import message_json
from keyswitch.v1 import usage_pb2
from keyswitch_client.enums import value_name

from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.completion import complete_providers
from keyswitch_cli.connection import connect
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.options import server_option
from keyswitch_cli.output import print_line, table

__all__ = ["command"]


@click.command("models", cls=PrintingCommand)
@click.argument("query", nargs=-1)
@server_option
@click.option("-p", "--provider", default="", shell_complete=complete_providers, help="Only models of this provider.")
@click.option(
    "--keyed",
    multiple=True,
    metavar="PROVIDER",
    shell_complete=complete_providers,
    help="A provider that there is a key for. Repeatable; no key is sent.",
)
@click.option("--allow-platform", is_flag=True, help="Also what the operator's keys serve.")
@click.option("--tenant", default="", help="Whose menus apply.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    query: tuple[str, ...],
    server: str,
    provider: str,
    keyed: tuple[str, ...],
    tenant: str,
    *,
    allow_platform: bool,
    as_json: bool,
) -> None:
    """List models that a request could name with these keys; words of QUERY must all occur in model or provider.

    It is what routing decides of the models that a server knows by name; providers take other ids too.
    """
    with rpc_failures(), connect(server) as client:
        found = client.models(
            " ".join(query), provider=provider, keyed_providers=keyed, allow_platform=allow_platform, tenant=tenant
        )
    if as_json:
        for model in found:
            print_line(message_json(model))
        return
    rows = [
        (model.id, model.provider, model.resolved_model, value_name(usage_pb2.Billing, model.billing, "BILLING_"))
        for model in found
    ]
    if not rows and not keyed and not allow_platform:
        click.echo("nothing can be had without a key; say with --keyed which providers there are keys for", err=True)
    for line in table(("MODEL", "PROVIDER", "SENT AS", "BILLING"), rows):
        print_line(line)
