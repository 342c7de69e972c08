"""`keyswitch routable`."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

import click

from keyswitch_cli import exit_codes
from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.completion import complete_providers
from keyswitch_cli.model_list import read_models
from keyswitch_cli.offline import checked_models
from keyswitch_cli.options import config_option
from keyswitch_cli.output import print_line

if TYPE_CHECKING:
    from keyswitch_engine.routability import Routability

__all__ = ["command"]


@click.command("routable", cls=PrintingCommand)
@click.argument("file", metavar="FILE")
@click.option(
    "--keyed",
    multiple=True,
    metavar="PROVIDER",
    shell_complete=complete_providers,
    help="A provider that there is a key for. Repeatable; without any, the key that a model asks for is taken for "
    "granted, but no router's.",
)
@click.option("--tenant", default="", help="Whose menus apply.")
@config_option("The server's TOML file of settings, for its menus and provider files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(file: str, keyed: tuple[str, ...], tenant: str, config: pathlib.Path | None, *, as_json: bool) -> int:
    """Say where each model of a list leads; exits 1 if one leads nowhere.

    FILE (- for standard input) is text with a model a line and # before comments, or JSON or TOML by its ending: a
    list of ids, or an object with such a list as `models` or `data`. An entry can also be an object with `model`, `id`
    or `name`, and `provider`. Anything else that begins with [ or { is read as JSON, which can have an object a line
    too, as `keyswitch models --json` prints them. What is no list, or lists nothing, exits 2. Nothing is sent to
    anyone.
    """
    results = checked_models(read_models(file), keyed, tenant, config)
    resolved = sum(result.provider is not None for result in results)
    if as_json:
        report = {"models": [_report(result) for result in results], "resolved": resolved, "total": len(results)}
        print_line(json.dumps(report, ensure_ascii=False))
    else:
        width = max(len(result.listed.model) for result in results)
        for result in results:
            status, where = _words(result)
            print_line(f"{status:9} {result.listed.model:{width}}  {where}")
        click.echo(f"{resolved} of {len(results)} resolve")
    return 0 if resolved == len(results) else exit_codes.ERROR


def _words(result: Routability) -> tuple[str, str]:
    """Say for people how a model fares, and where it leads."""
    provider, refusal = result.provider, result.refusal
    if provider is None:
        return "residual", f"{refusal.reason.value}: {refusal.message}" if refusal is not None else ""
    if result.menu:
        return "menu", f"{provider.id}, by the menu {result.menu}"
    variables = " or ".join(provider.key_variables)
    return "derived", provider.id + (f", key usually in {variables}" if variables else "")


def _report(result: Routability) -> dict[str, Any]:
    """Say the same for programs."""
    provider, refusal = result.provider, result.refusal
    report: dict[str, Any] = {"model": result.listed.model, "status": _words(result)[0]}
    if provider is not None:
        report |= {"provider": provider.id, "resolved_model": result.model}
        report |= {"menu": result.menu} if result.menu else {"key_variables": list(provider.key_variables)}
    elif refusal is not None:
        report |= {"reason": refusal.reason.value, "message": refusal.message}
    return report
