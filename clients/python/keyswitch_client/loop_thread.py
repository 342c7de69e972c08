"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc

__all__ = ["LoopThread"]

R = TypeVar("R")


class LoopThread:
    """Runs coroutines; the thread starts with the first one and ends when it is closed."""

    def __init__(self) -> None:
        """Prepare."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Return what *work* returns; whatever interrupts the waiting cancels it.

        Raises:
            grpc.RpcError: it raised this, or was cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "the call was cancelled"
            ) from None
        finally:
            future.cancel()

    def soon(self, call: Callable[[], object]) -> None:
        """Call something on the loop, without waiting for it; nothing if the loop has ended."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """End the thread, and wait for its end."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which runs."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="keyswitch-local", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
