"""`keyswitch doctor`."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
from collections.abc import Mapping

import click
from keyswitch.v1 import registry_service_pb2 as pb

from keyswitch_cli import exit_codes
from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.connection import connect
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.offline import known_providers
from keyswitch_cli.options import config_option, server_option
from keyswitch_cli.output import print_line

__all__ = ["command"]


@click.command("doctor", cls=PrintingCommand)
@server_option
@config_option("A server's TOML file of settings, to compare with what it brings instead of the defaults.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(server: str, config: pathlib.Path | None, *, as_json: bool) -> int:
    """Compare what this installation and a server know of providers; exits 0 only if nothing differs.

    Where they differ, it is the server that decides.
    """
    fingerprint, own = known_providers(config)
    from keyswitch_bridge.negotiation import CAPABILITIES, is_older  # noqa: PLC0415 - there, or it would have been told

    version = importlib.metadata.version("keyswitch")
    findings: dict[str, str] = {}
    with rpc_failures(), connect(server) as client:
        info = client.registry_info()
        if is_older(version, info.min_client_version):  # the server answers nothing else
            findings["client"] = f"{version} is too old for the server, which wants {info.min_client_version}"
        else:
            findings = _differences(own, {provider.id: provider for provider in client.providers()})
            if fingerprint != info.fingerprint and not findings:
                findings["registry"] = "differs in what is not shown of a provider"
    if lacking := [name for name in CAPABILITIES if name not in info.capabilities]:
        findings["capabilities"] = f"the server lacks {', '.join(lacking)}"
    here = {"version": version, "fingerprint": fingerprint, "capabilities": list(CAPABILITIES)}
    if as_json:
        print_line(json.dumps(_report(here, info, findings), ensure_ascii=False))
    else:
        print_line(f"version   {version} here, {info.server_version} on the server")
        print_line(f"registry  {fingerprint} here, {info.fingerprint} on the server")
        print_line(f"can       {', '.join(info.capabilities) or 'what the first one could'}")
        for name, finding in findings.items():
            print_line(f"{name}: {finding}")
        click.echo("the server decides where they differ" if findings else "nothing differs")
    return exit_codes.ERROR if findings else 0


def _report(
    here: Mapping[str, object], info: pb.GetRegistryInfoResponse, findings: Mapping[str, str]
) -> dict[str, object]:
    """Return the comparison for programs."""
    server = {"version": info.server_version, "fingerprint": info.fingerprint, "capabilities": [*info.capabilities]}
    return {"same": not findings, "here": here, "server": server, "findings": dict(findings)}


def _differences(own: Mapping[str, pb.Provider], served: Mapping[str, pb.Provider]) -> dict[str, str]:
    """Return what differs by provider, sorted by id."""
    found = {}
    for id_ in sorted(own.keys() | served.keys()):
        if id_ not in served:
            found[id_] = "known here only"
        elif id_ not in own:
            found[id_] = "known to the server only"
        elif own[id_] != served[id_]:
            fields = [field.name for field in pb.Provider.DESCRIPTOR.fields]
            names = [name for name in fields if getattr(own[id_], name) != getattr(served[id_], name)]
            found[id_] = f"differs in {', '.join(names) or 'fields that this client does not know'}"
    return found
