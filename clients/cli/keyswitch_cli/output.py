"""Text that others wrote, on the standard streams: exact in a pipe, harmless on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import click

__all__ = ["TextOutput", "print_line", "table"]

_HARMLESS = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"}
    | {ord("\r"): None, 0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
)
"""Control characters as the pictures that Unicode has for them; they could retitle, recolour or rewrite a terminal, and
those of direction show a line in another order than it has."""
_IN_ONE_LINE = _HARMLESS | {ord("\t"): 0x2409, ord("\n"): 0x240A}


def _harmless(text: str, *, err: bool, table: Mapping[int, int | None] = _HARMLESS) -> str:
    """Return *text* as it may be shown: unchanged unless the stream, standard error if *err*, is a terminal."""
    stream = sys.stderr if err else sys.stdout
    return text.translate(table) if stream is not None and stream.isatty() else text


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: aligned under *heading* on a terminal, else tab-separated and without it."""
    if sys.stdout is None or not sys.stdout.isatty():
        yield from ("\t".join(row) for row in rows)
        return
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def print_line(text: str, *, err: bool = False) -> None:
    """Print one line that has text of others in it, on standard error if *err*; their line ends begin no other."""
    # colour means that click takes no escape sequences out of what is piped
    click.echo(_harmless(text, err=err, table=_IN_ONE_LINE), err=err, color=True)


class TextOutput:
    """Text that comes in pieces, and in the end a line end unless it had one."""

    def __init__(self, *, err: bool = False) -> None:
        """Write to standard output, or to standard error if *err*."""
        self._err = err
        self._line_is_open = False

    def write(self, text: str) -> None:
        """Write a piece, at once."""
        if text:
            # coloured for the same reason as a line
            click.echo(_harmless(text, err=self._err), nl=False, err=self._err, color=True)
            self._line_is_open = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line, if one was begun."""
        if self._line_is_open:
            click.echo(err=self._err)
            self._line_is_open = False
