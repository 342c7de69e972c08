"""The calls of the dispatch service without any transport: read, decided, bounded, tried and answered.

The server puts admission, the status and a log line around this; a client that dispatches locally puts it where its
channel would be. There is one path, so that both give the same events, errors and receipts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypedDict, TypeVar

from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_engine.attempts import Runner
from keyswitch_engine.credential_check import check_credential
from keyswitch_engine.dialects.base import Dialect, TokenCounter
from keyswitch_engine.dispatch import AttemptLog, Call, Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.embeddings import EmbeddingDialect
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason, Violation
from keyswitch_engine.events import Event, Finished
from keyswitch_engine.operations import CountCall, EmbeddingCall, count_tokens, embed, list_models
from keyswitch_engine.operator import ANONYMOUS, Caller
from keyswitch_engine.plan import Plan, plan_calls, plan_routes
from keyswitch_engine.provider import D
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing, resolve_token_counting

from keyswitch_bridge.answers import generate_response
from keyswitch_bridge.bounds import Bounds
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

__all__ = ["CallRecord", "Calls", "Commit", "Write"]

C = TypeVar("C", bound=Call[Any])

Commit: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited when a request is found good, before a provider is called."""
Write: TypeAlias = Callable[[pb.StreamGenerateResponse], Awaitable[None]]
"""Takes one response of a stream; nothing more is read from the provider before it returns."""


class CallRecord:
    """What is known of one call: when it came and has to end, and what became of it so far."""

    def __init__(self, deadline: float | None = None, caller: str = ANONYMOUS) -> None:
        """Begin a call of *caller*'s that came now; *deadline* is on the loop's clock, None if the call has none."""
        self.received_at = asyncio.get_running_loop().time()
        self.deadline = deadline
        self.caller = caller
        self.routes: tuple[Route[Any], ...] = ()
        """Of target and fallbacks, once they are decided."""
        self.attempts = AttemptLog()
        self.finished: Finished | None = None
        """The end of an answer that is complete."""

    def note(self, event: Event) -> None:
        """Remember an event if it ends an answer."""
        if isinstance(event, Finished):
            self.finished = event


