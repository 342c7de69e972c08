"""`keyswitch explain`."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator

import click
from click.core import ParameterSource
from keyswitch.redaction import message_json
from keyswitch.v1 import dispatch_service_pb2, usage_pb2
from keyswitch_client.enums import value_name
from keyswitch_client.locality import LocalMode
from keyswitch_client.requests import GenerateArguments, build

from keyswitch_cli import exit_codes
from keyswitch_cli.command import RoutedCommand
from keyswitch_cli.connection import connect
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.offline import Refused, decide, note_difference
from keyswitch_cli.options import config_option, fallback_option, selection_options
from keyswitch_cli.output import print_line
from keyswitch_cli.targets import chosen_target, local_options

__all__ = ["command"]


@click.command("explain", cls=RoutedCommand)
@selection_options
@fallback_option
@click.option("--offline", is_flag=True, help="Decides in this process; no server is asked.")
@config_option("With --offline: the server's TOML file of settings.")
@click.option("--body", is_flag=True, help="Shows the request that would be sent, without content and secrets.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(  # noqa: PLR0917 - click passes them by name
    server: str,
    provider: str,
    dialect: str,
    region: str,
    endpoint: str | None,
    base_url: str | None,
    endpoint_key: str | None,
    local: LocalMode,
    model: str,
    api_keys: tuple[str, ...],
    credential_fields: tuple[str, ...],
    tenant: str,
    fallbacks: tuple[str, ...],
    *,
    allow_platform: bool,
    offline: bool,
    body: bool,
    config: pathlib.Path | None,
    as_json: bool,
) -> int:
    """Say where a request would go, on whose key and bill, and why; nothing is sent to any provider.

    With --offline --json, prints provider, model, dialect, host, credential and billing, and likewise each of the
    fallbacks if there are some, or an error with code, reason and message, also where the settings are invalid.
    """
    with _told_to_programs(as_json):
        source = click.get_current_context().get_parameter_source("config")
        if source is ParameterSource.COMMANDLINE and not offline:
            raise click.UsageError("--config belongs to --offline")
        asked = chosen_target(
            endpoint=endpoint, base_url=base_url, endpoint_key=endpoint_key,
            provider=provider, model=model, dialect=dialect, region=region, api_keys=api_keys,
            credential_fields=credential_fields, allow_platform=allow_platform, tenant=tenant, fallbacks=fallbacks,
        )  # fmt: skip
        if offline:
            request = build(dispatch_service_pb2.ExplainRouteRequest, GenerateArguments(**asked))
            request.include_body = body
            return _offline(request, config, as_json=as_json)
    told: list[str] = []
    with rpc_failures(), connect(server, local=local_options(local, told)) as client:
        response = client.explain(**asked, include_body=body)
        if as_json:
            print_line(message_json(response))
            return 0
        for route in response.routes:
            _show(route)
        by_rows_of_server = "endpoint" not in asked and not told and local != "always"
        if by_rows_of_server:
            note_difference(client.registry_info().fingerprint)
    return 0


def _offline(request: dispatch_service_pb2.ExplainRouteRequest, config: pathlib.Path | None, *, as_json: bool) -> int:
    """Decide in this process and print the decision; return the exit status."""
    try:
        route, *fallbacks = decide(request, config)
    except Refused as refused:
        if as_json:
            _print_error(refused.code, refused.reason, refused.message)
        else:
            print_line(f"error: {refused.reason}: {refused.message}", err=True)
            if refused.hint:
                print_line(f"  {refused.hint}", err=True)
        return exit_codes.of_rpc(refused.number, refused.reason)
    if as_json:
        shown: dict[str, object] = {**_decision(route)}
        if route.body_json:
            shown["body"] = json.loads(route.body_json)
        if fallbacks:
            shown["fallbacks"] = [_decision(fallback) for fallback in fallbacks]
        print_line(json.dumps(shown, ensure_ascii=False))
        _print_warnings(route)
    else:
        for each in (route, *fallbacks):
            _show(each)
    return 0


@contextlib.contextmanager
def _told_to_programs(as_json: bool) -> Iterator[None]:  # noqa: FBT001 - it is all that there is to say
    """Print what the command line or the configuration has wrong as an error too, if *as_json*."""
    try:
        yield
    except click.ClickException as error:
        if as_json:
            _print_error("INVALID_ARGUMENT", "INVALID_REQUEST", error.message)
        raise


def _decision(route: dispatch_service_pb2.Route) -> dict[str, str]:
    """Return a decision as scripts read it; the shape is stable."""
    return {
        "provider": route.provider,
        "model": route.resolved_model,
        "dialect": route.dialect,
        "host": route.origin_host,
        "credential": value_name(usage_pb2.CredentialSource, route.credential_source, "CREDENTIAL_SOURCE_").lower(),
        "billing": value_name(usage_pb2.Billing, route.billing, "BILLING_"),
    }


def _show(route: dispatch_service_pb2.Route) -> None:
    """Print a route for people."""
    print_line(f"asked       {route.requested_model or 'no model'}")
    for name, value in _decision(route).items():
        label = f" ({route.credential_label})" if name == "credential" and route.credential_label else ""
        print_line(f"{name:11} {value}{label}")
    for reason in route.reasons:
        print_line(f"because     {reason}")
    for excluded in route.excluded:
        print_line(f"not         {excluded.provider}: {excluded.reason}")
    print_line(f"flags       {', '.join(f'{flag}={value}' for flag, value in sorted(route.compatibility.items()))}")
    if route.body_json:
        print_line(f"body        {route.body_json}")
    _print_warnings(route)


def _print_warnings(route: dispatch_service_pb2.Route) -> None:
    """Print what looks wrong."""
    for warning in route.warnings:
        print_line(f"warning: {warning}", err=True)


def _print_error(code: str, reason: str, message: str) -> None:
    """Print an error for programs; the shape is stable."""
    print_line(json.dumps({"error": {"code": code, "reason": reason, "message": message}}, ensure_ascii=False))
