"""How every command reads its arguments: without ever repeating them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from keyswitch_cli.completion import built_in_rows

__all__ = ["Command", "PrintingCommand", "RoutedCommand", "hide"]


class Command(click.Command):
    """A command whose complaints show no argument, since any of them may be a key in the wrong place."""

    allow_extra_args = True  # complained about below: click would show them

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            click.UsageError: they are malformed; the message says which option, or how many are too many.
        """
        given = list(args)  # click consumes its own
        try:
            rest = super().parse_args(ctx, args)
        except click.BadParameter as error:
            # -n VALUE, --name=VALUE, -nVALUE
            values = [value for text in given for value in (text, text.partition("=")[2], text[2:])]
            raise click.BadParameter(hide(error.message, values), error.ctx, error.param, error.param_hint) from None
        if rest and not ctx.resilient_parsing:
            ctx.fail(f"got more arguments than expected ({len(rest)}); quote what has spaces")
        return rest


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
