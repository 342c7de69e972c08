"""Every RPC ends with a status.

grpc.aio sends no status at all for a stray `CancelledError` or a `BaseExceptionGroup`, sends the text of other
exceptions to the client, and dies of `SystemExit`. This interceptor, outermost of all, turns each into a status that
tells nothing of the inside but an incident id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from keyswitch_bridge.negotiation import refuse_old_client
from keyswitch_bridge.status import CODES, RpcFailure, internal_failure, rpc_failure
from keyswitch_engine.errors import DispatchError, Reason

from keyswitch_server.authentication import UnauthenticatedError
from keyswitch_server.gate import Gate
from keyswitch_server.logging import Logger, log_call, log_incident
from keyswitch_server.peer import Context, NoRequestError, Patience, Receiver, send

__all__ = ["Guard", "client_left", "commit", "stopped"]

R = TypeVar("R")

_LAST_WORDS_SECONDS = 5.0
"""How long a status may take to be sent; a caller that does not read would hold it back for ever."""
_BY_CLIENT = (
    ". An endpoint of your own machine or network is dispatched by your client: the command keyswitch does that by "
    "itself, and the library keyswitch_client with local='auto'"
)
"""What people can do who meant their own machine; only a server has clients that could."""
_OURS = "/keyswitch.v1."
_LOGS_ITSELF = "/keyswitch.v1.DispatchService/"
_FOR_ALL = "/keyswitch.v1.RegistryService/GetRegistryInfo"
"""Tells which clients the server understands, and so has to be understood itself."""


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler, those of health and reflection too, and logs each call once."""

    def __init__(self, log: Logger, gate: Gate, patience: Patience = Patience()) -> None:  # noqa: B008 - it is frozen
        """Log calls and incidents to *log*; let in whom *gate* lets in; wait for callers with *patience*."""
        self._log = log
        self._gate = gate
        self._receiver = Receiver(patience)
        self._write_seconds = patience.write
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unfinished: set[asyncio.Task[Any]] = set()
        """Tasks of calls, and of those whose last bytes are being sent."""
        self._awaited: set[asyncio.Task[Any]] = set()
        self._refusing = False
        self.broken_off = False
        """Whether calls are ended before they are over."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the wrapped handler of a method; wrapped once, since handlers never change."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # nobody serves this method
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def refuse(self) -> None:
        """Refuse every call whose request has not come yet, with a status that lets it be tried elsewhere."""
        self._refusing = True
        for task in self._awaited:
            task.cancel()

    def break_off(self) -> None:
        """End every call at once, each with a status that forbids to try it again: its provider may have been called.

        Left to itself, gRPC would end them with a bare UNAVAILABLE, and clients would send them to another server.
        """
        self._refusing = self.broken_off = True
        for task in self._tasks:
            task.cancel()

    def _admit(self) -> None:
        """Refuse a call that comes too late; another server can take it."""
        if self._refusing:
            error = DispatchError(Reason.SERVER_STOPPED, "the server is stopping")
            error.retryable = True
            raise error

    async def _awaiting(self, receive: Callable[[], Awaitable[R]]) -> R:
        """Wait for a request, unless the server stops: it would wait for callers that send nothing."""
        self._admit()  # the gate may have taken its time
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handler runs in a task")
        self._awaited.add(task)
        try:
            return await receive()
        except asyncio.CancelledError:
            if self._refusing:
                task.uncancel()
            self._admit()
            raise
        finally:
            self._awaited.discard(task)

    async def _awaiting_each(self, requests: AsyncIterator[R]) -> AsyncIterator[R]:
        """Wait likewise for each of a stream of requests."""
        while True:
            try:
                request = await self._awaiting(requests.__anext__)
            except StopAsyncIteration:
                return
            yield request

    async def wait_idle(self) -> None:
        """Wait until every call has ended, its cleaning up included.

        `Server.stop` may return before that, and later too: it waits for callers to close their connections.
        """
        while self._unfinished:
            await asyncio.wait(self._unfinished)

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap a handler of any kind as one that reads its requests itself, so that it begins with the headers."""
        decode, encode = handler.request_deserializer, {"response_serializer": handler.response_serializer}
        briefly = self._gate.is_open(method)  # whom nobody knows takes no place of those who are known

        async def single(context: Context) -> Any:
            return await self._awaiting(lambda: self._receiver.one(context, decode or bytes, briefly=briefly))

        async def stream(context: Context) -> AsyncIterator[Any]:
            return self._awaiting_each(self._receiver.all(context, decode or bytes))

        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._guarded(method, handler.unary_unary, single), **encode)
        if handler.unary_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded(method, self._written(handler.unary_stream), single), **encode
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded(method, self._written(handler.stream_stream), stream), **encode
            )
        raise TypeError(f"{method}: client streaming is not served")

    def _guarded(self, method: str, behaviour: Any, receive: Callable[[Context], Awaitable[Any]]) -> Any:
        """Run a behaviour so that it ends with an answer or a status; what it takes is read by *receive*."""
        negotiated = method.startswith(_OURS) and method != _FOR_ALL

        async def guarded(_: object, context: Context) -> Any:
            task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a handler runs in a task")
            line = _Line(self._log, method)
            self._tasks.add(task)
            self._unfinished.add(task)
            task.add_done_callback(self._unfinished.discard)
            try:
                self._admit()
                with await self._gate.enter(method, context):
                    if negotiated:
                        refuse_old_client(_user_agent(context))
                    request = await receive(context)
                    if method.startswith(_LOGS_ITSELF):
                        line.leave()
                    answer = await behaviour(request, context)
                    line.ended("OK")
                    return answer
            except DispatchError as error:
                await _refuse(context, line, error)
            except grpc.aio.AbortError:
                line.failed(context.code().name)
                raise
            except asyncio.CancelledError as error:
                if self.broken_off:
                    task.uncancel()
                    line.refused(stopped())
                    await _abort(context, rpc_failure(stopped()))
                if task.cancelling():
                    line.ended("CANCELLED")
                    raise
                line.failed("INTERNAL")
                await self._incident(method, context, error)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the RPC has to end with a status
                if client_left(error):
                    line.ended("CANCELLED")
                    raise asyncio.CancelledError from None
                line.failed("INTERNAL")
                await self._incident(method, context, error)
            finally:
                self._tasks.discard(task)

        return guarded

    def _written(self, behaviour: Any) -> Callable[[Any, Context], Awaitable[None]]:
        """Return a behaviour that writes its responses, whether the given one does so or yields them."""

        async def written(request: Any, context: Context) -> None:
            result = behaviour(request, context)
            if hasattr(result, "__aiter__"):
                async for response in result:
                    await send(context, response, self._write_seconds)
            else:
                await result

        return written

    async def _incident(self, method: str, context: Context, error: BaseException) -> NoReturn:
        """Log a bug of ours by its type and places, and end the call with its id."""
        await _abort(context, internal_failure(log_incident(self._log, error, method=method)))


