"""Reading from callers and writing to them, for no longer than a setting allows.

gRPC itself waits for the message of a call for ever, before it calls a handler and without any status, and as long for
a reader that has stopped. So handlers are served as ones that take a stream of requests, which begin with the headers:
on the wire that is the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation
from keyswitch_engine.operator import ANONYMOUS

from keyswitch_server.caller import current_caller

__all__ = ["Context", "NoRequestError", "Patience", "Receiver", "send"]

Context = grpc.aio.ServicerContext[Any, Any]

_PROMPT_SECONDS = 1.0
"""What takes longer to arrive is large, or not meant to arrive."""
_BRIEF_SECONDS = 2.0
"""For requests of a few bytes from whoever sends them."""
_RETRY_SECONDS = 1.0


class Patience(msgspec.Struct, frozen=True):
    """How long callers may take, in seconds."""

    request: float = 60.0
    """For one request to arrive, from its headers to its last byte."""
    write: float = 30.0
    """For one message to be taken."""
    slow_requests: int = 32
    """How many requests may take longer than a second to arrive: gRPC keeps what has come of each in memory.

    A caller who proved who they are has a quarter of them, at least one."""


class NoRequestError(InvalidRequest):
    """A call ended without a request; so does that of a caller who left."""

    def __init__(self) -> None:
        """Say so to a caller who did not."""
        super().__init__([Violation("request", "did not come: the call ended with its headers")])


class Receiver:
    """Reads the requests of all calls."""

    def __init__(self, patience: Patience) -> None:
        """Wait with *patience*."""
        self._seconds = patience.request
        self._most_slow = patience.slow_requests
        self._share = max(1, patience.slow_requests // 4)
        self._slow: Counter[str] = Counter()

    async def one(self, context: Context, decode: Callable[[bytes], Any], *, briefly: bool = False) -> Any:
        """Return the request of a call; *briefly* waits for two seconds at most, and counts it among no slow ones.

        Raises:
            DispatchError: it did not come in time, ended before it came, or is no message of the method's; or it is
                slow, and too many others are.
        """
        seconds = min(_BRIEF_SECONDS, self._seconds) if briefly else self._seconds
        try:
            if briefly:
                async with asyncio.timeout(seconds):
                    request = await context.read()
            else:
                request = await self._read(context)
        except TimeoutError:
            raise DispatchError(Reason.CALLER_TIMEOUT, f"the request did not arrive within {seconds:g} s") from None
        if request is grpc.aio.EOF:
            raise NoRequestError
        return _decoded(decode, request)

    async def all(self, context: Context, decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """Yield the requests of a stream, which ends when its caller says so or is silent for too long.

        Nothing tells a stream that is idle from one whose next request is on its way: both count as slow.

        Raises:
            DispatchError: one of them is no message of the method's; or it is slow, and too many others are.
        """
        while True:
            try:
                request = await self._read(context)
            except TimeoutError:
                return
            if request is grpc.aio.EOF:
                return
            yield _decoded(decode, request)

    async def _read(self, context: Context) -> Any:
        """Wait for a message, in one of the places of slow ones after a second.

        Raises:
            DispatchError: there was no such place.
            TimeoutError: it did not come in time.
        """
        if self._seconds <= _PROMPT_SECONDS:
            async with asyncio.timeout(self._seconds):
                return await context.read()
        loop, caller, slow, crowded = asyncio.get_running_loop(), current_caller(), False, False
        try:
            async with asyncio.timeout(None) as limit:  # set when it is looked at: nearly no call waits for so long

                def look() -> None:
                    nonlocal slow, crowded
                    slow = self._has_place(caller)
                    crowded = not slow
                    if slow:
                        self._slow[caller] += 1
                    limit.reschedule(loop.time() + (self._seconds - _PROMPT_SECONDS if slow else 0.0))

                looking = loop.call_later(_PROMPT_SECONDS, look)
                try:
                    return await context.read()
                finally:
                    looking.cancel()
                    if slow:
                        self._slow -= Counter((caller,))  # which forgets who has none left
        except TimeoutError:
            if not crowded:
                raise
            error = DispatchError(Reason.OVERLOADED, "too many requests are slow to arrive; try again later")
            error.retry_after = _RETRY_SECONDS
            raise error from None

    def _has_place(self, caller: str) -> bool:
        """Tell whether one more request of a caller's may be slow; who is known has a share, which is not the whole."""
        known = caller != ANONYMOUS
        return self._slow.total() < self._most_slow and not (known and self._slow[caller] >= self._share)


async def send(context: Context, response: Any, seconds: float) -> None:
    """Write a response.

    Raises:
        DispatchError: the caller does not read.
    """
    try:
        async with asyncio.timeout(seconds):
            await context.write(response)
    except TimeoutError:
        raise DispatchError(Reason.CALLER_TIMEOUT, f"the caller did not read for {seconds:g} s") from None


def _decoded(decode: Callable[[bytes], Any], request: bytes) -> Any:
    """Decode a request."""
    try:
        return decode(request)
    except DecodeError as error:
        violation = Violation("request", "is not the protobuf message that this method takes")
        raise InvalidRequest([violation]) from error