class Calls:
    """Makes calls as messages of the contract, by one registry, through one dispatcher."""

    def __init__(self, registry: Callable[[], Registry], dispatcher: Dispatcher, bounds: Bounds) -> None:
        """Dispatch through *dispatcher*; *registry* returns the one in force, which a call asks for once."""
        self._registry = registry
        self._dispatcher = dispatcher
        self._bounds = bounds
        self._runner = Runner(dispatcher.fingerprints, max_waiting=(bounds.max_calls + 1) // 2)

    async def generate(self, request: pb.GenerateRequest, record: CallRecord, commit: Commit) -> pb.GenerateResponse:
        """Answer a conversation, whole.

        Raises:
            DispatchError: the request is not good, or the call failed.
        """
        plan, log = self._generations(request, record), record.attempts
        await commit()
        events = await self._runner.run(plan, log, lambda call: self._dispatcher.generate(call, log))
        record.note(events[-1])
        response = generate_response(events)
        if response.ByteSize() > self._bounds.max_message_bytes:
            raise DispatchError(
                Reason.PROVIDER_PROTOCOL_ERROR, "the answer is too large for one message; use StreamGenerate"
            )
        return response

    async def stream(self, request: pb.StreamGenerateRequest, record: CallRecord, commit: Commit, write: Write) -> None:
        """Answer a conversation as a stream, handing each response to *write*.

        Raises:
            DispatchError: the request is not good, or the call failed.
        """
        plan, log = self._generations(request, record), record.attempts
        await commit()

        async def sink(events: list[Event]) -> None:
            for response in batches(events):
                await write(response)
            record.note(events[-1])

        await self._runner.run(plan, log, lambda call: self._dispatcher.stream(call, sink, log))

    def explain(self, request: pb.ExplainRouteRequest, caller: str = ANONYMOUS) -> pb.ExplainRouteResponse:
        """Say where a request of *caller*'s would go.

        Raises:
            RequestError: nowhere.
        """
        asked = read_explain(request)
        self._bounded(asked.limits, streamed=True)
        self._tries(asked.limits)
        return explain_message(self._registry(), asked, caller)

    async def embed(self, request: pb.EmbedRequest, record: CallRecord, commit: Commit) -> pb.EmbedResponse:
        """Turn texts into vectors.

        Raises:
            DispatchError: the request is not good, or the call failed.
        """
        asked, registry, log = read_embed(request), self._registry(), record.attempts
        targets, caller = (asked.target, *asked.fallbacks), Caller(record.caller, asked.tenant)
        routes = record.routes = plan_routes(
            targets, lambda to: resolve_embeddings(registry, to, asked.credentials, caller)
        )
        shared = self._shared(asked.limits, caller, record)

        def written(route: Route[EmbeddingDialect]) -> EmbeddingCall:
            speaking, given = route.surface, asked.given
            requests = speaking.dialect.requests(given, route.model, speaking.profile, route.options_json)
            return EmbeddingCall(route=route, requests=requests, texts=len(given.texts), **shared)

        plan = self._plan(routes, written, asked.limits)
        await commit()
        embedded = await self._runner.run(plan, log, lambda call: embed(self._dispatcher, call, log))
        record.note(embedded.finished)
        return embed_response(embedded)

    async def count_tokens(self, request: pb.CountTokensRequest, record: CallRecord) -> pb.CountTokensResponse:
        """Say how large a conversation is.

        Raises:
            DispatchError: the request is not good, or the call failed.
        """
        asked, registry, log = read_count_tokens(request), self._registry(), record.attempts
        targets, caller = (asked.target, *asked.fallbacks), Caller(record.caller, asked.tenant)
        routes = record.routes = plan_routes(
            targets, lambda to: resolve_token_counting(registry, to, asked.credentials, caller)
        )
        limits = RequestedLimits()
        shared = self._shared(limits, caller, record)

        def written(route: Route[TokenCounter]) -> CountCall:
            counter = route.surface
            counting = counter.dialect.count_request(asked.generation, route.model, counter.profile)
            return CountCall(route=route, request=counting, **shared)

        async def count(call: CountCall) -> pb.CountTokensResponse:
            counted = await count_tokens(self._dispatcher, call, log)
            return pb.CountTokensResponse(input_tokens=counted, resolved_model=call.route.model)

        return await self._runner.run(self._plan(routes, written, limits), log, count)

    async def list_models(
        self, request: pb.ListProviderModelsRequest, record: CallRecord
    ) -> pb.ListProviderModelsResponse:
        """List a provider's models.

        Raises:
            DispatchError: the request is not good, or the call failed.
        """
        asked = read_list_models(request)
        route = resolve_model_listing(self._registry(), asked.target, asked.credential)
        record.routes = (route,)
        call = Call(route=route, **self._shared(RequestedLimits(), Caller(record.caller), record))
        return models_response(await list_models(self._dispatcher, call, record.attempts))

    async def validate(
        self, request: pb.ValidateCredentialRequest, record: CallRecord
    ) -> pb.ValidateCredentialResponse:
        """Say whether a credential is good.

        Raises:
            DispatchError: the request is not good, or its provider may not be called from here.
        """
        asked = read_validate_credential(request)
        verdict, message = await check_credential(
            self._dispatcher,
            self._registry(),
            asked.credential,
            model=asked.model,
            region=asked.region,
            received_at=record.received_at,
            deadline=record.deadline,
        )
        return verdict_response(verdict, message)

    def _generations(self, request: GenerateMessage, record: CallRecord) -> Plan[GenerationCall]:
        """Validate a request, and route and write it for every target."""
        asked, registry = read_generate(request), self._registry()
        streamed = isinstance(request, pb.StreamGenerateRequest)
        targets, caller = (asked.target, *asked.fallbacks), Caller(record.caller, asked.tenant)
        routes = record.routes = plan_routes(targets, lambda to: resolve(registry, to, asked.credentials, caller))
        shared = self._shared(asked.limits, caller, record, streamed=streamed)

        def written(route: Route[Dialect]) -> GenerationCall:
            body = write_request(route, asked.generation, stream=streamed)
            return GenerationCall(route=route, request=body, coalesce_window=asked.coalesce_window, **shared)

        return self._plan(routes, written, asked.limits)

    def _plan(
        self,
        routes: tuple[Route[D], ...],
        write: Callable[[Route[D]], C],
        asked: RequestedLimits,
    ) -> Plan[C]:
        """Return what to try, and how often. Targets share the time, lest one that hangs takes all of it."""
        most = self._tries(asked)
        call, fallbacks = plan_calls(routes, write)
        return Plan(
            call=call,
            fallbacks=fallbacks,
            routes=routes,
            max_attempts=most,
            hedge_after=asked.hedge_after,
            shares_time=asked.first_token is None,
        )

    def _tries(self, asked: RequestedLimits) -> int:
        """Return how often one target is tried.

        Raises:
            InvalidRequest: that is once, and there is to be a hedge.
        """
        most = asked.max_attempts or self._bounds.max_attempts
        if asked.hedge_after is not None and most < 2:  # noqa: PLR2004 - the first one and its rival
            raise InvalidRequest([Violation("limits.hedge_after", "a hedge is a second attempt; allow at least 2")])
        return most

    def _shared(self, asked: RequestedLimits, caller: Caller, record: CallRecord, *, streamed: bool = False) -> _Shared:
        """Return what all calls of a plan have in common."""
        return _Shared(
            limits=self._bounded(asked, streamed=streamed),
            received_at=record.received_at,
            deadline=record.deadline,
            scope=f"{caller.name}/{caller.tenant}",
        )

    def _bounded(self, asked: RequestedLimits, *, streamed: bool) -> TimeLimits:
        """Return the limits in force. A whole answer begins when it is complete, so no default bounds its beginning.

        Raises:
            InvalidRequest: one of them is longer than the operator allows.
        """
        defaults, longest = self._bounds.limits, self._bounds.max_total
        if asked.total is not None and asked.total > longest:
            raise InvalidRequest([Violation("limits.total_timeout", f"at most {longest:g} seconds here")])
        total = min(asked.total or defaults.total, longest)
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
