"""Text from files and standard input."""

from __future__ import annotations

import os
import pathlib
import sys

import click

__all__ = ["is_literal", "read_file", "read_stdin", "read_value"]

_readers: list[str] = []
"""What has read standard input, which this process has one of."""


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
        click.UsageError: it is not UTF-8 text, or was read before, for another place; the message names *where*.
    """
    if _readers:
        raise click.UsageError(f"{where}: standard input gives {_readers[0]} already, and one thing only")
    _readers.append(where)
    return "" if sys.stdin is None else _text(sys.stdin.buffer.read(), where)


def read_value(value: str, where: str) -> str:
    """Return what *value* stands for: the text of `@FILE`, the variable `env:NAME`, standard input for `-`, or itself.

    Raises:
        click.UsageError: there is nothing, or it cannot be read. The message names *where*, never *value*.
    """
    if value == "-":
        text = read_stdin(where)
    elif value.startswith("@"):
        text = read_file(value[1:], where)
    elif value.startswith("env:"):
        text = os.environ.get(value[4:], "")
    else:
        text = value
    text = text.strip()
    if not text:
        raise click.UsageError(f"{where}: the value is empty or not set")
    return text


def is_literal(value: str) -> bool:
    """Tell whether a value stands for itself."""
    return value != "-" and not value.startswith(("@", "env:"))


def _text(content: bytes, where: str) -> str:
    """Decode what some editors begin with a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{where}: not UTF-8 text") from None