class _Line:
    """The log line of one call, written once, and only if the method's service does not write it."""

    def __init__(self, log: Logger, method: str) -> None:
        self._log = log
        self._method = method
        self._began = asyncio.get_running_loop().time()
        self._written = False

    def leave(self) -> None:
        """Leave it to the service, which knows more."""
        self._written = True

    def ended(self, code: str) -> None:
        """Log an end that is nobody's failure; probes and watches of health have too many of them."""
        if self._method.startswith(_OURS):
            self.failed(code)
        self._written = True

    def refused(self, error: DispatchError) -> None:
        """Log a failure by its reason; its message stays between us and the caller."""
        problem = error.problem if isinstance(error, UnauthenticatedError) else ""
        self.failed(CODES[error.reason].name, reason=error.reason.value, problem=problem)

    def failed(self, code: str, **fields: str) -> None:
        """Log how a call ended."""
        if not self._written:
            log_call(self._log, self._method, code, began=self._began, fields=fields)
        self._written = True


async def _refuse(context: Context, line: _Line, error: DispatchError) -> NoReturn:
    """End a call with an error's status, and log it so unless the caller had left without a request."""
    if not isinstance(error, NoRequestError):
        line.refused(error)
    try:
        await _abort(context, rpc_failure(error, _BY_CLIENT if error.reason is Reason.BLOCKED_ENDPOINT else ""))
    except asyncio.CancelledError:
        line.ended("CANCELLED")
        raise
    finally:
        line.refused(error)


async def commit(context: Context) -> None:
    """Send the headers of the answer, after which gRPC never sends the call again: a provider is about to be called.

    Without them a client's channel would retry a call whose server died, and the caller would be billed twice.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.gather(sending, return_exceptions=True)  # no status can follow headers that are under way
        raise


def client_left(error: BaseException) -> bool:
    """Tell whether an exception is grpc's way to say that nobody is there to write to; the class has no public name."""
    return type(error).__name__ == "ExecuteBatchError"


def _user_agent(context: Context) -> str:
    """Return what a client says it is; empty if it does not say."""
    for key, value in context.invocation_metadata() or ():
        if key == "user-agent":
            return str(value)
    return ""


def stopped() -> DispatchError:
    """Return what a call is told that the end of the server broke off; its provider may have been called."""
    return DispatchError(Reason.SERVER_STOPPED, "the server stopped before the call was over")


async def _abort(context: Context, failure: RpcFailure) -> NoReturn:
    """End a call with a status, unless the client left meanwhile, or does not read what was written before."""
    try:
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await context.abort(failure.code, failure.message, failure.trailing_metadata)
    except TimeoutError:
        raise asyncio.CancelledError from None
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if client_left(error):
            raise asyncio.CancelledError from None
        raise
