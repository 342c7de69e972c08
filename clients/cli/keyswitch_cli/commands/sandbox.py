"""`keyswitch sandbox`."""

from __future__ import annotations

import json
import pathlib

import click

from keyswitch_cli.command import Command

__all__ = ["command"]


@click.command("sandbox", cls=Command)
@click.option(
    "--listen",
    default="127.0.0.1:50552",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; loopback only.",
)
@click.option(
    "--replay",
    type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
    help="Folder of recordings, served as the models replay/<id>.",
)
@click.option(
    "--chunk-bytes", default="", metavar="N|random:SEED", help="Cuts replayed answers, instead of as recorded."
)
@click.option("--model-server", is_flag=True, help="Needs no key and has any model, as local model servers.")
def command(listen: str, replay: pathlib.Path | None, chunk_bytes: str, *, model_server: bool) -> None:
    """Run a provider's double: the model's name chooses what it does, for example sandbox/echo.

    Prints one JSON line, {"listening": "HOST:PORT"}, when it accepts calls.
    """
    try:
        import asyncio  # noqa: PLC0415 - none of this is needed for help
        import contextlib  # noqa: PLC0415
        import ipaddress  # noqa: PLC0415
        import signal  # noqa: PLC0415

        from keyswitch_sandbox import Recordings, Sandbox  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the sandbox is not installed ({error.name}): pip install 'keyswitch[server]'"
        ) from None
    host, _, port = listen.rpartition(":")
    try:
        fits = ipaddress.ip_address(host).is_loopback and 0 <= int(port) < 1 << 16
    except ValueError:
        fits = False
    if not fits:
        raise click.UsageError("--listen: expected a loopback address and a port, such as 127.0.0.1:50552")
    if chunk_bytes and replay is None:
        raise click.UsageError("--chunk-bytes goes with --replay")
    try:
        recordings = Recordings(replay, chunk_bytes) if replay is not None else None
    except ValueError as error:
        raise click.UsageError(f"--replay: {error}") from None

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            try:
                sandbox = await stack.enter_async_context(
                    Sandbox(host, int(port), recordings, model_server=model_server)
                )
            except OSError as error:
                raise click.ClickException(f"cannot listen on {listen}: {error.strerror}") from None
            click.echo(json.dumps({"listening": sandbox.listening}))
            await stop.wait()

    asyncio.run(run())
