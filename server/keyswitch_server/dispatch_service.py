"""The dispatch service: admission, deadline, and one log line a call around the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import dispatch_service_pb2_grpc as pb_grpc
from keyswitch_bridge.answers import generate_response
from keyswitch_bridge.operations import (
    embed_response,
    models_response,
    read_count_tokens,
    read_embed,
    read_list_models,
    read_validate_credential,
    verdict_response,
)
from keyswitch_bridge.requests import GenerateMessage, RequestedLimits, read_explain, read_generate
from keyswitch_bridge.responses import batches
from keyswitch_bridge.routes import explain_message
from keyswitch_bridge.status import CODES
from keyswitch_engine.credential_check import check_credential
from keyswitch_engine.dispatch import Call, Dispatcher, GenerationCall, TimeLimits
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation
from keyswitch_engine.events import Event, Finished
from keyswitch_engine.operations import count_tokens, embed, list_models
from keyswitch_engine.operator import Caller
from keyswitch_engine.provider import D
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing, resolve_token_counting

from keyswitch_server.guard import client_left, commit, stopped
from keyswitch_server.logging import Logger, log_fields

__all__ = ["DispatchService"]

Context = grpc.aio.ServicerContext[Any, Any]
_RETRY_SECONDS = 1.0


class DispatchService(pb_grpc.DispatchServiceServicer):
    """Serves `keyswitch.v1.DispatchService`."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        dispatcher: Dispatcher,
        limits: TimeLimits,
        *,
        max_total: float,
        max_calls: int,
        max_message_bytes: int,
        log: Logger,
        broken_off: Callable[[], bool],
    ) -> None:
        """Dispatch through *dispatcher*; limits are seconds.

        *registry* returns the one in force, which a call asks for once; *broken_off* tells whether the server ends its
        calls.
        """
        self._registry = registry
        self._dispatcher = dispatcher
        self._limits = limits
        self._max_total = max_total
        self._max_calls = max_calls
        self._max_message_bytes = max_message_bytes
        self._log = log
        self._broken_off = broken_off
        self._calls = 0

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Answer a conversation, whole."""
        with self._admitted("Generate") as line:
            call = self._call(request, context, line)
            await commit(context)
            events = await self._dispatcher.generate(call)
            line.finished(events[-1])
            response = generate_response(events)
            if response.ByteSize() > self._max_message_bytes:
                raise DispatchError(
                    Reason.PROVIDER_PROTOCOL_ERROR, "the answer is too large for one message; use StreamGenerate"
                )
            return response

    async def StreamGenerate(  # type: ignore[override] # it writes its responses instead of yielding them
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> None:
        """Answer a conversation as a stream."""
        with self._admitted("StreamGenerate") as line:
            call = self._call(request, context, line)
            await commit(context)

            async def write(events: list[Event]) -> None:
                for response in batches(events):
                    await context.write(response)
                line.finished(events[-1])

            await self._dispatcher.stream(call, write)

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Context) -> pb.ExplainRouteResponse:
        """Say where a request would go."""
        return explain_message(self._registry(), read_explain(request))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Turn texts into vectors."""
        with self._admitted("Embed") as line:
            asked = read_embed(request)
            route = line.route = resolve_embeddings(
                self._registry(), asked.target, asked.credentials, Caller(tenant=asked.tenant)
            )
            call = self._exchange(route, asked.limits, context, line)
            await commit(context)
            embedded = await embed(self._dispatcher, call, asked.given)
            line.finished(embedded.finished)
            return embed_response(embedded)

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """Say how large a conversation is."""
        with self._admitted("CountTokens") as line:
            asked = read_count_tokens(request)
            route = line.route = resolve_token_counting(
                self._registry(), asked.target, asked.credentials, Caller(tenant=asked.tenant)
            )
            call = self._exchange(route, RequestedLimits(), context, line)
            count = await count_tokens(self._dispatcher, call, asked.generation)
            return pb.CountTokensResponse(input_tokens=count, resolved_model=route.model)

    async def ListProviderModels(
        self, request: pb.ListProviderModelsRequest, context: Context
    ) -> pb.ListProviderModelsResponse:
        """List a provider's models."""
        with self._admitted("ListProviderModels") as line:
            asked = read_list_models(request)
            route = line.route = resolve_model_listing(self._registry(), asked.target, asked.credential)
            return models_response(
                await list_models(self._dispatcher, self._exchange(route, RequestedLimits(), context, line))
            )

    async def ValidateCredential(
        self, request: pb.ValidateCredentialRequest, context: Context
    ) -> pb.ValidateCredentialResponse:
        """Say whether a credential is good."""
        with self._admitted("ValidateCredential") as line:
            asked = read_validate_credential(request)
            verdict, message = await check_credential(
                self._dispatcher,
                self._registry(),
                asked.credential,
                model=asked.model,
                region=asked.region,
                received_at=line.received_at,
                deadline=_deadline(context),
            )
            return verdict_response(verdict, message)

    @contextlib.contextmanager
    def _admitted(self, method: str) -> Iterator[_Line]:
        """Count a call among those in flight, and log how it ended."""
        line = _Line(self._log, method)
        if self._calls >= self._max_calls:
            error = DispatchError(Reason.OVERLOADED, f"{self._max_calls} calls are in flight; try again later")
            error.retry_after = _RETRY_SECONDS
            line.failed(error)
            raise error
        self._calls += 1
        try:
            yield line
        except DispatchError as error:
            line.failed(error)
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._broken_off():
                line.failed(stopped())
            elif isinstance(error, asyncio.CancelledError) or client_left(error):
                line.ended("CANCELLED")
            else:
                line.ended("INTERNAL")
            raise
        finally:
            self._calls -= 1
        line.ended("OK")

    def _call(self, request: GenerateMessage, context: Context, line: _Line) -> GenerationCall:
        """Validate and route a request."""
        asked = read_generate(request)
        route = line.route = resolve(self._registry(), asked.target, asked.credentials, Caller(tenant=asked.tenant))
        return GenerationCall(
            generation=asked.generation,
            route=route,
            limits=self._bounded(asked.limits, streamed=isinstance(request, pb.StreamGenerateRequest)),
            received_at=line.received_at,
            deadline=_deadline(context),
            coalesce_window=asked.coalesce_window,
        )

    def _exchange(self, route: Route[D], asked: RequestedLimits, context: Context, line: _Line) -> Call[D]:
        """Return the call of anything but a generation."""
        return Call(
            route=route,
            limits=self._bounded(asked, streamed=False),
            received_at=line.received_at,
            deadline=_deadline(context),
        )

    def _bounded(self, asked: RequestedLimits, *, streamed: bool) -> TimeLimits:
        """Return the limits in force. A whole answer begins when it is complete, so no default bounds its beginning."""
        defaults = self._limits
        if asked.total is not None and asked.total > self._max_total:
            raise InvalidRequest([Violation("limits.total_timeout", f"at most {self._max_total:g} seconds here")])
        total = min(asked.total or defaults.total, self._max_total)
        return TimeLimits(
            connect=asked.connect or defaults.connect,
            first_token=asked.first_token or (defaults.first_token if streamed else total),
            idle=asked.idle or defaults.idle,
            total=total,
        )


