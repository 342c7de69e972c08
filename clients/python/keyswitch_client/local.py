"""Calls made from this process, by the bridge and the engine that the server runs.

The one module of the client that knows them. It stands where the channel would be: requests of the contract go in, and
responses or gRPC statuses come out, so that everything above it is the same wherever a call is made.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import grpc
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_bridge.bounds import Bounds
from keyswitch_bridge.calls import CallRecord, Calls, Write
from keyswitch_bridge.origins import DispatchRequest, Origin, origins
from keyswitch_bridge.status import RpcFailure, internal_failure, rpc_failure
from keyswitch_engine.cost import Prices, PriceTable
from keyswitch_engine.crash import places
from keyswitch_engine.dispatch import Dispatcher
from keyswitch_engine.egress import Answer, Egress, Timing, tls_context
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, LimitExceeded, Reason
from keyswitch_engine.registry import Registry, RegistryError, load

from keyswitch_client.locality import LocalOptions, are_private, is_local
from keyswitch_client.security import is_loopback

__all__ = ["LocalDispatch", "LocalStream"]

_BOUNDS = Bounds()
_MAX_KEPT: Final = 16
"""Ways out that are kept while no call uses them: few people call more model servers of their own at once."""
_LOG = logging.getLogger("keyswitch_client")


class LocalDispatch:
    """`DispatchService` in this process, with the methods of its asynchronous stub."""

    def __init__(self, registry: Registry, problem: str, options: LocalOptions) -> None:
        """Decide by *registry*, which lacks rows if there is a *problem*; sockets are opened when a call needs them."""
        self._registry = registry
        self._problem = problem
        self._always = options.mode == "always"
        self._prices = _prices()
        self._tls = tls_context()  # most of what a way out would cost
        self._kept: dict[frozenset[EgressPolicy], _Kept] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, options: LocalOptions) -> Self:
        """Load this installation's rows. A file of the user's own that is invalid fails the calls that need rows."""
        problem = ""
        try:
            registry = await asyncio.to_thread(load, options.providers)
        except RegistryError as error:
            problem = str(error)
            registry = await asyncio.to_thread(load)
        return cls(registry, problem, options)

    async def close(self) -> None:
        """End the calls that are still running, and close every connection."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._kept:
            await self._kept.popitem()[1].sessions.aclose()

    async def takes(
        self,
        request: DispatchRequest,
        refused: Sequence[str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as stubs have it
    ) -> tuple[str, ...]:
        """Return the origins that a request would call, if all are local as this installation's rows resolve it.

        There are none if one of them is not, or if that cannot be told within *timeout* seconds. *refused* are those of
        the server that was asked first; None if there was none.

        Raises:
            grpc.RpcError: one of the files in `LocalOptions.providers` is invalid, and the request needs rows; or rows
                lead elsewhere than the server's, for which what the request brings is meant.
        """
        self._check_rows(request)
        try:
            async with asyncio.timeout(timeout):
                called = origins(self._registry, request)
                if not all([await _is_local(origin) for origin in called]):
                    return ()
        except (DispatchError, TimeoutError):  # the server knows more rows, or says the same
            return ()
        if refused is not None:
            _check_same(called, refused)
        return tuple(dict.fromkeys(map(str, called)))

    async def Generate(self, request: pb.GenerateRequest, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as stubs have it
        """Answer a conversation, whole."""
        return await self._unary(request, timeout, lambda calls, record: calls.generate(request, record, _begin))

    def StreamGenerate(self, request: pb.StreamGenerateRequest, timeout: float | None = None) -> LocalStream:
        """Answer a conversation as a stream."""
        return LocalStream(
            lambda write: self._made(
                request, timeout, lambda calls, record: calls.stream(request, record, _begin, write)
            ),
            self._start,
        )

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - likewise
        """Say where a request would go."""

        async def explain(calls: Calls, record: CallRecord) -> pb.ExplainRouteResponse:
            return calls.explain(request)

        return await self._unary(request, timeout, explain)

    async def Embed(self, request: pb.EmbedRequest, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - likewise
        """Turn texts into vectors."""
        return await self._unary(request, timeout, lambda calls, record: calls.embed(request, record, _begin))

    async def CountTokens(self, request: pb.CountTokensRequest, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - likewise
        """Say how large a conversation is."""
        return await self._unary(request, timeout, lambda calls, record: calls.count_tokens(request, record))

    async def ListProviderModels(self, request: pb.ListProviderModelsRequest, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - likewise
        """List a provider's models."""
        return await self._unary(request, timeout, lambda calls, record: calls.list_models(request, record))

    async def ValidateCredential(self, request: pb.ValidateCredentialRequest, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - likewise
        """Say whether a credential is good."""
        return await self._unary(request, timeout, lambda calls, record: calls.validate(request, record))

    async def _unary(self, request: Any, timeout: float | None, make: Callable[..., Awaitable[Any]]) -> Any:  # noqa: ASYNC109 - likewise
        """Make a call in a task of its own, which `close` can end."""
        return await self._start(self._made(request, timeout, make))

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a call.

        Raises:
            ValueError: the client is closed; gRPC's channels say so in the same way.
        """
        if self._closed:
            work.close()
            raise ValueError("the client is closed")
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _made(self, request: Any, timeout: float | None, make: Callable[..., Awaitable[Any]]) -> Any:  # noqa: ASYNC109 - likewise
        """Make a call, and end it as the server would."""
        record = CallRecord(None if timeout is None else asyncio.get_running_loop().time() + timeout)
        self._check_rows(request)
        try:
            async with self._calls_for(request, record.deadline) as calls:
                return await make(calls, record)
        except DispatchError as error:
            raise _status(rpc_failure(error)) from None
        except Exception as error:  # noqa: BLE001 - a bug of ours, whose text may hold what was sent
            raise _status(internal_failure(_log_incident(error))) from None

    def _check_rows(self, request: DispatchRequest) -> None:
        """Refuse a request that names a provider where the rows of providers are not known."""
        asked: Any = request
        targets = (asked.target, *asked.fallbacks) if hasattr(asked, "fallbacks") else ()
        custom = targets and all(target.HasField("custom_endpoint") for target in targets)
        if self._problem and not custom:
            raise _unfit(self._problem)

    @contextlib.asynccontextmanager
    async def _calls_for(self, request: DispatchRequest, deadline: float | None) -> AsyncIterator[Calls]:
        """Lend what makes the calls of a request, and reaches nothing but what is the request's own.

        Raises:
            DispatchError: the request is not good, goes nowhere, or its names could not be looked up by *deadline*.
        """
        policies = await self._policies(request, deadline)
        async with self._opening:
            kept = self._kept.pop(policies, None) or await self._open(policies)
            self._kept[policies] = kept  # behind all that were used before it
            kept.users += 1
        try:
            yield kept.calls
        finally:
            kept.users -= 1
            idle = [one for one, unused in self._kept.items() if not unused.users]
            for one in idle[: max(len(self._kept) - _MAX_KEPT, 0)]:
                await self._kept.pop(one).sessions.aclose()

    async def _open(self, policies: frozenset[EgressPolicy]) -> _Kept:
        """Open a way out under each policy, and what makes calls through them."""
        async with contextlib.AsyncExitStack() as opened:
            ways = {policy: await opened.enter_async_context(self._egress(policy)) for policy in policies}
            public = await opened.enter_async_context(self._egress(EgressPolicy())) if self._always else None
            dispatcher = Dispatcher(_Ways(ways, public), self._prices)
            return _Kept(Calls(lambda: self._registry, dispatcher, _BOUNDS), opened.pop_all())

    def _egress(self, policy: EgressPolicy) -> Egress:
        """Return a way out under a policy, still closed."""
        return Egress(policy, self._tls, system_names=True)

    async def _policies(self, request: DispatchRequest, deadline: float | None) -> frozenset[EgressPolicy]:
        """Return what allows each local origin of a request, and no other."""
        try:
            async with asyncio.timeout_at(deadline):
                named = [
                    origin for origin in origins(self._registry, request) if not self._always or await _is_local(origin)
                ]
        except TimeoutError:
            raise LimitExceeded(
                Reason.TOTAL_TIMEOUT, "the time for the call was over before it could be sent"
            ) from None
        return frozenset(EgressPolicy.only(origin.base_url) for origin in named)


class LocalStream:
    """A stream of responses, with the part of a streaming call's interface that the client uses.

    The call writes one response ahead of its reader, and then waits, which stops the provider in the end.
    """

    def __init__(
        self,
        made: Callable[[Write], Coroutine[Any, Any, None]],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """Start the call that *made* returns, which hands over what it writes."""
        self._written: collections.deque[pb.StreamGenerateResponse] = collections.deque()
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._task = start(made(self._write))
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """End the call, unless it has ended."""
        self._task.cancel()

    def __aiter__(self) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Iterate over what is left."""
        return self

    async def __anext__(self) -> pb.StreamGenerateResponse:
        """Return the next response. Raises `grpc.RpcError`, or `asyncio.CancelledError` where it was cancelled."""
        while not self._written:
            if self._task.done():
                self._task.result()
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        response = self._written.popleft()
        self._room.set()
        return response

    async def _write(self, response: pb.StreamGenerateResponse) -> None:
        """Hand over a response once its predecessor has been read."""
        while self._written:
            self._room.clear()
            await self._room.wait()
        self._written.append(response)
        self._changed.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Wake the reader up; a failure that nobody reads is no news."""
        if not task.cancelled():
            task.exception()
        self._changed.set()


@dataclasses.dataclass(slots=True)
class _Kept:
    """What makes the calls with the same origins, and the ways out to them, which are theirs alone."""

    calls: Calls
    sessions: contextlib.AsyncExitStack
    users: int = 0
    """How many calls use it now."""


class _Ways:
    """The ways out of the calls with the same origins: one for each, and perhaps one to all that is public."""

    def __init__(self, ways: Mapping[EgressPolicy, Egress], public: Egress | None) -> None:
        self._ways = ways
        self._public = public

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, connect_limit: float, timing: Timing
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """Send a request by the way for its origin; what has none is refused by any of the others."""
        way = self._ways.get(EgressPolicy.only(url)) or self._public or next(iter(self._ways.values()))
        return way.request(method, url, headers, body, connect_limit=connect_limit, timing=timing)


async def _begin() -> None:
    """Begin to call a provider: nobody else could be told to send this call again."""


async def _is_local(origin: Origin) -> bool:
    """Tell whether an origin is local: by its text, or one of the request's own by all addresses of its name."""
    if is_local(origin.base_url):
        return True
    if not origin.custom:
        return False
    host = urlsplit(origin.base_url).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # it has none here
        return False
    return are_private(_addresses(found))


def _check_same(called: Sequence[Origin], refused: Sequence[str]) -> None:
    """Refuse to call what rows of this installation name where the server's rows of these names lead elsewhere."""
    there = dict(enumerate(refused))
    rows = {place: str(origin) for place, origin in enumerate(called) if not origin.custom}
    if any(_compared(there.get(place, "")) != _compared(origin) for place, origin in rows.items()):
        raise _unfit(
            f"its rows lead to {', '.join(rows.values())}, and the server's to "
            f"{', '.join(refused) or 'where it does not say'}; name an endpoint of your own, or dispatch all from this "
            "machine (local='always')"
        )


def _compared(origin: str) -> str:
    """Return an origin in a form that is the same for all names and addresses of loopback."""
    try:
        parts = urlsplit(origin)
        if is_loopback(parts.hostname or ""):
            return f"{parts.scheme}://localhost:{parts.port}"
    except ValueError:  # a server's, which may be anything
        pass
    return origin


def _unfit(problem: str) -> grpc.aio.AioRpcError:
    """Return the failure of a call that could be made here, but for a *problem* of this installation's."""
    return grpc.aio.AioRpcError(grpc.StatusCode.FAILED_PRECONDITION, grpc.aio.Metadata(), grpc.aio.Metadata(), problem)


def _addresses(found: Iterable[Any]) -> list[str]:
    """Return the addresses that a look-up found."""
    return [str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found]


def _prices() -> Prices | None:
    """Return the public price table, if it is installed; the server brings it."""
    try:
        return PriceTable()
    except ImportError:
        return None


def _status(failure: RpcFailure) -> grpc.aio.AioRpcError:
    """Return what a stub would raise for a status."""
    return grpc.aio.AioRpcError(
        failure.code, grpc.aio.Metadata(), grpc.aio.Metadata(*failure.trailing_metadata), failure.message
    )


def _log_incident(error: Exception) -> str:
    """Log a bug of ours by its type and places alone; return the incident's id."""
    incident = secrets.token_hex(8)
    _LOG.error("incident %s: %s at %s", incident, type(error).__name__, ", ".join(places(error)))
    return incident
