"""One call of a provider, and what is known of its tries: clocks, secrets, lines of the receipt."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic, NoReturn

import msgspec

from keyswitch_engine.cost import Prices
from keyswitch_engine.credential import secrets_of
from keyswitch_engine.deadline import DEADLINE_MARGIN, TimeLimits, Watch
from keyswitch_engine.dialects.base import Decoder, Dialect, UpstreamRequest
from keyswitch_engine.egress import Answer, Timing
from keyswitch_engine.error_rules import request_id
from keyswitch_engine.errors import DispatchError, ProtocolError, ProviderError, Reason, RequestError
from keyswitch_engine.events import Attempt, AttemptOutcome, Cost, Ending, Finished, Receipt, Started, Usage
from keyswitch_engine.provider import D
from keyswitch_engine.route import Route
from keyswitch_engine.secret import Secret, label, quotes, scrub

__all__ = ["AttemptLog", "Call", "GenerationCall", "RunningAttempt"]

_LONGEST_ID: Final = 200
_LONGEST_CODE: Final = 100
"""Characters of an id or a code of a provider's that are passed on."""


class Call(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """One call of a provider. Times are on the loop's clock."""

    operation: ClassVar[str] = "other"
    """What is asked for, which providers limit apart from other things."""
    route: Route[D]
    limits: TimeLimits
    received_at: float
    deadline: float | None = None
    """When the RPC ends; None if it has no deadline."""
    scope: str = ""
    """On whose behalf; rate limits of one scope hold nobody up in another."""

    @property
    def due(self) -> float:
        """When the call ends, whatever it does then: its total limit, or shortly before the RPC's deadline."""
        due = self.received_at + self.limits.total
        return due if self.deadline is None else min(due, self.deadline - DEADLINE_MARGIN)


class GenerationCall(Call[Dialect], frozen=True, kw_only=True):
    """One generation."""

    operation: ClassVar[str] = "generation"
    request: UpstreamRequest
    """As `write_request` wrote it."""
    coalesce_window: float = 0.0
    """Seconds for which events are gathered before they are sent; 0 sends them as they come."""


class AttemptLog:
    """The tries of one call, in the order in which they began; they become its receipt."""

    def __init__(self) -> None:
        """Start with none."""
        self._attempts: list[RunningAttempt] = []
        self.on_accepted: Callable[[], None] | None = None
        """Called when a provider takes a try on."""

    def __len__(self) -> int:
        """Return how many tries have begun."""
        return len(self._attempts)

    @property
    def route(self) -> Route[Any] | None:
        """Where the last try went; None before the first one."""
        return self._attempts[-1].call.route if self._attempts else None

    def has_event(self, since: int) -> bool:
        """Tell whether an event came for one of the tries after the first *since*."""
        return any(attempt.timing.first_event is not None for attempt in self._attempts[since:])

    def lines(self) -> tuple[Attempt, ...]:
        """Return the lines of the receipt."""
        return tuple(attempt.line() for attempt in self._attempts)

    def begin(self, attempt: RunningAttempt) -> int:
        """Add a try and return its number, counting from 1."""
        self._attempts.append(attempt)
        return len(self._attempts)

    def began_to_answer(self, winner: RunningAttempt) -> None:
        """Cancel the tries that still run beside the one that has an event first; without hedging there are none."""
        for attempt in self._attempts:
            if attempt is not winner:
                attempt.lose()


class RunningAttempt:
    """What is known of one try; becomes a line of the receipt. Belongs to the task that makes it."""

    def __init__(self, call: Call[D], prices: Prices | None, key_fingerprint: str, log: AttemptLog) -> None:
        self.call: Call[Any] = call
        self._prices = prices
        self._key_fingerprint = key_fingerprint
        self._log = log
        self._number = log.begin(self)
        self.secrets = secrets_of(call.route.credential)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self.timing = Timing(self._loop.time())
        self.decoder: Decoder | None = None
        self.answering = False
        self._outcome: AttemptOutcome | None = None
        self._ended = 0.0
        self._status: int | None = None
        self._request_id = ""
        self._reason = ""

    def watch(self) -> Watch:
        """Return the watch over the call's limits."""
        return Watch(self.call.limits, self.timing.started, self.call.due)

    def answered(self, answer: Answer) -> None:
        """Note status and request id."""
        self._status = answer.status
        self._request_id = label(request_id(answer.headers), self.secrets, _LONGEST_ID)

    def accepted(self) -> None:
        """Note that the provider takes the request on: its status is that of an answer."""
        if self._log.on_accepted is not None:
            self._log.on_accepted()

    def saw_event(self) -> None:
        """Note when the answer began; from here on no other try of the call can answer it. One that has lost cannot."""
        if self.timing.first_event is None and self._outcome is not AttemptOutcome.CANCELLED:
            self.timing.first_event = self._loop.time()
            self._log.began_to_answer(self)

    def lose(self) -> None:
        """End the try, if it still runs, because another one answers."""
        if self._outcome is None:
            self._end(AttemptOutcome.CANCELLED)
            if self._task is not None:
                self._task.cancel()

    def _end(self, outcome: AttemptOutcome) -> None:
        """Note how the try ended; one that has lost stays so, whatever it runs into while it is cleaned up."""
        if self._outcome is not AttemptOutcome.CANCELLED:
            self._outcome, self._ended = outcome, self._loop.time()

    def started(self, decoder: Decoder) -> Started:
        """Return the event that opens an answer, which has begun with it."""
        self.saw_event()
        route = self.call.route
        return Started(
            self._unless_secret(decoder.response_id) or f"ks_{secrets.token_hex(12)}",
            route.provider.id,
            route.requested_model,
            route.model,
            route.billing,
            self._number,
        )

    def finished(self, ending: Ending) -> Finished:
        """Return the event that closes an answer."""
        self.succeeded()
        ending = msgspec.structs.replace(
            ending,
            raw_stop_reason=self._unless_secret(ending.raw_stop_reason),
            usage=self._shown(ending.usage),
            answering_model=self._unless_secret(ending.answering_model) or self.call.route.model,
        )
        return Finished(ending, Receipt(self._log.lines()), self._cost(ending))

    def _unless_secret(self, text: str) -> str:
        """Return a provider's text about its answer; none if it quotes what authenticated the call."""
        return "" if quotes(text, self.secrets) else text

    def _shown(self, usage: Usage | None) -> Usage | None:
        """Return token counts, whose JSON as the provider sent it is left out likewise."""
        if usage is None or usage.reported is None or not quotes(usage.reported.json, self.secrets):
            return usage
        return msgspec.structs.replace(usage, reported=msgspec.structs.replace(usage.reported, json=""))

    def succeeded(self) -> Attempt:
        """Note that the answer is complete, and return the line of the receipt."""
        self.saw_event()
        self._end(AttemptOutcome.SUCCEEDED)
        return self.line()

    def _cost(self, ending: Ending) -> Cost | None:
        """Return what the answer cost, by the model that was asked for, since prices are listed by that."""
        if self._prices is None:
            return None
        route = self.call.route
        return self._prices.cost(route.provider.prices, route.model, ending.usage)

    def line(self) -> Attempt:
        """Return the line of the receipt."""
        route, timing = self.call.route, self.timing
        return Attempt(
            number=self._number,
            provider=route.provider.id,
            model=route.model,
            origin_host=route.surface.origin_host,
            credential_source=route.credential_source,
            billing=route.billing,
            outcome=AttemptOutcome.CANCELLED if self._outcome is None else self._outcome,  # what still runs will be
            failure_reason=self._reason,
            upstream_status=self._status,
            upstream_request_id=self._request_id,
            queue_time=timing.started - self.call.received_at,
            connect_time=_connect_time(timing, answered=self._status is not None),
            first_token_time=None if timing.first_event is None else timing.first_event - timing.started,
            total_time=(self._ended if self._outcome is not None else self._loop.time()) - timing.started,
            key_fingerprint=self._key_fingerprint,
        )

    def fail(self, error: DispatchError) -> NoReturn:
        """Complete an error with what is known of the attempt, and raise it."""
        route = self.call.route
        error.provider, error.model = route.provider.id, route.model
        if error.reason is Reason.BLOCKED_ENDPOINT:
            error.origins = (route.surface.origin,)
        if error.upstream_status is None:
            error.upstream_status = self._status
        if not error.upstream_request_id:
            error.upstream_request_id = self._request_id
        if not isinstance(error, RequestError):
            error.message = _told(error, route.provider.name, self.secrets)
            error.upstream_code = label(error.upstream_code, self.secrets, _LONGEST_CODE)
            error.upstream_request_id = label(error.upstream_request_id, self.secrets, _LONGEST_ID)
        if self.decoder is not None:
            error.partial_usage = self._shown(_partial_usage(self.decoder))
        if self.answering:
            error.answering, error.retryable = True, False  # a part was answered and will be billed
        self._end(AttemptOutcome.FAILED)
        self._reason = error.reason.value if self._outcome is AttemptOutcome.FAILED else ""
        error.attempts = self._log.lines()
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
