"""How every command reads its arguments: without ever repeating them."""

from __future__ import annotations

import click

__all__ = ["Command"]


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
            message = error.message
            for argument in given:
                for value in (argument, argument.partition("=")[2], argument[2:]):  # -n VALUE, --name=VALUE, -nVALUE
                    message = message.replace(repr(value), "'…'")
            raise click.BadParameter(message, error.ctx, error.param, error.param_hint) from None
        if rest and not ctx.resilient_parsing:
            ctx.fail(f"got more arguments than expected ({len(rest)}); quote what has spaces")
        return rest