def _deadline(context: Context) -> float | None:
    """Return when the RPC's own deadline passes, on the loop's clock; None if it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


class _Line:
    """The log line of one call."""

    def __init__(self, log: Logger, method: str) -> None:
        self._log = log
        self._method = method
        self._loop = asyncio.get_running_loop()
        self._fields: dict[str, Any] = {}
        self.received_at = self._loop.time()
        self.route: Route[Any] | None = None

    def finished(self, event: Event) -> None:
        """Note the counts of an answer that is complete."""
        if isinstance(event, Finished):
            usage = event.ending.usage
            last = event.receipt.attempts[-1]
            self._fields |= {
                "input_tokens": usage.input_tokens if usage is not None else None,
                "output_tokens": usage.output_tokens if usage is not None else None,
                "upstream_status": last.upstream_status,
                "upstream_request_id": last.upstream_request_id,
            }

    def failed(self, error: DispatchError) -> None:
        """Log a failure by its reason; its message stays between us and the caller."""
        self._fields |= {
            "reason": error.reason.value,
            "upstream_status": error.upstream_status,
            "upstream_request_id": error.upstream_request_id,
        }
        self.ended(CODES[error.reason].name)

    def ended(self, code: str) -> None:
        """Log how the call ended."""
        route = self.route
        fields = self._fields
        if route is not None:
            fields |= {"provider": route.provider.id, "model": route.model, "dialect": route.surface.dialect.name}
        duration = round((self._loop.time() - self.received_at) * 1000, 1)
        self._log.info("call", method=self._method, code=code, duration_ms=duration, **log_fields(fields))
