"""One try of a call, from a request to its line of the receipt.

Everything of a call, including the writes to its caller, happens inside one coroutine: cancelling its task closes the
upstream socket, nothing outlives it, and a caller that does not read stops the provider's sending, since nothing is
read while a write waits. What arrives meanwhile gathers in the transport's bounded buffer and becomes the next batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias, TypeVar

from keyswitch_engine.attempt import AttemptLog, Call, GenerationCall, RunningAttempt
from keyswitch_engine.auth import Authenticator
from keyswitch_engine.content import answer_mode
from keyswitch_engine.cost import Prices
from keyswitch_engine.custom_endpoint import PROVIDER_ID as CUSTOM
from keyswitch_engine.deadline import TimeLimits, Watch
from keyswitch_engine.dialects.base import Decoder, Dialect, UpstreamRequest
from keyswitch_engine.dialects.reading import bound, is_json
from keyswitch_engine.egress import Answer, Timing
from keyswitch_engine.errors import (
    DispatchError,
    InvalidRequest,
    LimitExceeded,
    ProtocolError,
    Reason,
    RequestError,
    StreamTruncated,
)
from keyswitch_engine.events import Attempt, Billing, Event
from keyswitch_engine.fingerprint import Fingerprints
from keyswitch_engine.generation import Generation, OpaquePart, ProviderTool
from keyswitch_engine.provider import D
from keyswitch_engine.route import Route

__all__ = [
    "MAX_ERROR_BYTES",
    "AttemptLog",
    "Call",
    "Dispatcher",
    "GenerationCall",
    "Sink",
    "TimeLimits",
    "WayOut",
    "write_request",
]

R = TypeVar("R")

MAX_ERROR_BYTES = 64 * 1024
"""How much of an error's body is read."""

_TOKEN_CONNECT_SECONDS = 10.0
_ANSWERS = (200, 201)
"""Statuses with which an answer comes; 202 promises one for later, and 204 has none."""

Sink: TypeAlias = Callable[[list[Event]], Awaitable[None]]
"""Takes one batch of events; dispatch waits for it."""


class WayOut(Protocol):
    """What requests leave by: an egress, or several."""

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, connect_limit: float, timing: Timing
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """Send a request; see `Egress.request`."""


