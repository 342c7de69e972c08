"""`keyswitch routable`."""

from __future__ import annotations

import json
import pathlib
import tomllib
from typing import TYPE_CHECKING, Any

import click

from keyswitch_cli import exit_codes
from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.completion import complete_providers
from keyswitch_cli.inputs import read_file, read_stdin
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

    FILE (- for standard input) is text with a model a line and # before comments, or JSON or TOML (by its ending): a
    list of ids, or an object with such a list as `models`. An entry can also be an object with `provider` and `model`.
    Nothing is sent to anyone.
    """
    results = checked_models(_entries(file), keyed, tenant, config)
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


def _entries(file: str) -> list[dict[str, str]]:
    """Read the list.

    Raises:
        click.UsageError: it is none; the message says where.
    """
    text = read_stdin("FILE") if file == "-" else read_file(file, "FILE")
    match pathlib.PurePath(file).suffix.lower():
        case ".json":
            entries = _of_document(_parsed(json.loads, text))
        case ".toml":
            entries = _of_document(_parsed(tomllib.loads, text))
        case _:
            lines = (line.partition("#")[0].strip() for line in text.splitlines())
            entries = [{"model": line} for line in lines if line]
    if not entries:
        raise click.UsageError("FILE: lists no model")
    return entries


def _parsed(parse: Any, text: str) -> Any:
    """Parse a document."""
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:  # both formats' errors are ValueErrors, and say where
        raise click.UsageError(f"FILE: {error}") from None


def _of_document(document: Any) -> list[dict[str, str]]:
    """Return the entries of a document."""
    listed = document.get("models") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise click.UsageError("FILE: expected a list of models, or an object with such a list as `models`")
    entries = []
    for number, entry in enumerate(listed):
        fields = {"model": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
            raise click.UsageError(f"FILE: models[{number}] is neither an id nor an object with a `model`")
        provider = fields.get("provider", "")
        if not isinstance(provider, str):
            raise click.UsageError(f"FILE: models[{number}].provider is no text")
        entries.append({"model": fields["model"], "provider": provider})  # a template may say more of each
    return entries
