"""Where the calls of a client go: to its server, or to this process, as `locality` says.

Both classes have the methods of the stub that they stand before, and raise what it raises.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
from keyswitch.v1 import error_pb2

from keyswitch_client.errors import KeyswitchError, UnsupportedError, bare, from_status, mixed
from keyswitch_client.locality import LocalOptions, Place, place
from keyswitch_client.loop_thread import LoopThread

if TYPE_CHECKING:
    from keyswitch_client.local import LocalDispatch

__all__ = ["AsyncDispatch", "Dispatch"]

_UNARY: Final = ("Generate", "ExplainRoute", "Embed", "CountTokens", "ListProviderModels", "ValidateCredential")
_NOBODY_THERE: Final = (
    "Connection refused", "actively refused", "No such file or directory", "DNS resolution failed", "lookup failed",
)  # fmt: skip
"""Words of gRPC's for an address where nobody listens, or a name without one.

Whoever answered, be it to a handshake of TLS, is there: a certificate must not decide where a call is made.
"""
_LOG: Final = logging.getLogger("keyswitch_client")
_CLOSED: Final = "the client is closed"
_MISSING: Final = "to dispatch it from this machine: pip install 'keyswitch[local]'"


class AsyncDispatch:
    """The dispatch service of an asynchronous client."""

    def __init__(self, stub: Any, options: LocalOptions) -> None:
        """Stand before *stub*."""
        self._stub = stub
        self._options = options
        self._lock = asyncio.Lock()
        self._local: LocalDispatch | None = None
        self._closed = False
        for name in _UNARY:
            setattr(self, name, functools.partial(self._unary, name))

    async def close(self) -> None:
        """End what is done in this process, for good."""
        async with self._lock:
            self._closed = True
            if self._local is not None:
                await self._local.close()

    async def _unary(self, name: str, request: Any, timeout: float | None = None, metadata: Any = None) -> Any:  # noqa: ASYNC109 - as stubs have it
        """Make a unary call."""
        due = _due(timeout)
        at = place(request, self._options.mode)
        if at is Place.SERVER:
            try:
                return await getattr(self._stub, name)(request, timeout=timeout, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                await self._check_taken(request, error, due)
        local = await self._here(at)
        return await getattr(local, name)(request, timeout=_left(due))

    def StreamGenerate(self, request: Any, timeout: float | None = None, metadata: Any = None) -> Any:
        """Make a streaming call."""
        if self._options.mode == "never":
            return self._stub.StreamGenerate(request, timeout=timeout, metadata=metadata)
        due = _due(timeout)
        at = place(request, self._options.mode)
        call = self._stub.StreamGenerate(request, timeout=timeout, metadata=metadata) if at is Place.SERVER else None

        async def here(error: grpc.aio.AioRpcError | None) -> Any:
            if error is not None:
                await self._check_taken(request, error, due)
            return (await self._here(at)).StreamGenerate(request, timeout=_left(due))

        return _AsyncStream(call, here)

    async def _here(self, at: Place = Place.HERE) -> LocalDispatch:
        """Return what makes calls in this process.

        Raises:
            InvalidRequestError: no single place can.
            ValueError: the client is closed; gRPC's channels say so in the same way.
        """
        if at is Place.NOWHERE:
            raise mixed()
        async with self._lock:
            if self._closed:
                raise ValueError(_CLOSED)
            if self._local is None:
                self._local = await _opened(self._options)
            return self._local

    async def _check_taken(self, request: Any, error: grpc.aio.AioRpcError, due: float | None) -> None:
        """Raise the *error* of a server's again, unless the call is made here for it."""
        refusal = _left_to_client(error, self._options)
        if refusal is None:
            raise error
        try:
            called = await (await self._here()).takes(request, refusal.origins, _left(due))
        except (UnsupportedError, grpc.aio.AioRpcError) as problem:
            raise _hinted(error, problem) from None
        if not called:
            raise error
        _notify(self._options, refusal.why, called)


class _AsyncStream:
    """A streaming call, at the server or here, or here after the server; the task that reads it begins what is here."""

    def __init__(self, call: Any, here: Callable[[grpc.aio.AioRpcError | None], Awaitable[Any]]) -> None:
        """Read from *call*, or from what *here* returns if there is none or it fails before its first response."""
        self._call = call
        self._here = here
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel what is running."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the responses."""
        failure = None
        if self._call is not None:
            begun = False
            try:
                async for response in self._call:
                    begun = True
                    yield response
            except grpc.aio.AioRpcError as error:
                if begun:
                    raise
                failure = error
            else:
                return
        self._call = await self._here(failure)
        if self._cancelled:
            self._call.cancel()
        async for response in self._call:
            yield response


