"""`keyswitch explain`."""

from __future__ import annotations

import click
from google.protobuf import json_format
from keyswitch.v1 import dispatch_service_pb2, usage_pb2
from keyswitch_client import Client
from keyswitch_client.enums import value_name

from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.options import read_credentials, selection_options

__all__ = ["command"]


@click.command("explain", cls=PrintingCommand)
@selection_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(  # noqa: PLR0917 - click passes them by name
    server: str,
    provider: str,
    dialect: str,
    region: str,
    model: str,
    api_keys: tuple[str, ...],
    credential_fields: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Say where a request would go, on whose key and bill, and why; nothing is sent to any provider."""
    keys = read_credentials(api_keys, credential_fields)
    with rpc_failures(), Client(server) as client:
        response = client.explain(provider=provider, model=model, dialect=dialect, region=region, credentials=keys)
    if as_json:
        click.echo(json_format.MessageToJson(response, indent=None))
        return
    for route in response.routes:
        _show(route)


def _show(route: dispatch_service_pb2.Route) -> None:
    """Print a route for people."""
    source = value_name(usage_pb2.CredentialSource, route.credential_source, "CREDENTIAL_SOURCE_").lower()
    rows = {
        "provider": route.provider,
        "model": route.resolved_model,
        "dialect": route.dialect,
        "host": route.origin_host,
        "credential": source + (f" ({route.credential_label})" if route.credential_label else ""),
        "billing": value_name(usage_pb2.Billing, route.billing, "BILLING_"),
    }
    for name, value in rows.items():
        click.echo(f"{name:11} {value}")
    for reason in route.reasons:
        click.echo(f"because     {reason}")
    for excluded in route.excluded:
        click.echo(f"not         {excluded.provider}: {excluded.reason}")
    for warning in route.warnings:
        click.echo(f"warning: {warning}", err=True)
