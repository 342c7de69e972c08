"""The user's own folder, and files in it that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import sys
from collections.abc import Iterator

import click

__all__ = ["check_writable", "home", "locked", "provider_directories", "write"]


def home() -> pathlib.Path:
    """Return the folder of what the user has set up: `KEYSWITCH_HOME`, or where the system keeps such things."""
    return pathlib.Path(os.environ.get("KEYSWITCH_HOME") or click.get_app_dir("keyswitch"))


def provider_directories() -> tuple[pathlib.Path, ...]:
    """Return the folder of the user's own provider files, if there is one."""
    directory = home() / "providers"
    return (directory,) if directory.is_dir() else ()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep other commands from changing files of the folder meanwhile.

    Raises:
        click.ClickException: nothing can be written there.
    """
    path = home() / ".lock"
    with _told(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - not everywhere

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def check_writable(path: pathlib.Path) -> None:
    """Make sure that a file can be replaced, before anything else is changed that goes with it.

    Raises:
        click.ClickException: it cannot.
    """
    path = path.resolve()
    with _told(path), _beside(path, ""):
        pass


def write(path: pathlib.Path, text: str) -> None:
    """Replace a file, the one that a link leads to.

    A new file is its owner's alone from the first byte; an old one keeps owner, group and mode, or it is not replaced.

    Raises:
        click.ClickException: it cannot be written; the old one is as it was.
    """
    path = path.resolve()
    with _told(path), _beside(path, text) as beside:
        beside.replace(path)


@contextlib.contextmanager
def _beside(path: pathlib.Path, text: str) -> Iterator[pathlib.Path]:
    """Lend a file with a text beside another, whose place it can take."""
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
            _give(beside, path.stat())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _give(beside: pathlib.Path, old: os.stat_result) -> None:
    """Open a file to whom another was open, and to nobody else on the way."""
    new = beside.stat()
    if sys.platform != "win32" and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(beside, old.st_uid, old.st_gid)
        except PermissionError as error:
            raise OSError(error.errno, "it would get another owner or group") from None
    beside.chmod(stat.S_IMODE(old.st_mode))


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    """Tell of what the system refuses by the file that it is about."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{path}: it cannot be written: {error.strerror or type(error).__name__}") from None
