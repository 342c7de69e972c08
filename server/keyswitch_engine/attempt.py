"""One call of a provider, and what is known of the try that is running: clock, secrets, line of the receipt."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final, Generic, NoReturn

import msgspec

from keyswitch_engine.cost import Prices
from keyswitch_engine.credential import secrets_of
from keyswitch_engine.deadline import DEADLINE_MARGIN, TimeLimits, Watch
from keyswitch_engine.dialects.base import Decoder, Dialect
from keyswitch_engine.egress import Answer, Timing
from keyswitch_engine.error_rules import request_id
from keyswitch_engine.errors import DispatchError, ProtocolError, ProviderError, Reason, RequestError
from keyswitch_engine.events import Attempt, AttemptOutcome, Cost, Ending, Finished, Receipt, Started, Usage
from keyswitch_engine.generation import Generation
from keyswitch_engine.provider import D
from keyswitch_engine.route import Route
from keyswitch_engine.secret import Secret, label, scrub

__all__ = ["Call", "GenerationCall", "RunningAttempt"]

_LONGEST_ID: Final = 200
_LONGEST_CODE: Final = 100
"""Characters of an id or a code of a provider's that are passed on."""


class Call(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """One call of a provider. Times are on the loop's clock."""

    route: Route[D]
    limits: TimeLimits
    received_at: float
    deadline: float | None = None
    """When the RPC ends; None if it has no deadline."""


class GenerationCall(Call[Dialect], frozen=True, kw_only=True):
    """One generation."""

    generation: Generation
    coalesce_window: float = 0.0
    """Seconds for which events are gathered before they are sent; 0 sends them as they come."""


class RunningAttempt:
    """What is known of one try; becomes a line of the receipt."""

    def __init__(self, call: Call[D], prices: Prices | None) -> None:
        self._call: Call[Any] = call
        self._prices = prices
        self.secrets = secrets_of(call.route.credential)
        self._loop = asyncio.get_running_loop()
        self.timing = Timing(self._loop.time())
        self.outcome = AttemptOutcome.SUCCEEDED
        self.decoder: Decoder | None = None
        self.answering = False
        self._status: int | None = None
        self._request_id = ""
        self._reason = ""

    def watch(self) -> Watch:
        """Return the watch over the call's limits."""
        call = self._call
        deadline = call.received_at + call.limits.total
        if call.deadline is not None:
            deadline = min(deadline, call.deadline - DEADLINE_MARGIN)
        return Watch(call.limits, self.timing.started, deadline)

    def answered(self, answer: Answer) -> None:
        """Note status and request id."""
        self._status = answer.status
        self._request_id = label(request_id(answer.headers), self.secrets, _LONGEST_ID)

    def saw_event(self) -> None:
        """Note when the answer began."""
        if self.timing.first_event is None:
            self.timing.first_event = self._loop.time()

    def started(self, decoder: Decoder) -> Started:
        """Return the event that opens an answer."""
        route = self._call.route
        return Started(
            decoder.response_id or f"ks_{secrets.token_hex(12)}",
            route.provider.id,
            route.requested_model,
            route.model,
            route.billing,
            1,
        )

    def finished(self, ending: Ending) -> Finished:
        """Return the event that closes an answer."""
        if not ending.answering_model:
            ending = msgspec.structs.replace(ending, answering_model=self._call.route.model)
        return Finished(ending, Receipt((self.line(),)), self._cost(ending))

    def _cost(self, ending: Ending) -> Cost | None:
        """Return what the answer cost, by the model that was asked for, since prices are listed by that."""
        if self._prices is None:
            return None
        route = self._call.route
        return self._prices.cost(route.provider.prices, route.model, ending.usage)

    def line(self) -> Attempt:
        """Return the line of the receipt."""
        route, timing = self._call.route, self.timing
        return Attempt(
            number=1,
            provider=route.provider.id,
            model=route.model,
            origin_host=route.surface.origin_host,
            credential_source=route.credential_source,
            billing=route.billing,
            outcome=self.outcome,
            failure_reason=self._reason,
            upstream_status=self._status,
            upstream_request_id=self._request_id,
            queue_time=timing.started - self._call.received_at,
            connect_time=_connect_time(timing, answered=self._status is not None),
            first_token_time=None if timing.first_event is None else timing.first_event - timing.started,
            total_time=self._loop.time() - timing.started,
        )

    def fail(self, error: DispatchError) -> NoReturn:
        """Complete an error with what is known of the attempt, and raise it."""
        route = self._call.route
        error.provider, error.model = route.provider.id, route.model
        if error.upstream_status is None:
            error.upstream_status = self._status
        if not error.upstream_request_id:
            error.upstream_request_id = self._request_id
        if not isinstance(error, RequestError):
            error.message = _told(error, route.provider.name, self.secrets)
            error.upstream_code = label(error.upstream_code, self.secrets, _LONGEST_CODE)
            error.upstream_request_id = label(error.upstream_request_id, self.secrets, _LONGEST_ID)
        if self.decoder is not None:
            error.partial_usage = _partial_usage(self.decoder)
        if self.answering:
            error.retryable = False  # a part was answered and will be billed
        self.outcome, self._reason = AttemptOutcome.FAILED, error.reason.value
        error.attempts = (self.line(),)
        raise error


def _connect_time(timing: Timing, *, answered: bool) -> float | None:
    """Return how long connecting took: nothing where a connection was open already, None where there never was one."""
    if timing.connected is not None:
        return timing.connected - timing.started
    return 0.0 if answered else None


def _partial_usage(decoder: Decoder) -> Usage | None:
    """Return what a failed answer had counted, if that can be read at all."""
    try:
        return decoder.usage()
    except ProtocolError:
        return None


def _told(error: DispatchError, provider: str, secrets_used: tuple[Secret, ...]) -> str:
    """Return the message for a failure at a provider, fit to show; what is ours says nothing that has to be hidden."""
    if error.reason is Reason.INVALID_CREDENTIAL:
        return f"Invalid API key for {provider}"
    if not isinstance(error, ProviderError):
        return f"{provider}: {error.message}"
    return f"{provider}: {scrub(error.message, secrets_used)}"
