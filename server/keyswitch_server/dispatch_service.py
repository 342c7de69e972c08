"""The dispatch service: admission, deadline, and one log line a call around the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict, TypeVar

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
from keyswitch_engine.attempts import Runner
from keyswitch_engine.credential_check import check_credential
from keyswitch_engine.dialects.base import Dialect, TokenCounter
from keyswitch_engine.dispatch import AttemptLog, Call, Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.embeddings import EmbeddingDialect
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation
from keyswitch_engine.events import AttemptOutcome, Event, Finished
from keyswitch_engine.operations import CountCall, EmbeddingCall, count_tokens, embed, list_models
from keyswitch_engine.operator import Caller
from keyswitch_engine.plan import Plan, plan_calls, plan_routes
from keyswitch_engine.provider import D
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing, resolve_token_counting

from keyswitch_server.guard import client_left, commit, stopped
from keyswitch_server.logging import Logger, log_fields

__all__ = ["DispatchService"]

Context = grpc.aio.ServicerContext[Any, Any]
C = TypeVar("C", bound=Call[Any])

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
        max_attempts: int,
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
        self._runner = Runner(dispatcher.fingerprints, max_waiting=max_calls // 2)
        self._limits = limits
        self._max_total = max_total
        self._max_attempts = max_attempts
        self._max_calls = max_calls
        self._max_message_bytes = max_message_bytes
        self._log = log
        self._broken_off = broken_off
        self._calls = 0

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Answer a conversation, whole."""
        with self._admitted("Generate") as line:
            plan = self._generations(request, context, line)
            await commit(context)
            log = line.attempts
            events = await self._runner.run(plan, log, lambda call: self._dispatcher.generate(call, log))
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
            plan = self._generations(request, context, line)
            await commit(context)
            log = line.attempts

            async def write(events: list[Event]) -> None:
                for response in batches(events):
                    await context.write(response)
                line.finished(events[-1])

            await self._runner.run(plan, log, lambda call: self._dispatcher.stream(call, write, log))

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Context) -> pb.ExplainRouteResponse:
        """Say where a request would go."""
        asked = read_explain(request)
        self._bounded(asked.limits, streamed=True)
        self._tries(asked.limits)
        return explain_message(self._registry(), asked)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Turn texts into vectors."""
        with self._admitted("Embed") as line:
            asked, registry, log = read_embed(request), self._registry(), line.attempts
            targets, caller = (asked.target, *asked.fallbacks), Caller(tenant=asked.tenant)
            routes = line.routes = plan_routes(
                targets, lambda to: resolve_embeddings(registry, to, asked.credentials, caller)
            )
            shared = self._shared(asked.limits, caller, context, line)

            def written(route: Route[EmbeddingDialect]) -> EmbeddingCall:
                speaking, given = route.surface, asked.given
                requests = speaking.dialect.requests(given, route.model, speaking.profile, route.options_json)
                return EmbeddingCall(route=route, requests=requests, texts=len(given.texts), **shared)

            plan = self._plan(routes, written, asked.limits)
            await commit(context)
            embedded = await self._runner.run(plan, log, lambda call: embed(self._dispatcher, call, log))
            line.finished(embedded.finished)
            return embed_response(embedded)

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """Say how large a conversation is."""
        with self._admitted("CountTokens") as line:
            asked, registry, log = read_count_tokens(request), self._registry(), line.attempts
            targets, caller = (asked.target, *asked.fallbacks), Caller(tenant=asked.tenant)
            routes = line.routes = plan_routes(
                targets, lambda to: resolve_token_counting(registry, to, asked.credentials, caller)
            )
            limits = RequestedLimits()
            shared = self._shared(limits, caller, context, line)

            def written(route: Route[TokenCounter]) -> CountCall:
                counter = route.surface
                counting = counter.dialect.count_request(asked.generation, route.model, counter.profile)
                return CountCall(route=route, request=counting, **shared)

            async def count(call: CountCall) -> pb.CountTokensResponse:
                counted = await count_tokens(self._dispatcher, call, log)
                return pb.CountTokensResponse(input_tokens=counted, resolved_model=call.route.model)

            return await self._runner.run(self._plan(routes, written, limits), log, count)

    async def ListProviderModels(
        self, request: pb.ListProviderModelsRequest, context: Context
    ) -> pb.ListProviderModelsResponse:
        """List a provider's models."""
        with self._admitted("ListProviderModels") as line:
            asked = read_list_models(request)
            route = resolve_model_listing(self._registry(), asked.target, asked.credential)
            line.routes = (route,)
            call = Call(route=route, **self._shared(RequestedLimits(), Caller(), context, line))
            return models_response(await list_models(self._dispatcher, call, line.attempts))

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
                broken_off = stopped()
                broken_off.attempts = line.attempts.lines()
                line.failed(broken_off)
                raise broken_off from None
            if isinstance(error, asyncio.CancelledError) or client_left(error):
                line.ended("CANCELLED")
            else:
                line.ended("INTERNAL")
            raise
        finally:
            self._calls -= 1
        line.ended("OK")

    def _generations(self, request: GenerateMessage, context: Context, line: _Line) -> Plan[GenerationCall]:
        """Validate a request, and route and write it for every target."""
        asked, registry = read_generate(request), self._registry()
        streamed = isinstance(request, pb.StreamGenerateRequest)
        targets, caller = (asked.target, *asked.fallbacks), Caller(tenant=asked.tenant)
        routes = line.routes = plan_routes(targets, lambda to: resolve(registry, to, asked.credentials, caller))
        shared = self._shared(asked.limits, caller, context, line, streamed=streamed)

        def written(route: Route[Dialect]) -> GenerationCall:
            body = write_request(route, asked.generation, stream=streamed)
            return GenerationCall(route=route, request=body, coalesce_window=asked.coalesce_window, **shared)

        return self._plan(routes, written, asked.limits, streamed=streamed)

    def _plan(
        self,
        routes: Iterable[Route[D]],
        write: Callable[[Route[D]], C],
        asked: RequestedLimits,
        *,
        streamed: bool = False,
    ) -> Plan[C]:
        """Return what to try, and how often. Nothing of a whole answer may come early, so targets share the time."""
        most = self._tries(asked)
        call, fallbacks = plan_calls(routes, write)
        shares = not streamed and asked.first_token is None
        return Plan(
            call=call, fallbacks=fallbacks, max_attempts=most, hedge_after=asked.hedge_after, shares_time=shares
        )

    def _tries(self, asked: RequestedLimits) -> int:
        """Return how often one target is tried.

        Raises:
            InvalidRequest: that is once, and there is to be a hedge.
        """
        most = asked.max_attempts or self._max_attempts
        if asked.hedge_after is not None and most < 2:  # noqa: PLR2004 - the first one and its rival
            raise InvalidRequest([Violation("limits.hedge_after", "a hedge is a second attempt; allow at least 2")])
        return most

    def _shared(
        self, asked: RequestedLimits, caller: Caller, context: Context, line: _Line, *, streamed: bool = False
    ) -> _Shared:
        """Return what all calls of a plan have in common."""
        return _Shared(
            limits=self._bounded(asked, streamed=streamed),
            received_at=line.received_at,
            deadline=_deadline(context),
            scope=f"{caller.name}/{caller.tenant}",
        )

    def _bounded(self, asked: RequestedLimits, *, streamed: bool) -> TimeLimits:
        """Return the limits in force. A whole answer begins when it is complete, so no default bounds its beginning.

        Raises:
            InvalidRequest: one of them is longer than the operator allows.
        """
        defaults = self._limits
        if asked.total is not None and asked.total > self._max_total:
            raise InvalidRequest([Violation("limits.total_timeout", f"at most {self._max_total:g} seconds here")])
        total = min(asked.total or defaults.total, self._max_total)
        return TimeLimits(
            connect=asked.connect or defaults.connect,
            first_token=asked.first_token or (defaults.first_token if streamed else total),
            idle=asked.idle or defaults.idle,
            total=total,
            write=defaults.write,
        )