class Dispatcher:
    """Makes calls through one way out."""

    def __init__(self, egress: WayOut, prices: Prices | None = None) -> None:
        """Use *egress*, which has to be open; without *prices* nothing has a known cost."""
        self._egress = egress
        self._prices = prices
        self._authenticator = Authenticator(self._post)
        self.fingerprints = Fingerprints()
        """By which receipts and cool-downs know keys."""

    async def stream(self, call: GenerationCall, sink: Sink, log: AttemptLog | None = None) -> None:
        """Make a call and hand its events to *sink*, a batch for each read. *log* has its tries so far, if any.

        Raises:
            DispatchError: the call failed; what was decoded before went to the sink.
        """
        attempt = self._attempt(call, log)
        try:
            with attempt.watch() as watch:
                async with self._open(call, call.request, attempt) as answer:
                    await _pump(call, answer, attempt, watch, sink)
        except DispatchError as error:
            attempt.fail(error)

    async def generate(self, call: GenerationCall, log: AttemptLog | None = None) -> list[Event]:
        """Make a call and return all its events; see `stream`.

        Raises:
            DispatchError: the call failed.
        """
        attempt = self._attempt(call, log)
        events: list[Event] = []
        try:
            with attempt.watch() as watch:
                async with self._open(call, call.request, attempt) as answer:
                    decoder = attempt.decoder = _decoder(call, streamed=answer_mode(answer.headers, streamed=False))
                    async for data in _whole(answer, attempt, watch):
                        events += decoder.feed(data)
                    block_events, ending = decoder.end()
                    return [attempt.started(decoder), *events, *block_events, attempt.finished(ending)]
        except DispatchError as error:
            attempt.answering = bool(events or (attempt.decoder is not None and attempt.decoder.pending))
            attempt.fail(error)

    async def exchange(
        self, call: Call[D], request: UpstreamRequest, read: Callable[[bytes], R], log: AttemptLog | None = None
    ) -> tuple[R, Attempt]:
        """Make a call whose answer is small, and return what *read* makes of it, with the line of the receipt.

        Raises:
            DispatchError: the call failed.
        """
        attempt = self._attempt(call, log)
        try:
            with attempt.watch() as watch:
                async with self._open(call, request, attempt) as answer:
                    body = bytearray()
                    async for data in _whole(answer, attempt, watch):
                        body += data
                    return read(bytes(body)), attempt.succeeded()
        except DispatchError as error:
            attempt.fail(error)

    def _attempt(self, call: Call[D], log: AttemptLog | None) -> RunningAttempt:
        """Begin a try, unless the call's time is over: what is sent then is billed, and nobody is there to read it.

        Raises:
            LimitExceeded: it is.
        """
        if asyncio.get_running_loop().time() >= call.due:
            error = LimitExceeded(Reason.TOTAL_TIMEOUT, "the time for the call was over before it could be sent")
            error.provider, error.model = call.route.provider.id, call.route.model
            raise error
        fingerprint = self.fingerprints.of(call.route.credential)
        return RunningAttempt(call, self._prices, fingerprint, AttemptLog() if log is None else log)

    @contextlib.asynccontextmanager
    async def _open(self, call: Call[D], request: UpstreamRequest, attempt: RunningAttempt) -> AsyncIterator[Answer]:
        """Send the request; the answer inside the context is one, errors have been read and raised."""
        route = call.route
        url = route.surface.base_url + request.path
        headers = request.headers | route.surface.headers
        authenticated = await self._authenticator.authenticate(
            route.provider.auth, route.credential,
            method=request.method, url=url, headers=headers, body=request.body, region=route.region,
            key_header=route.surface.key_header,
        )  # fmt: skip
        attempt.secrets = authenticated.secrets
        async with self._egress.request(
            request.method,
            url,
            headers | authenticated.headers,
            request.body,
            connect_limit=call.limits.connect,
            timing=attempt.timing,
        ) as answer:
            attempt.answered(answer)
            if answer.status == 401:  # noqa: PLR2004 - unauthorized, RFC 9110
                self._authenticator.forget(attempt.secrets)
            if answer.status not in _ANSWERS:
                raise await _refusal(call, answer)
            yield answer

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Post for a token."""
        timing = Timing(asyncio.get_running_loop().time())
        async with self._egress.request(
            "POST", url, headers, body, connect_limit=_TOKEN_CONNECT_SECONDS, timing=timing
        ) as answer:
            content = bytearray()
            while len(content) < MAX_ERROR_BYTES and (data := await answer.read()):
                content += data
            return answer.status, bytes(content)


async def _refusal(call: Call[D], answer: Answer) -> DispatchError:
    """Read an error."""
    if answer.status < 300:  # noqa: PLR2004 - successes, RFC 9110
        return ProtocolError(f"the provider answered with HTTP status {answer.status}, which is no answer")
    if answer.status < 400:  # noqa: PLR2004 - redirections, RFC 9110
        return ProtocolError("the provider answered with a redirect, which is not followed")
    body = bytearray()
    while len(body) < MAX_ERROR_BYTES and (data := await _read(answer)):
        body += data
    surface = call.route.surface
    content = bytes(body[:MAX_ERROR_BYTES])
    error = surface.dialect.error(surface.profile, answer.status, answer.headers, content)
    if call.route.provider.id == CUSTOM and not (content.lstrip()[:1] in (b"{", b"[") and is_json(content)):
        error.message = (
            f"the endpoint answered with HTTP status {answer.status}"  # else any page could be read this way
        )
    return error


def write_request(route: Route[Dialect], generation: Generation, *, stream: bool) -> UpstreamRequest:
    """Write the request of a generation, before anything is sent.

    Raises:
        RequestError: the provider cannot be told of a part of it in this dialect, or options contradict the rest.
    """
    surface = route.surface
    if route.billing is Billing.PLATFORM:
        _check_operators_bill(generation)
    try:
        return surface.dialect.request(generation, route.model, surface.profile, route.options_json, stream=stream)
    except InvalidRequest:
        raise
    except RequestError as error:
        error.provider, error.model = route.provider.id, route.model
        spoken = surface.dialect.name
        others = sorted({other.dialect.name for other in route.provider.dialects} - {spoken})
        if error.reason is Reason.UNSUPPORTED_FEATURE and others:
            error.message += f" (dialect {spoken}; {route.provider.id} also speaks {', '.join(others)})"
        raise


def _check_operators_bill(generation: Generation) -> None:
    """Refuse tools that the provider runs and bills itself, and their items, which no menu allows."""
    opaque = any(isinstance(part.content, OpaquePart) for message in generation.messages for part in message.parts)
    if opaque or any(isinstance(tool, ProviderTool) for tool in generation.tools):
        raise RequestError(
            Reason.PLATFORM_NOT_ALLOWED,
            "a provider's own tools and their items cannot be used on the operator's bill; send a key of your own",
            field="messages" if opaque else "tools",
        )


def _decoder(call: GenerationCall, *, streamed: bool) -> Decoder:
    """Make the decoder that an answer needs."""
    surface = call.route.surface
    return surface.dialect.decoder(surface.profile, stream=streamed)


async def _read(answer: Answer) -> bytes:
    """Read on; a connection that broke reads like one that ended, for the decoder to judge whether all had come."""
    try:
        return await answer.read()
    except StreamTruncated:
        return b""


async def _whole(answer: Answer, attempt: RunningAttempt, watch: Watch) -> AsyncIterator[bytes]:
    """Read an answer that is taken as a whole, within bounds; space before it begins nothing."""
    size = 0
    while data := await answer.read():
        watch.heard()
        if not data.isspace():
            watch.answering()
            attempt.saw_event()
        size += len(data)
        bound(size)
        yield data


async def _pump(call: GenerationCall, answer: Answer, attempt: RunningAttempt, watch: Watch, sink: Sink) -> None:
    """Read, decode and write until the answer is complete."""
    streamed = answer_mode(answer.headers, streamed=True)
    decoder = attempt.decoder = _decoder(call, streamed=streamed)
    events: list[Event] = []
    started = False
    try:
        while not decoder.done and (data := await _read(answer)):
            watch.heard()
            events += decoder.feed(data)
            if not started:  # comments that keep the connection alive come before anything of the answer
                if not events and not decoder.response_id:
                    if not streamed and not data.isspace():  # a whole answer has begun
                        watch.answering()
                        attempt.saw_event()
                    continue
                started = True
                watch.answering()
                attempt.answering = bool(events)
                events.insert(0, attempt.started(decoder))
            elif events:
                attempt.answering = True
            if events and not decoder.done:
                watch.writing(active=True)
                await sink(events)
                if call.coalesce_window:
                    await asyncio.sleep(call.coalesce_window)
                watch.writing(active=False)
                if watch.passed:  # end here, not inside of the next write
                    await asyncio.sleep(0)
                events = []
        block_events, ending = decoder.end()
    except DispatchError:
        events += decoder.pending
        if events:
            attempt.answering = True
            if not started:
                events.insert(0, attempt.started(decoder))
            watch.writing(active=True)
            await sink(events)
        raise
    if not started:
        events.append(attempt.started(decoder))
    events += block_events
    events.append(attempt.finished(ending))
    watch.writing(active=True)
    await sink(events)
    watch.stop()
    await answer.drain()
