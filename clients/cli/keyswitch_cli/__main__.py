"""The entry point: lazily loaded commands, and exit codes for everything that can go wrong."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click
from keyswitch_engine.crash import places, report_by, summary

from keyswitch_cli import exit_codes

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["cli", "main"]

_COMMANDS = {
    "completion": "Print the script that completes commands and values in a shell.",
    "decode": "Decode a captured answer of a provider.",
    "doctor": "Compare what this installation and a server know of providers.",
    "endpoints": "Keep model servers of your own, by name.",
    "explain": "Say where a request would go, on whose key and bill.",
    "generate": "Ask a model and stream its answer.",
    "health": "Ask whether a server is serving.",
    "models": "List models that a request could name.",
    "providers": "List the providers that a server knows.",
    "routable": "Say where each model of a list leads.",
    "sandbox": "Run a provider's double for demos and tests.",
    "serve": "Run the server.",
    "token": "Make a token for a caller of a server.",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not ctx.resilient_parsing:
            # click would show it, and it may be a key in the wrong place
            ctx.fail(f"no such command; there are {', '.join(sorted(_COMMANDS))}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell that completes needs it

        named = [CompletionItem(name, help=about) for name, about in _COMMANDS.items() if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)

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
@click.option(
    "--token",
    envvar="KEYSWITCH_TOKEN",
    metavar="@FILE",
    help="What proves to the server who calls; also env:NAME, - for standard input, or the token itself, which other "
    "processes then see.  [env: KEYSWITCH_TOKEN]",
)
@click.option("--tls", is_flag=True, envvar="KEYSWITCH_TLS", help="Talks to the server by TLS.  [env: KEYSWITCH_TLS]")
@click.option(
    "--tls-ca",
    envvar="KEYSWITCH_TLS_CA",
    metavar="FILE",
    help="PEM file of who may have signed the server's certificate; means --tls.  [env: KEYSWITCH_TLS_CA]",
)
@click.option(
    "--tls-cert",
    envvar="KEYSWITCH_TLS_CERT",
    metavar="FILE",
    help="PEM file of your own certificate; means --tls.  [env: KEYSWITCH_TLS_CERT]",
)
@click.option(
    "--tls-key", envvar="KEYSWITCH_TLS_KEY", metavar="FILE", help="PEM file of its key.  [env: KEYSWITCH_TLS_KEY]"
)
@click.option(
    "--insecure",
    is_flag=True,
    envvar="KEYSWITCH_INSECURE",
    help="Sends keys and token unencrypted to a server on another machine.  [env: KEYSWITCH_INSECURE]",
)
@click.pass_context
def cli(  # noqa: PLR0917 - click passes them by name
    ctx: click.Context,
    server: str,
    token: str | None,
    tls: bool,  # noqa: FBT001 - likewise
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,  # noqa: FBT001 - likewise
) -> None:
    """Dispatch LLM calls on your own keys."""
    from keyswitch_cli.connection import Connection  # noqa: PLC0415 - not needed for help

    ctx.obj = Connection(server, token, tls, tls_ca, tls_cert, tls_key, insecure)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit with its status."""
    report_by(_report)
    _fill_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer may hold what a terminal's encoding does not
        sys.stdout.reconfigure(errors="backslashreplace")
    status = _run(arguments)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):  # it failed before, and the status says so
                stream.flush()
    # on the interpreter's way out a stream that was left may wait for a lock of gRPC's thread, which is gone by then
    os._exit(status)


def _fill_standard_streams() -> None:
    """Open what is closed of the standard streams, lest a socket take its number and be written to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _run(arguments: list[str] | None) -> int:
    """Run the command, or answer a shell that completes one; return the exit status."""
    if "_KEYSWITCH_COMPLETE" in os.environ:  # click's name for it
        from keyswitch_cli import shells  # noqa: PLC0415 - not needed for anything else

        shells.register()
    try:
        result: Any = cli.main(arguments, prog_name="keyswitch", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return exit_codes.USAGE
    except click.ClickException as error:
        from keyswitch_cli.command import complaint  # noqa: PLC0415 - not needed for help

        _complain(f"error: {complaint(error, sys.argv[1:] if arguments is None else arguments)}")
        if isinstance(error, click.UsageError) and error.ctx is not None:
            _complain(f"Try '{error.ctx.command_path} --help'.")
        return error.exit_code
    except UnicodeEncodeError:  # output replaces what it cannot show, so this was input
        _complain("error: an argument is not UTF-8 text")
        return exit_codes.USAGE
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return exit_codes.INTERRUPTED
    except SystemExit as error:  # click's, behind completions, or when whoever read the output has left
        return error.code if isinstance(error.code, int) else exit_codes.ERROR
    except OSError as error:
        _complain(f"error: {error.strerror or type(error).__name__}")
        return exit_codes.ERROR
    except BaseException as error:  # noqa: BLE001 - a bug, whose text may hold a key
        _complain(f"error: a bug of keyswitch: {summary(type(error).__name__, places(error))}")
        return exit_codes.ERROR
    return result if isinstance(result, int) else 0


def _report(level: int, source: str, kind: str, where: Sequence[str]) -> None:
    """Say that something failed beside the command, which goes on; libraries that only have something to say do not."""
    if kind:
        _complain(f"warning: {source}: {summary(kind, where)}")


def _complain(message: str) -> None:
    """Show a message, if anything takes it; the exit status says the same."""
    from keyswitch_cli.output import print_line  # noqa: PLC0415 - none of this is needed for help

    with contextlib.suppress(OSError):
        for line in message.split("\n"):
            print_line(line, err=True)


if __name__ == "__main__":
    main()
