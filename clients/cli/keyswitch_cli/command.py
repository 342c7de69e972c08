"""How every command reads its arguments: without ever repeating them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

__all__ = ["Command", "PrintingCommand", "hide"]


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
