"""Files that are taken up without a restart when they change: tokens, keys of issuers, certificates.

What does not hold is logged with its reason and changes nothing: the last good content stays in force. Files are looked
at and read in threads, so that whoever asks for what is in force, in a call or in a handshake, waits for no disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from keyswitch_engine.secret import without_keys

from keyswitch_server.logging import Logger, log_incident

__all__ = ["LiveFile", "UnusableFileError", "read_bytes", "watched"]

T = TypeVar("T")
_LOOK_SECONDS = 1.0


class UnusableFileError(Exception):
    """A file cannot be used; the message names the setting and says why, and repeats nothing that is in the file."""


class LiveFile(Generic[T]):
    """What one or more files hold together; returned when it is called."""

    def __init__(self, setting: str, paths: Sequence[pathlib.Path], read: Callable[[], T], log: Logger) -> None:
        """Read the *paths* of a *setting* by *read*.

        Raises:
            UnusableFileError: what they hold cannot be used.
        """
        self._setting = setting
        self._paths = tuple(paths)
        self._read = read
        self._log = log
        self._looking = asyncio.Lock()
        self._executor = ThreadPoolExecutor(1, setting)
        self._seen = _signature(self._paths)  # before it is read, so that the next look notices a change meanwhile
        self._content = read()

    def __call__(self) -> T:
        """Return what is in force."""
        return self._content

    async def look(self) -> None:
        """Take up what has changed by now; nothing else happens here that could fail."""
        async with self._looking:
            loop = asyncio.get_running_loop()
            try:
                changed = await loop.run_in_executor(self._executor, self._changed)
            except UnusableFileError as error:
                self._log.error("file not reloaded", setting=self._setting, problem=str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, what is in force still serves
                log_incident(self._log, error, method=f"reload of {self._setting}")
            else:
                if changed:
                    self._log.info("file reloaded", setting=self._setting)

    def close(self) -> None:
        """Look no more; a look that hangs in a file system is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _changed(self) -> bool:
        """Read what has changed; tell whether it did. What is still being written is left to the next look."""
        before = _signature(self._paths)
        if before == self._seen:
            return False
        found: T | UnusableFileError
        try:
            found = self._read()
        except UnusableFileError as error:
            found = error
        if _signature(self._paths) != before:
            return False
        self._seen = before  # also of what turns out to be bad, which is told of once
        if isinstance(found, UnusableFileError):
            raise found
        self._content = found
        return True


@contextlib.asynccontextmanager
async def watched(files: Iterable[LiveFile[Any]]) -> AsyncIterator[None]:
    """Look at each file once a second until the context is left; one that hangs delays no other."""
    files = tuple(files)
    watching = [asyncio.create_task(_watch(file)) for file in files]
    try:
        yield
    finally:
        for task in watching:
            task.cancel()
        for file in files:
            file.close()
        await asyncio.gather(*watching, return_exceptions=True)


async def _watch(file: LiveFile[Any]) -> None:
    """Look at a file again and again."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        await file.look()


def read_bytes(setting: str, path: pathlib.Path) -> bytes:
    """Return the content of a setting's file.

    Raises:
        UnusableFileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableFileError(f"{setting}: {_named(path)} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnusableFileError(f"{setting}: no file has such a name") from None


def _named(path: pathlib.Path) -> str:
    """Return the name of a file that may be none, but a key or a token that was given in its place."""
    folder = str(path.parent)
    is_one = folder != "." and os.path.isdir(folder)  # noqa: PTH112 - pathlib's raises for names that are too long
    return str(path) if is_one else without_keys(str(path))


def _signature(paths: Sequence[pathlib.Path]) -> tuple[object, ...]:
    """Return what changes whenever a file does, a link that leads elsewhere included."""
    found: list[object] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev))
    return tuple(found)
