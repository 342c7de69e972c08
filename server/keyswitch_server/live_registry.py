"""The registry in force, which takes up what the operator changes in provider files without a restart.

What does not hold changes nothing: the last good registry stays in force until a whole one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeAlias

from keyswitch_engine.registry import Registry, RegistryError

from keyswitch_server.logging import Logger, log_incident

__all__ = ["LiveRegistry"]

_Signature: TypeAlias = tuple[object, ...]


_TRIES = 5
"""How often files are read that change while they are read."""
_LONGEST_WAIT = 60.0
"""Seconds between two tries to load what does not load, at most: what is wrong may lie elsewhere than in the files."""


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
        self._problem = ""
        self._wait = 0.0
        self._retry_at = math.inf
        self._registry, self._seen = self._loaded()

    def __call__(self) -> Registry:
        """Return the registry in force."""
        return self._registry

    def reload(self) -> None:
        """Ask for a reload at once, whether or not anything looks changed; what comes of it is logged."""
        self._asked.set()

    @contextlib.asynccontextmanager
    async def watched(self, interval: float) -> AsyncIterator[None]:
        """Look for changes every *interval* seconds until the context is left; at 0, and without files, when asked."""
        # a thread of its own: leaving waits for none that hangs in a file system, as it would for the loop's
        executor = ThreadPoolExecutor(1, "registry")
        watching = asyncio.create_task(self._watch(executor, interval if self._directories else 0.0))
        try:
            yield
        finally:
            watching.cancel()
            executor.shutdown(wait=False, cancel_futures=True)
            await asyncio.wait((watching,))

    async def _watch(self, executor: Executor, interval: float) -> None:
        """Look for changes; a bug that shows itself in one look is logged and does not prevent the next."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), interval or None)
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self._look(executor, asked=asked)
            except Exception as error:  # noqa: BLE001 - whatever it is, the registry in force still serves
                self._retry_later()
                log_incident(self._log, error, method="reload of the registry")

    async def _look(self, executor: Executor, *, asked: bool) -> None:
        """Reload if something changed; outside of the loop, which tens of milliseconds would hold up for every call."""
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(executor, _signature, self._directories)
        changed = seen != self._seen
        if not changed and not asked and loop.time() < self._retry_at:
            return
        if changed or asked:
            self._wait, self._problem = 0.0, ""
        self._seen = seen  # also of what turns out to be bad, which is told of once
        before = self._registry
        try:
            self._registry, self._seen = await loop.run_in_executor(executor, self._loaded)
        except RegistryError as error:
            self._retry_later()
            if str(error) != self._problem:
                self._log.error("registry not reloaded", problem=str(error), registry=before.fingerprint)
            self._problem = str(error)
            return
        self._wait, self._retry_at, self._problem = 0.0, math.inf, ""
        self._log.info(
            "registry reloaded",
            registry_before=before.fingerprint,
            registry=self._registry.fingerprint,
            provider_count=len(self._registry.providers),
        )

    def _retry_later(self) -> None:
        """Try again by itself, less and less often."""
        self._wait = min(max(1.0, self._wait * 2), _LONGEST_WAIT)
        self._retry_at = asyncio.get_running_loop().time() + self._wait

    def _loaded(self) -> tuple[Registry, _Signature]:
        """Load what does not change while it is read, lest two versions of the operator's be in force by halves.

        Raises:
            RegistryError: a provider file is invalid, or the files change all the time.
        """
        before = _signature(self._directories)
        for _ in range(_TRIES):
            found: Registry | RegistryError
            try:
                found = self._load()
            except RegistryError as error:
                found = error
            after = _signature(self._directories)
            if after == before and isinstance(found, RegistryError):
                raise found
            if after == before and isinstance(found, Registry):
                return found, after
            before = after
        raise RegistryError("the provider files change all the time while they are read")


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
