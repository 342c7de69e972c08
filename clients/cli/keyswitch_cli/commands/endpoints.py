"""`keyswitch endpoints`."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
from keyswitch_client.locality import LocalMode

from keyswitch_cli.command import Command, PrintingCommand
from keyswitch_cli.connection import connect
from keyswitch_cli.credentials import read_field
from keyswitch_cli.endpoint_file import change, check, path
from keyswitch_cli.endpoints import DIALECTS, Definition, definitions, kept, problems_of, selected, usable_name
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.options import local_option, server_option, timeout_option, warn_where_seen
from keyswitch_cli.output import print_line, table
from keyswitch_cli.stores import STORES, key_store
from keyswitch_cli.targets import local_options

__all__ = ["command"]


class _Group(click.Group):
    """A group that shows no argument."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            ctx.fail(f"no such command; there are {', '.join(sorted(self.commands))}")
        return super().resolve_command(ctx, args)


@click.group("endpoints", cls=_Group)
def command() -> None:
    """Keep model servers of your own, by name; `keyswitch generate -e NAME` uses them.

    Definitions are in a file that you may edit and share, `keyswitch endpoints path`. Their keys are in the system's
    credential store, or in a file where you say so.
    """


@command.command("list", cls=PrintingCommand)
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def _list(*, as_json: bool) -> None:
    """List the endpoints, those too that cannot be selected, and what they lack."""
    known = definitions().values()
    if as_json:
        print_line(json.dumps([_shown(definition) for definition in known], ensure_ascii=False))
        return
    rows = [(each.name, each.model, each.base_url, _state(each)) for each in known]
    for line in table(("NAME", "MODEL", "BASE URL", "STATE"), rows):
        print_line(line)


@command.command("show", cls=PrintingCommand)
@click.argument("name")
def _show(name: str) -> None:
    """Show one endpoint."""
    for field, value in _shown(_known(name)).items():
        shown = "; ".join(value) if isinstance(value, list) else json.dumps(value) if value in (True, False) else value
        if shown:
            print_line(f"{field:11} {shown}")


@command.command("path", cls=PrintingCommand)
def _path() -> None:
    """Print the name of the file with the definitions."""
    print_line(str(path()))


@command.command("add", cls=Command)
@click.argument("name")
@click.option("--base-url", metavar="URL", help="Absolute URL; the protocol's own path may follow.")
@click.option("-m", "--model", help="Model id as that server knows it.")
@click.option("--dialect", type=click.Choice(DIALECTS), help="Wire protocol; openai-chat if not given.")
@click.option("--label", help="What errors and receipts call it; its name if not given.")
@click.option("--key", metavar="KEY", help="Its key; also @FILE, env:NAME, - for standard input. Asked for if missing.")
@click.option("--no-key", is_flag=True, help="It needs no key.")
@click.option(
    "--store",
    type=click.Choice(STORES),
    default="keyring",
    show_default=True,
    envvar="KEYSWITCH_KEY_STORE",
    help="Where the key is kept: the system's credential store, or a file of yours.  [env: KEYSWITCH_KEY_STORE]",
)
@click.option("--replace", is_flag=True, help="Changes an endpoint that there is: what is given, and the key.")
def _add(  # noqa: PLR0917 - click passes them by name
    name: str,
    base_url: str | None,
    model: str | None,
    dialect: str | None,
    label: str | None,
    key: str | None,
    store: str,
    *,
    no_key: bool,
    replace: bool,
) -> None:
    """Add an endpoint; nothing is sent to it."""
    if not usable_name(name):
        raise click.UsageError("NAME: 1 to 64 small letters, digits, dots, hyphens and underscores, and no key")
    before = definitions().get(name)
    if before is not None and not replace:
        raise click.UsageError("there is an endpoint of that name; --replace changes it")
    given = {"base_url": base_url, "model": model, "dialect": dialect, "label": label}
    values = {field: value.strip() for field, value in given.items() if value is not None}
    if before is None and not (values.get("base_url") and values.get("model")):
        raise click.UsageError("--base-url and --model are needed")
    old = {} if before is None else {field: getattr(before, field) for field in given}
    whole = old | values | {"auth": "none"}
    if problems := problems_of(name, whole):  # nothing that looks like a key, say, gets into the file
        raise click.UsageError("; ".join(problems))
    secret = _key(key, no_key=no_key)
    values["auth"] = store if secret else "none"
    check(name, values)
    if secret:
        key_store(store).set(name, kept(whole["base_url"], secret))  # before the definition that would miss it
    change(name, values)
    if before is not None and before.auth in STORES and before.auth != values["auth"]:
        key_store(before.auth).remove(name)
    definition = definitions(warn=False)[name]
    if definition.problems:
        print_line(f"warning: not selectable: {'; '.join(definition.problems)}", err=True)


@command.command("remove", cls=Command)
@click.argument("name")
def _remove(name: str) -> None:
    """Remove an endpoint and its key."""
    definition = _known(name)
    check(name, None)
    if definition.auth in STORES:
        key_store(definition.auth).remove(name)
    change(name, None)


@command.command("test", cls=PrintingCommand)
@click.argument("name")
@server_option
@local_option
@timeout_option(60.0)
def _test(name: str, server: str, local: LocalMode, timeout: float) -> None:
    """Ask an endpoint for one word, which it may bill, and say whether that works."""
    endpoint = selected(name)
    with rpc_failures(), connect(server, local=local_options(local)) as client:
        answer = client.generate(endpoint=endpoint, messages="Hi", max_output_tokens=16, timeout=timeout)
    print_line(f"{endpoint.label} answers, as {answer.response.finished.answering_model or endpoint.model}")


def _known(name: str) -> Definition:
    """Return a definition.

    Raises:
        click.UsageError: there is none of that name.
    """
    known = definitions()
    if name not in known:
        raise click.UsageError(f"no endpoint has that name; there are {', '.join(known) or 'none'}")
    return known[name]


def _key(key: str | None, *, no_key: bool) -> str:
    """Return the key, empty for none."""
    if key is not None and no_key:
        raise click.UsageError("give --key or --no-key, not both")
    if key is not None:
        return read_field("key", key.strip(), "--key", warn_where_seen())
    if no_key:
        return ""
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("give --key or --no-key")
    asked: str = click.prompt("Key (empty for none)", default="", hide_input=True, show_default=False, err=True)
    return read_field("key", f"{asked.strip()}", "the key", None) if asked.strip() else ""


def _state(definition: Definition) -> str:
    """Return whether an endpoint can be selected, in words."""
    return f"not selectable: {'; '.join(definition.problems)}" if definition.problems else "selectable"


def _shown(definition: Definition) -> dict[str, object]:
    """Return an endpoint for programs; the shape is stable."""
    fields = dataclasses.asdict(definition)
    problems = list(fields.pop("problems"))
    return fields | {"selectable": not problems, "problems": problems}
