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
    """Runs coroutines; the thread starts with the first one and ends when it is closed, which is final."""

    def __init__(self) -> None:
        """Prepare."""
        self._lock = threading.RLock()  # a stream that is thrown away calls `soon`, from within anything
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Return what *work* returns; whatever interrupts the waiting cancels it.

        Raises:
            grpc.RpcError: it raised this, or was cancelled.
            ValueError: the thread is closed.
        """
        with self._lock:  # what begins before `close` is on the loop before its end, and so ends with it
            if self._closed:
                work.close()
                raise ValueError("the client is closed")
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
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Cancel what still runs, end the thread, and wait for its end."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._closed = True
        if self._thread is not None:
            self._thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which runs."""
        if self._loop is None:
            runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._loop = runner.get_loop()
            self._thread = threading.Thread(target=_serve, args=(runner,), name="keyswitch-local", daemon=True)
            self._thread.start()
        return self._loop


def _serve(runner: asyncio.Runner) -> None:
    """Run a loop until it is stopped; the runner cancels what is left then, and waits for it."""
    with runner:
        runner.get_loop().run_forever()
