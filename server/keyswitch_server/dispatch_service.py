"""The dispatch service: admission, deadline, and one log line a call around `keyswitch_bridge.calls`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import dispatch_service_pb2_grpc as pb_grpc
from keyswitch_bridge.bounds import Bounds
from keyswitch_bridge.calls import CallRecord, Calls
from keyswitch_bridge.status import CODES
from keyswitch_engine.credential import secrets_of
from keyswitch_engine.custom_endpoint import PROVIDER_ID, endpoint_id
from keyswitch_engine.dispatch import Dispatcher
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import AttemptOutcome, Finished
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route
from keyswitch_engine.secret import quotes, without_keys

from keyswitch_server.caller import current_caller
from keyswitch_server.guard import client_left, commit, stopped
from keyswitch_server.logging import Logger, log_call

__all__ = ["DispatchService"]

Context = grpc.aio.ServicerContext[Any, Any]

_RETRY_SECONDS = 1.0


class DispatchService(pb_grpc.DispatchServiceServicer):
    """Serves `keyswitch.v1.DispatchService`."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        dispatcher: Dispatcher,
        bounds: Bounds,
        *,
        log: Logger,
        broken_off: Callable[[], bool],
    ) -> None:
        """Dispatch through *dispatcher*.

        *registry* returns the one in force, which a call asks for once; *broken_off* tells whether the server ends its
        calls.
        """
        self._dispatch = Calls(registry, dispatcher, bounds)
        self._max_calls = bounds.max_calls
        self._log = log
        self._broken_off = broken_off
        self._calls = 0

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Answer a conversation, whole."""
        with self._admitted("Generate", context) as record:
            return await self._dispatch.generate(request, record, functools.partial(commit, context))

    async def StreamGenerate(  # type: ignore[override] # it writes its responses instead of yielding them
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> None:
        """Answer a conversation as a stream."""
        with self._admitted("StreamGenerate", context) as record:
            await self._dispatch.stream(request, record, functools.partial(commit, context), context.write)

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Context) -> pb.ExplainRouteResponse:
        """Say where a request would go."""
        with self._logged("ExplainRoute", context):
            return self._dispatch.explain(request, current_caller())

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Turn texts into vectors."""
        with self._admitted("Embed", context) as record:
            return await self._dispatch.embed(request, record, functools.partial(commit, context))

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """Say how large a conversation is."""
        with self._admitted("CountTokens", context) as record:
            return await self._dispatch.count_tokens(request, record)

    async def ListProviderModels(
        self, request: pb.ListProviderModelsRequest, context: Context
    ) -> pb.ListProviderModelsResponse:
        """List a provider's models."""
        with self._admitted("ListProviderModels", context) as record:
            return await self._dispatch.list_models(request, record)

    async def ValidateCredential(
        self, request: pb.ValidateCredentialRequest, context: Context
    ) -> pb.ValidateCredentialResponse:
        """Say whether a credential is good."""
        with self._admitted("ValidateCredential", context) as record:
            return await self._dispatch.validate(request, record)

    @contextlib.contextmanager
    def _admitted(self, method: str, context: Context) -> Iterator[CallRecord]:
        """Count a call among those in flight, and log how it ended."""
        with self._logged(method, context) as record:
            if self._calls >= self._max_calls:
                error = DispatchError(Reason.OVERLOADED, f"{self._max_calls} calls are in flight; try again later")
                error.retry_after = _RETRY_SECONDS
                raise error
            self._calls += 1
            try:
                yield record
            finally:
                self._calls -= 1

    @contextlib.contextmanager
    def _logged(self, method: str, context: Context) -> Iterator[CallRecord]:
        """Log how a call ended, once."""
        record = CallRecord(_deadline(context), current_caller())
        line = _Line(self._log, method, record)
        try:
            yield record
        except DispatchError as error:
            line.failed(error)
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._broken_off():
                broken_off = stopped()
                broken_off.attempts = record.attempts.lines()
                line.failed(broken_off)
                raise broken_off from None
            if isinstance(error, asyncio.CancelledError) or client_left(error):
                line.ended("CANCELLED")
            else:
                line.ended("INTERNAL")
            raise
        line.ended("OK")


def _deadline(context: Context) -> float | None:
    """Return when the RPC's own deadline passes, on the loop's clock; None if it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


class _Line:
    """The log line of one call."""

    def __init__(self, log: Logger, method: str, record: CallRecord) -> None:
        self._log = log
        self._method = method
        self._record = record
        self._fields: dict[str, Any] = {}
        self._failed_at = ("", "")

    def failed(self, error: DispatchError) -> None:
        """Log a failure by its reason; its message stays between us and the caller."""
        self._fields |= {
            "reason": error.reason.value,
            "upstream_status": error.upstream_status,
            "upstream_request_id": error.upstream_request_id,
        }
        self._failed_at = (error.provider, error.model)
        self.ended(CODES[error.reason].name)

    def ended(self, code: str) -> None:
        """Log how the call ended."""
        record = self._record
        fields = _counts(record.finished) | self._fields | {"attempts": len(record.attempts) or None}
        blamed = (route for route in record.routes if (route.provider.id, route.model) == self._failed_at)
        route = next(blamed, None) or record.attempts.route or next(iter(record.routes), None)
        if route is not None:
            fields |= {"provider": route.provider.id, "model": _shown(route), "dialect": route.surface.dialect.name}
            if route.provider.id == PROVIDER_ID:
                fields["endpoint"] = endpoint_id(route.surface.base_url, route.model)
        log_call(self._log, self._method, code, began=record.received_at, fields=fields)


def _shown(route: Route[Any]) -> str:
    """Return the model of a route, which is what its caller wrote: without a key that was put into the wrong field."""
    return "" if quotes(route.model, secrets_of(route.credential)) else _without_keys(route.model)


_without_keys = functools.lru_cache(1024)(without_keys)
"""Of a model id: services use few, and each would cost every one of its calls as much as a decision."""


def _counts(finished: Finished | None) -> dict[str, Any]:
    """Return the counts of an answer that is complete."""
    if finished is None:
        return {}
    usage, tries = finished.ending.usage, finished.receipt.attempts
    answered = next((line for line in tries if line.outcome is AttemptOutcome.SUCCEEDED), tries[-1])
    return {
        "input_tokens": usage.input_tokens if usage is not None else None,
        "output_tokens": usage.output_tokens if usage is not None else None,
        "upstream_status": answered.upstream_status,
        "upstream_request_id": answered.upstream_request_id,
    }
