"""The user's own folder, and files in it that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import sys
from collections.abc import Iterator

import click

__all__ = ["home", "locked", "provider_directories", "write"]


def home() -> pathlib.Path:
    """Return the folder of what the user has set up: `KEYSWITCH_HOME`, or where the system keeps such things."""
    return pathlib.Path(os.environ.get("KEYSWITCH_HOME") or click.get_app_dir("keyswitch"))


def provider_directories() -> tuple[pathlib.Path, ...]:
    """Return the folder of the user's own provider files, if there is one."""
    directory = home() / "providers"
    return (directory,) if directory.is_dir() else ()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep other commands from changing files of the folder meanwhile."""
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - not everywhere

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write(path: pathlib.Path, text: str) -> None:
    """Replace a file, the one that a link leads to; what fails leaves the old one as it was.

    A new file is its owner's alone from the first byte; an old one stays open to whom it was.
    """
    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of a command that was killed, by the same number
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            beside.chmod(stat.S_IMODE(path.stat().st_mode))
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