class _Shared(TypedDict):
    """What all calls of a plan have in common, whatever they ask for."""

    limits: TimeLimits
    received_at: float
    deadline: float | None
    scope: str


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
        self.routes: tuple[Route[Any], ...] = ()
        self._failed_at = ("", "")
        self.attempts = AttemptLog()

    def finished(self, event: Event) -> None:
        """Note the counts of an answer that is complete."""
        if isinstance(event, Finished):
            usage = event.ending.usage
            tries = event.receipt.attempts
            answered = next((line for line in tries if line.outcome is AttemptOutcome.SUCCEEDED), tries[-1])
            self._fields |= {
                "input_tokens": usage.input_tokens if usage is not None else None,
                "output_tokens": usage.output_tokens if usage is not None else None,
                "upstream_status": answered.upstream_status,
                "upstream_request_id": answered.upstream_request_id,
            }

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
        fields = self._fields | {"attempts": len(self.attempts) or None}
        blamed = (route for route in self.routes if (route.provider.id, route.model) == self._failed_at)
        route = next(blamed, None) or self.attempts.route or next(iter(self.routes), None)
        if route is not None:
            fields |= {"provider": route.provider.id, "model": route.model, "dialect": route.surface.dialect.name}
        duration = round((self._loop.time() - self.received_at) * 1000, 1)
        self._log.info("call", method=self._method, code=code, duration_ms=duration, **log_fields(fields))
