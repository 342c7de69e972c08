"""`keyswitch decode`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import click
import msgspec
from keyswitch_engine import registry
from keyswitch_engine.decode import UnknownProtocolError, cut, decode_answer

from keyswitch_cli.command import PrintingCommand, hide
from keyswitch_cli.output import print_line

__all__ = ["command"]


class _Line(msgspec.Struct):
    """One answer of a batch; unknown fields are ignored."""

    id: str
    protocol: str
    status: int
    body_file: str
    provider: str = ""
    stream: bool | None = None
    headers: dict[str, str | list[str]] = {}
    chunk_bytes: str | int | None = None
    chunk_sizes: list[int] | None = None


@click.command("decode", cls=PrintingCommand)
@click.argument("body", required=False, type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--provider", default="", help="The provider that answered; its dialect's defaults if not given.")
@click.option("--dialect", default="", help="The wire protocol; the provider's first if not given.")
@click.option(
    "--status", type=click.IntRange(100, 599), default=200, show_default=True, help="HTTP status of the answer."
)
@click.option(
    "--headers",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="File with the answer's headers, a JSON object.",
)
@click.option(
    "--stream/--no-stream", default=None, help="Whether a stream was asked for; judged by the body if not given."
)
@click.option("--chunk-bytes", default="", metavar="N|random:SEED", help="Feeds the answer in pieces.")
@click.option(
    "--batch", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path), help="File of answers, one a line."
)
def command(  # noqa: PLR0917 - click passes them by name
    body: pathlib.Path | None,
    provider: str,
    dialect: str,
    status: int,
    headers: pathlib.Path | None,
    chunk_bytes: str,
    batch: pathlib.Path | None,
    *,
    stream: bool | None,
) -> None:
    """Decode a captured answer BODY as the engine would, and print what it amounts to as one JSON object.

    Exits 0 whatever the answer's outcome. With --batch, reads one JSON object a line (id, provider, protocol, stream,
    status, headers, body_file, and optionally chunk_bytes or chunk_sizes) and prints one result a line.
    """
    if (body is None) == (batch is None):
        raise click.UsageError("give one of BODY and --batch")
    rows = registry.load()
    if batch is not None:
        for number, text in enumerate(batch.read_bytes().splitlines(), 1):
            try:
                line = msgspec.json.decode(text, type=_Line)
                result = _decode(rows, line, batch.parent)
            except (msgspec.DecodeError, UnknownProtocolError, ValueError, OSError) as error:
                raise click.UsageError(f"--batch: line {number}: {error}") from None
            print_line(msgspec.json.encode({"id": line.id} | result).decode())
        return
    assert body is not None  # noqa: S101 - one of the two is given
    try:
        line = _Line(
            id="",
            protocol=dialect,
            provider=provider,
            status=status,
            body_file=str(body.absolute()),
            stream=stream if stream is not None else _looks_streamed(body),
            headers=msgspec.json.decode(headers.read_bytes(), type=dict[str, str | list[str]])
            if headers is not None
            else {},
            chunk_bytes=chunk_bytes or None,
        )
        result = _decode(rows, line, body.parent)
    except (msgspec.DecodeError, UnknownProtocolError, ValueError, OSError) as error:
        raise click.UsageError(hide(str(error), (dialect, chunk_bytes))) from None
    print_line(msgspec.json.encode(result).decode())


def _looks_streamed(body: pathlib.Path) -> bool:
    """Guess by the first visible byte: a whole answer is a JSON value."""
    with body.open("rb") as file:
        return file.read(4096).lstrip()[:1] not in (b"{", b"[")


def _decode(rows: registry.Registry, line: _Line, folder: pathlib.Path) -> dict[str, object]:
    """Decode one answer."""

    def chunks() -> Iterator[bytes]:
        size = None if line.chunk_bytes is None else str(line.chunk_bytes)
        body = pathlib.Path(line.body_file)
        if not body.exists():  # not from here, so from the batch file's folder
            body = folder / body
        return cut(body.read_bytes(), size, line.chunk_sizes)

    headers = {name: value if isinstance(value, str) else ", ".join(value) for name, value in line.headers.items()}
    return decode_answer(
        rows,
        provider=line.provider,
        protocol=line.protocol,
        status=line.status,
        headers=headers,
        stream=line.stream,
        chunks=chunks(),
    )
