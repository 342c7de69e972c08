"""`keyswitch token`."""

from __future__ import annotations

import json

import click

from keyswitch_cli.command import PrintingCommand

__all__ = ["command"]


@click.command("token", cls=PrintingCommand)
@click.argument("name")
def command(name: str) -> None:
    """Make a token for the caller NAME, which is shown this once.

    The token goes to standard output, the line for the file of the server's setting `tokens` to standard
    error: it holds a hash, and is no secret. A caller may have several, while one takes the place of another.
    """
    try:
        from keyswitch_server.caller import is_name  # noqa: PLC0415 - none of this is needed for help
        from keyswitch_server.tokens import hashed, new_token  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server is not installed ({error.name}): pip install 'keyswitch[server]'"
        ) from None
    if not is_name(name):
        raise click.UsageError("a caller's name is visible ASCII without '*' and '/', and not 'anonymous'")
    token = new_token()
    click.echo(f"{json.dumps(name)} = [{json.dumps(hashed(token))}]", err=True)
    click.echo(token)