class Dispatch:
    """The dispatch service of a synchronous client."""

    def __init__(self, stub: Any, options: LocalOptions) -> None:
        """Stand before *stub*."""
        self._stub = stub
        self._options = options
        self._thread = LoopThread()
        self._lock = threading.Lock()
        self._local: LocalDispatch | None = None
        self._closed = False
        for name in _UNARY:
            setattr(self, name, functools.partial(self._unary, name))

    def close(self) -> None:
        """End what is done in this process, and the thread that does it, for good."""
        with self._lock:
            if self._local is not None and not self._closed:
                self._thread.run(self._local.close())
            self._closed = True
            self._thread.close()

    def _unary(self, name: str, request: Any, timeout: float | None = None, metadata: Any = None) -> Any:
        """Make a unary call."""
        due = _due(timeout)
        at = place(request, self._options.mode)
        if at is Place.SERVER:
            try:
                return getattr(self._stub, name)(request, timeout=timeout, metadata=metadata)
            except grpc.RpcError as error:
                self._check_taken(request, error, due)
        return self._thread.run(getattr(self._here(at), name)(request, timeout=_left(due)))

    def StreamGenerate(self, request: Any, timeout: float | None = None, metadata: Any = None) -> Any:
        """Make a streaming call."""
        if self._options.mode == "never":
            return self._stub.StreamGenerate(request, timeout=timeout, metadata=metadata)
        due = _due(timeout)
        at = place(request, self._options.mode)
        call = self._stub.StreamGenerate(request, timeout=timeout, metadata=metadata) if at is Place.SERVER else None

        def here(error: Any) -> Any:
            if error is not None:
                self._check_taken(request, error, due)
            local = self._here(at)

            async def begin() -> Any:
                return local.StreamGenerate(request, timeout=_left(due))

            return _Pulled(self._thread, self._thread.run(begin()))

        return _Stream(call, here)

    def _here(self, at: Place = Place.HERE) -> LocalDispatch:
        """Return what makes calls in this process.

        Raises:
            InvalidRequestError: no single place can.
            ValueError: the client is closed; gRPC's channels say so in the same way.
        """
        if at is Place.NOWHERE:
            raise mixed()
        with self._lock:
            if self._closed:
                raise ValueError(_CLOSED)
            if self._local is None:
                self._local = self._thread.run(_opened(self._options))
            return self._local

    def _check_taken(self, request: Any, error: Any, due: float | None) -> None:
        """Raise the *error* of a server's again, unless the call is made here for it."""
        refusal = _left_to_client(error, self._options)
        if refusal is None:
            raise error
        try:
            called = self._thread.run(self._here().takes(request, refusal.origins, _left(due)))
        except (UnsupportedError, grpc.RpcError) as problem:
            raise _hinted(error, problem) from None
        if not called:
            raise error
        _notify(self._options, refusal.why, called)


class _Stream:
    """A streaming call, at the server or here, or here after the server."""

    def __init__(self, call: Any, here: Callable[[Any], Any]) -> None:
        """Read from *call*, or from what *here* returns if there is none or it fails before its first response."""
        self._call = call
        self._here = here
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel what is running."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the responses."""
        failure = None
        if self._call is not None:
            begun = False
            try:
                for response in self._call:
                    begun = True
                    yield response
            except grpc.RpcError as error:
                if begun:
                    raise
                failure = error
            else:
                return
        self._call = self._here(failure)
        if self._cancelled:
            self._call.cancel()
        yield from self._call


class _Pulled:
    """A stream of the loop's, pulled response by response from another thread."""

    def __init__(self, thread: LoopThread, stream: Any) -> None:
        self._thread = thread
        self._stream = stream

    def cancel(self) -> None:
        """End the call, unless it has ended."""
        self._thread.soon(self._stream.cancel)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the responses."""
        while (response := self._thread.run(self._next())) is not None:
            yield response

    async def _next(self) -> Any:
        """Return the next response, None behind the last one."""
        return await anext(self._stream, None)


async def _opened(options: LocalOptions) -> LocalDispatch:
    """Return what makes calls in this process; everything that this needs is imported here.

    Raises:
        UnsupportedError: a part of it is not installed.
    """
    try:
        from keyswitch_client.local import LocalDispatch  # noqa: PLC0415 - few clients need it, and it costs a lot
    except ModuleNotFoundError as error:
        message = f"the engine is not complete in this process ({error.name}); {_MISSING}"
        raise UnsupportedError(grpc.StatusCode.UNIMPLEMENTED, message, error_pb2.DispatchFailure()) from None
    return await LocalDispatch.open(options)


class _Refusal(NamedTuple):
    """A server's way to leave a call to its client."""

    why: str
    """In words."""
    origins: tuple[str, ...] | None
    """Where the server would have called; None if there is no server."""


def _left_to_client(error: Any, options: LocalOptions) -> _Refusal | None:
    """Return how the server leaves a call to its client; None where it does not."""
    if options.mode != "auto":
        return None
    told = _translated(error)
    if told.code is grpc.StatusCode.PERMISSION_DENIED and told.reason == "BLOCKED_ENDPOINT":
        return _Refusal("the server does not call local endpoints", told.origins)
    nobody = told.code is grpc.StatusCode.UNAVAILABLE and not told.reason
    if nobody and any(words in (error.details() or "") for words in _NOBODY_THERE):
        return _Refusal("no server is there", None)
    return None


def _translated(error: Any) -> KeyswitchError:
    return from_status(error.code(), error.details(), error.trailing_metadata())


def _hinted(error: Any, problem: Any) -> KeyswitchError:
    """Return the error of a server's with the *problem* that kept the call from being made here, if that matters."""
    translated = _translated(error)
    if not isinstance(bare(problem), UnsupportedError):
        translated.hint = f"not dispatched from this machine: {problem.details()}"
    elif translated.reason == "BLOCKED_ENDPOINT":
        translated.hint = _MISSING
    return translated


def _notify(options: LocalOptions, why: str, called: tuple[str, ...]) -> None:
    """Tell whoever wants to know, or the log, that a call is made here, and where it goes."""
    (options.notify or _LOG.warning)(f"{why}; dispatched from this machine to {' and '.join(called)}")


def _due(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(due: float | None) -> float | None:
    """Return the seconds that are left, none at the least."""
    return None if due is None else max(due - time.monotonic(), 0.0)
