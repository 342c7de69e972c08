"""The entry point: lazily loaded commands, and exit codes for everything that can go wrong."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from keyswitch_cli import exit_codes

__all__ = ["cli", "main"]

_COMMANDS = {
    "decode": "Decode a captured answer of a provider.",
    "explain": "Say where a request would go, on whose key and bill.",
    "generate": "Ask a model and stream its answer.",
    "health": "Ask whether a server is serving.",
    "providers": "List the providers that a server knows.",
    "sandbox": "Run a provider's double for demos and tests.",
    "serve": "Run the server.",
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are called, so that help comes at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"keyswitch_cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's callback
    if value:
        import importlib.metadata  # noqa: PLC0415 - costs more than all else here

        click.echo(importlib.metadata.version("keyswitch"))
        ctx.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
@click.option(
    "--server",
    envvar="KEYSWITCH_SERVER",
    default="127.0.0.1:50551",
    show_default=True,
    metavar="HOST:PORT",
    help="The server to talk to.  [env: KEYSWITCH_SERVER]",
)
@click.pass_context
def cli(ctx: click.Context, server: str) -> None:
    """Dispatch LLM calls on your own keys."""
    ctx.obj = server


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its status."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    """Run the command; return its exit status."""
    try:
        result: Any = cli.main(arguments, prog_name="keyswitch", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return exit_codes.USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # whoever read the output went away; keep the interpreter from complaining about it on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.ERROR
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
