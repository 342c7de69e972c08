"""`keyswitch serve`."""

from __future__ import annotations

import json
import os
import pathlib
import signal

import click

from keyswitch_cli.command import Command

__all__ = ["command"]


@click.command("serve", cls=Command)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.  [default: 127.0.0.1:50551]"
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    envvar="KEYSWITCH_CONFIG",
    help="TOML file of settings.  [env: KEYSWITCH_CONFIG]",
)
def command(listen: str | None, config: pathlib.Path | None) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Prints one JSON line, {"listening": "HOST:PORT"}, when it accepts calls; logs go to standard error.
    Changes in the operator's provider files are taken up while it runs, and at once on SIGHUP.
    """
    # gRPC would write lines of its own into the log, which is JSON, for every connection without TLS
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import uvloop  # noqa: PLC0415 - none of this is needed for help
        from keyswitch_engine.registry import RegistryError  # noqa: PLC0415
        from keyswitch_server import logging, server, settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server is not installed ({error.name}): pip install 'keyswitch[server]'"
        ) from None
    try:
        loaded = settings.load(config, **({"listen": listen} if listen else {}))
    except settings.InvalidSettingsError as error:
        raise click.UsageError(str(error)) from None
    log = logging.configure(loaded.log_level)
    if hasattr(signal, "SIGHUP"):  # until it reloads it must not end what is starting
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        uvloop.run(server.serve(loaded, log, lambda address: click.echo(json.dumps({"listening": address}))))
    except (server.ListenError, server.UnusableFileError, RegistryError) as error:
        raise click.ClickException(str(error)) from None
