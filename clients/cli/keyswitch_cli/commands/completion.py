"""`keyswitch completion`."""

from __future__ import annotations

import click

from keyswitch_cli.command import PrintingCommand
from keyswitch_cli.shells import SHELLS, script

__all__ = ["command"]


@click.command("completion", cls=PrintingCommand)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, providers and models in a shell.

    For Bash: source <(keyswitch completion bash), in ~/.bashrc for every shell.
    """
    click.echo(script(ctx.find_root().command, shell), nl=False)
