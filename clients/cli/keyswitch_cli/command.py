"""How every command reads its arguments: without ever repeating them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from keyswitch_cli.completion import built_in_rows

__all__ = ["Command", "PrintingCommand", "RoutedCommand", "complaint", "hide"]

_OPTION_NAME = re.compile(
    r"--?(?:[A-Za-z]+(?:-[A-Za-z]+)*|(?!.{21})[A-Za-z]+[0-9]{0,3}(?:[-_][A-Za-z]+[0-9]{0,3})*)", re.DOTALL
)
"""Words with hyphens, or a short name with underscores, and a number behind a word; keys are longer, or no words."""


class Command(click.Command):
    """A command that takes no more arguments than it names."""

    allow_extra_args = True  # complained about below: click would show them

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            click.UsageError: they are malformed; the message says how many are too many.
        """
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            ctx.fail(f"got more arguments than expected ({len(rest)}); quote what has spaces")
        return rest


def complaint(error: click.ClickException, arguments: Iterable[str]) -> str:
    """Return what an error says, without what click quotes: an argument or a variable may be a key in the wrong place.

    Only the name of an option that there is none of is shown, for it is most often misspelt, unless it could be a key.
    """
    if isinstance(error, click.NoSuchOption):
        from keyswitch_engine.secret import without_keys  # noqa: PLC0415 - brings OpenSSL, and only this needs it

        name = error.option_name
        is_one = _OPTION_NAME.fullmatch(name) is not None and without_keys(name) == name
        error = click.NoSuchOption(name, f"No such option {name if is_one else '…'!r}.", error.possibilities)
    elif isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        # -n VALUE, --name=VALUE, -nVALUE
        values = [value for text in arguments for value in (text, text.partition("=")[2], text[2:])]
        if error.param is not None and isinstance(error.param.envvar, str):
            values.append(os.environ.get(error.param.envvar, ""))
        error = click.BadParameter(hide(error.message, values), error.ctx, error.param, error.param_hint)
    return error.format_message()


def hide(message: str, arguments: Iterable[str]) -> str:
    """Return a message without the arguments that it quotes."""
    for argument in arguments:
        message = message.replace(repr(argument), "'…'")
    return message


class PrintingCommand(Command):
    """A command that is run for what it prints."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            click.ClickException: standard output is closed; click would print to it in silence, after a call was paid.
        """
        if sys.stdout is None:
            raise click.ClickException("standard output is closed")
        return super().invoke(ctx)


class RoutedCommand(PrintingCommand):
    """A command that names a provider; its help lists those of this installation."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the ids of the built-in providers, if the engine is installed here."""
        rows = built_in_rows()
        if rows is not None:
            with formatter.section("Providers, whose default model serves where none is named"):
                formatter.write_dl([(row.id, row.default_model or "-") for row in rows.providers.values()])
