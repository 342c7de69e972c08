"""Reading from callers and writing to them, for no longer than a setting allows.

gRPC itself waits for the message of a call for ever, before it calls a handler and without any status, and as long for
a reader that has stopped. So handlers are served as ones that take a stream of requests, which begin with the headers:
on the wire that is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation

__all__ = ["Context", "Patience", "receive", "receive_all", "send"]

Context = grpc.aio.ServicerContext[Any, Any]


class Patience(msgspec.Struct, frozen=True):
    """How long callers may take, in seconds."""

    request: float = 60.0
    """For one request to arrive, from its headers to its last byte."""
    write: float = 30.0
    """For one message to be taken."""


async def receive(context: Context, decode: Callable[[bytes], Any], seconds: float) -> Any:
    """Return the request of a call.

    Raises:
        DispatchError: it did not come in time, ended before it came, or is no message of the method's.
    """
    try:
        async with asyncio.timeout(seconds):
            request = await context.read()
    except TimeoutError:
        raise DispatchError(Reason.CALLER_TIMEOUT, f"the request did not arrive within {seconds:g} s") from None
    if request is grpc.aio.EOF:
        raise InvalidRequest([Violation("request", "did not come: the call ended with its headers")])
    return _decoded(decode, request)


async def receive_all(context: Context, decode: Callable[[bytes], Any], seconds: float) -> AsyncIterator[Any]:
    """Yield the requests of a stream, which ends when its caller says so or is silent for that long.

    Raises:
        InvalidRequest: one of them is no message of the method's.
    """
    while True:
        try:
            async with asyncio.timeout(seconds):
                request = await context.read()
        except TimeoutError:
            return
        if request is grpc.aio.EOF:
            return
        yield _decoded(decode, request)


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
