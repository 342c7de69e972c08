"""Text from files and standard input."""

from __future__ import annotations

import pathlib
import sys

import click

__all__ = ["read_file", "read_stdin"]


def read_file(path: str, where: str) -> str:
    """Return a file's text; *path* may begin with `~`.

    Raises:
        click.UsageError: it cannot be read. The message names *where*, not *path*, which may be a key by mistake.
    """
    try:
        return _text(pathlib.Path(path).expanduser().read_bytes(), where)
    except OSError as error:
        raise click.UsageError(f"{where}: the file cannot be read: {error.strerror}") from None
    except RuntimeError:  # of expanduser
        raise click.UsageError(f"{where}: the file cannot be read: no such home directory") from None


def read_stdin(where: str) -> str:
    """Return all of standard input, nothing if it is closed.

    Raises:
        click.UsageError: it is not UTF-8 text; the message names *where*.
    """
    return "" if sys.stdin is None else _text(sys.stdin.buffer.read(), where)


def _text(content: bytes, where: str) -> str:
    """Decode what some editors begin with a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{where}: not UTF-8 text") from None
