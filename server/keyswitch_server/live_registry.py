"""The registry in force, which takes up what the operator changes in provider files without a restart.

What does not hold changes nothing: the last good registry stays in force until a whole one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

from keyswitch_engine.registry import Registry, RegistryError

from keyswitch_server.logging import Logger, log_incident

__all__ = ["LiveRegistry"]

_Signature: TypeAlias = tuple[object, ...]


class LiveRegistry:
    """Returns the registry in force when it is called, which a call does once: it ends with what it began with."""

    def __init__(self, load: Callable[[], Registry], directories: Sequence[pathlib.Path], log: Logger) -> None:
        """Load the first one by *load*, which reads the operator's *directories* among others.

        Raises:
            RegistryError: a provider file is invalid.
        """
        self._load = load
        self._directories = tuple(directories)
        self._log = log
        self._asked = asyncio.Event()
        self._seen = _signature(self._directories)  # before they are read, so that no later change is missed
        self._registry = load()

    def __call__(self) -> Registry:
        """Return the registry in force."""
        return self._registry

    def reload(self) -> None:
        """Ask for a reload at once, whether or not anything looks changed; what comes of it is logged."""
        if not self._directories:
            self._log.info("nothing to reload: there are no directories of provider files")
        self._asked.set()

    @contextlib.asynccontextmanager
    async def watched(self, interval: float) -> AsyncIterator[None]:
        """Look for changes every *interval* seconds, 0 for only when asked, until the context is left."""
        if not self._directories:
            yield
            return
        watching = asyncio.create_task(self._watch(interval))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait((watching,))

    async def _watch(self, interval: float) -> None:
        """Look for changes; a bug that shows itself in one look is logged and does not prevent the next."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), interval or None)
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self._look(asked=asked)
            except Exception as error:  # noqa: BLE001 - whatever it is, the registry in force still serves
                log_incident(self._log, error, method="reload of the registry")

    async def _look(self, *, asked: bool) -> None:
        """Reload if something changed; outside of the loop, which tens of milliseconds would hold up for every call."""
        seen = await asyncio.to_thread(_signature, self._directories)
        if seen == self._seen and not asked:
            return
        self._seen = seen  # also of what turns out to be bad, which is told of once
        before = self._registry
        try:
            self._registry = await asyncio.to_thread(self._load)
        except RegistryError as error:
            self._log.error("registry not reloaded", problem=str(error), registry=before.fingerprint)
            return
        self._log.info(
            "registry reloaded",
            registry_before=before.fingerprint,
            registry=self._registry.fingerprint,
            provider_count=len(self._registry.providers),
        )


def _signature(directories: Sequence[pathlib.Path]) -> _Signature:
    """Return what changes whenever a provider file does: names, and what the files behind them are on disk.

    The time of the last change to an inode tells of permissions, and of a write that put the other time back.
    """
    found: list[object] = []
    for directory in directories:
        try:
            paths = sorted(path for path in directory.iterdir() if path.name.endswith(".toml"))
        except OSError as error:
            found.append((directory, error.errno))
            continue
        for path in paths:
            try:
                status = path.stat()
            except OSError as error:
                found.append((path, error.errno))
            else:
                found.append((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(found)
