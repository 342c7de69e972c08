from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from keyswitch_engine import registry
from keyswitch_engine.attempt import AttemptLog
from keyswitch_engine.attempts import Runner
from keyswitch_engine.credential import ApiKey, AwsBearerToken, ProviderCredential
from keyswitch_engine.dispatch import Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.egress import Egress, EgressPolicy
from keyswitch_engine.embeddings import EmbeddingInput
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import AttemptOutcome, Event, Finished, Started, TextDelta
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.operations import EmbeddingCall, embed
from keyswitch_engine.plan import Plan
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve, resolve_embeddings
from keyswitch_engine.secret import Secret
from support import http_provider

GENERATION = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))
WHOLE = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with Egress(policy) as egress:
        yield Dispatcher(egress)


def call(url: str, *, stream: bool = False, **fields: Any) -> GenerationCall:
    rows = registry.load(base_urls={"sandbox": url})
    route = resolve(rows, Target(provider="sandbox"), [ProviderCredential("sandbox", ApiKey(Secret("the-key")))])
    now = asyncio.get_running_loop().time()
    shared = {"limits": TimeLimits(5, 5, 5, 10), "received_at": now} | fields
    return GenerationCall(request=write_request(route, GENERATION, stream=stream), route=route, **shared)


def refused(status: int, message: str = "no", **headers: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class Provider:
    """Answers its requests in order, each in the way that was told for it."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.times: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.times.append(asyncio.get_running_loop().time())
        return await self.answers[len(self.times) - 1](request)

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def says(response: Callable[[], web.Response]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return response()

    return answer


FAILS = says(lambda: refused(500))
ANSWERS = says(lambda: web.json_response(WHOLE))


async def whole(dispatcher: Dispatcher, runner: Runner, *calls: GenerationCall, **plan: Any) -> list[Event]:
    log = AttemptLog()
    first, *fallbacks = calls
    later = tuple(functools.partial(msgspec.structs.replace, fallback) for fallback in fallbacks)
    asked = Plan(call=first, fallbacks=later, **{"max_attempts": 2} | plan)
    return await runner.run(asked, log, lambda call: dispatcher.generate(call, log))


def attempts(events: list[Event]) -> list[AttemptOutcome]:
    assert isinstance(events[-1], Finished)
    return [attempt.outcome for attempt in events[-1].receipt.attempts]


def test_waits_double_and_are_drawn_from_all_of_their_length(dispatcher: Dispatcher) -> None:
    """Without a word of the provider's: full jitter over 0.5 s, 1 s, … 8 s; with one never less than it asked for."""
    longest, shortest = (Runner(dispatcher.fingerprints, draw=lambda drawn=drawn: drawn) for drawn in (1.0, 0.0))
    assert [longest.backoff(tries) for tries in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert [shortest.backoff(tries) for tries in (1, 5)] == [0.0, 0.0]
    assert [longest.spread(asked) for asked in (0.0, 1.0, 100.0)] == [0.0, 1.1, 101.0]
    assert [shortest.spread(asked) for asked in (0.0, 1.0, 100.0)] == [0.0, 1.0, 100.0]


async def test_tries_are_as_far_apart_as_was_drawn(dispatcher: Dispatcher) -> None:
    """The provider sees half of a half second, then half of a second, between its requests."""
    provider = Provider(FAILS, FAILS, ANSWERS)
    async with http_provider(provider.answer) as url:
        await whole(dispatcher, Runner(dispatcher.fingerprints, draw=lambda: 0.5), call(url), max_attempts=3)
    assert 0.25 <= provider.gaps[0] < 0.5 <= provider.gaps[1] < 0.9


async def test_a_wait_of_nothing_is_no_word_of_the_providers(dispatcher: Dispatcher) -> None:
    """`Retry-After: 0` does not mean at once and by all: the drawn wait stands."""
    provider = Provider(says(lambda: refused(429, **{"Retry-After": "0"})), ANSWERS)
    async with http_provider(provider.answer) as url:
        await whole(dispatcher, Runner(dispatcher.fingerprints, draw=lambda: 0.6), call(url))
    assert provider.gaps[0] >= 0.3


async def test_a_rate_limit_of_one_scope_holds_up_no_other(dispatcher: Dispatcher) -> None:
    """The same key in the same process: the caller that ran into the limit is told, another one is let through."""
    provider = Provider(says(lambda: refused(429, **{"Retry-After": "60"})), ANSWERS)
    runner = Runner(dispatcher.fingerprints)
    async with http_provider(provider.answer) as url:
        for _ in range(2):
            with pytest.raises(DispatchError) as raised:
                await whole(dispatcher, runner, call(url, scope="one"))
            assert raised.value.reason is Reason.PROVIDER_RATE_LIMITED
        assert raised.value.attempts == ()
        assert len(provider.times) == 1
        assert attempts(await whole(dispatcher, runner, call(url, scope="two"))) == [AttemptOutcome.SUCCEEDED]


async def test_whoever_waits_for_a_key_is_told_what_it_waits_for(dispatcher: Dispatcher) -> None:
    """If others run into a longer limit meanwhile, the error has that delay, and the receipt the try that was made."""
    provider = Provider(says(lambda: refused(429, **{"Retry-After": "0.3"})))
    runner = Runner(dispatcher.fingerprints)
    async with http_provider(provider.answer) as url:
        asked = call(url)
        waiting = asyncio.ensure_future(whole(dispatcher, runner, asked))
        while not runner.cooling(asked):
            await asyncio.sleep(0.01)
        runner.cool_down(asked, 60.0)
        with pytest.raises(DispatchError) as raised:
            await waiting
    assert raised.value.retry_after is not None
    assert 50 < raised.value.retry_after <= 60
    assert [attempt.upstream_status for attempt in raised.value.attempts] == [429]


async def test_a_later_start_replaces_an_earlier_one(dispatcher: Dispatcher) -> None:
    """A stream that began and failed before its first block begins anew, with the number of the try that goes on."""

    async def begins(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        first = {"id": "first", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        await response.write(b"data: " + json.dumps(first).encode() + b"\n\n")
        await written.wait()
        await response.write(b'data: {"error":{"message":"overloaded","code":503}}\n\n')
        return response

    async def goes_on(request: web.Request) -> web.StreamResponse:
        chunk = {"id": "second", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
        body = b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"
        return web.Response(body=body, content_type="text/event-stream")

    seen: list[Event] = []
    written = asyncio.Event()

    async def sink(events: list[Event]) -> None:
        seen.extend(events)
        written.set()

    log = AttemptLog()
    async with http_provider(Provider(begins, goes_on).answer) as url:
        plan = Plan(call=call(url, stream=True), max_attempts=2)
        await Runner(dispatcher.fingerprints).run(plan, log, lambda call: dispatcher.stream(call, sink, log))
    starts = [(number, event) for number, event in enumerate(seen) if isinstance(event, Started)]
    assert [(number, event.response_id, event.attempt) for number, event in starts] == [
        (0, "first", 1),
        (1, "second", 2),
    ]
    assert [event.text for event in seen if isinstance(event, TextDelta)] == ["Hi"]
    assert attempts(seen) == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]


async def after(event: asyncio.Event, response: web.Response) -> web.StreamResponse:
    await event.wait()
    return response


async def test_a_hedge_goes_on_where_the_first_try_fails(dispatcher: Dispatcher) -> None:
    """Once both run, the failure of one is no failure of the call, and not a reason for a third."""
    second_came, first_failed = asyncio.Event(), asyncio.Event()

    async def first(request: web.Request) -> web.StreamResponse:
        return await after(second_came, refused(402))

    async def second(request: web.Request) -> web.StreamResponse:
        second_came.set()
        return await after(first_failed, web.json_response(WHOLE))

    async def attempt(asked: GenerationCall) -> list[Event]:
        try:
            return await dispatcher.generate(asked, log)
        except DispatchError:
            first_failed.set()
            raise

    provider = Provider(first, second)
    log = AttemptLog()
    async with http_provider(provider.answer) as url:
        plan = Plan(call=call(url), max_attempts=3, hedge_after=0.05)
        events = await Runner(dispatcher.fingerprints).run(plan, log, attempt)
    assert attempts(events) == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    assert len(provider.times) == 2


async def test_a_failure_for_good_beats_one_that_may_pass(dispatcher: Dispatcher) -> None:
    """If both of two tries fail, one of them out of credit, nothing is tried again, whichever failed last."""
    second_came = asyncio.Event()

    async def first(request: web.Request) -> web.StreamResponse:
        return await after(second_came, refused(402))

    async def second(request: web.Request) -> web.StreamResponse:
        second_came.set()
        return refused(500)

    provider = Provider(first, second)
    async with http_provider(provider.answer) as url:
        with pytest.raises(DispatchError) as raised:
            await whole(dispatcher, Runner(dispatcher.fingerprints), call(url), max_attempts=5, hedge_after=0.05)
    assert raised.value.reason is Reason.INSUFFICIENT_CREDIT
    assert [attempt.outcome for attempt in raised.value.attempts] == [AttemptOutcome.FAILED] * 2
    assert len(provider.times) == 2


async def test_a_key_that_has_to_wait_is_not_hedged_with(dispatcher: Dispatcher) -> None:
    """While a try is under way another call runs into the key's rate limit: no second try is sent with it."""
    came = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        came.set()
        await asyncio.sleep(0.6)  # longer than the hedge waits
        return web.json_response(WHOLE)

    provider = Provider(slow, says(lambda: refused(429, **{"Retry-After": "60"})))
    runner = Runner(dispatcher.fingerprints)
    async with http_provider(provider.answer) as url:
        hedged = asyncio.ensure_future(whole(dispatcher, runner, call(url), hedge_after=0.3))
        await came.wait()
        with pytest.raises(DispatchError):
            await whole(dispatcher, runner, call(url))
        assert attempts(await hedged) == [AttemptOutcome.SUCCEEDED]
    assert len(provider.times) == 2


async def test_a_bug_in_a_hedged_try_is_told_as_itself(dispatcher: Dispatcher) -> None:
    """What is no failure of a call passes through unwrapped, and ends the other try."""
    ended: list[str] = []

    async def attempt(asked: GenerationCall) -> None:
        if not begun.is_set():
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("first")
        raise LookupError("a bug")

    begun = asyncio.Event()
    plan = Plan(call=call("http://127.0.0.1:9"), max_attempts=2, hedge_after=0.01)
    with pytest.raises(LookupError):
        await Runner(dispatcher.fingerprints).run(plan, AttemptLog(), attempt)
    assert ended == ["first"]


@pytest.mark.parametrize("hedge_after", [None, 0.2])
async def test_embeddings_are_not_repeated_once_one_request_was_answered(
    dispatcher: Dispatcher, hedge_after: float | None
) -> None:
    """Where a protocol takes one text each, what was answered is billed: no retry, no hedge and no fallback follows."""

    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.4)  # longer than the hedge waits
        return refused(503)

    one = says(lambda: web.json_response({"embedding": [1.0], "inputTextTokenCount": 1}))
    provider = Provider(one, late)
    log = AttemptLog()
    async with http_provider(provider.answer) as url:
        rows = registry.load(base_urls={"bedrock": url})
        keys = [ProviderCredential("bedrock", AwsBearerToken(Secret("the-key")))]
        route = resolve_embeddings(rows, Target(provider="bedrock", model="amazon.titan-embed-text-v2:0"), keys)
        surface = route.surface
        asked = EmbeddingCall(
            route=route, texts=2, limits=TimeLimits(5, 5, 5, 10), received_at=asyncio.get_running_loop().time(),
            requests=surface.dialect.requests(EmbeddingInput(("a", "b")), route.model, surface.profile, ""),
        )  # fmt: skip
        plan = Plan(call=asked, fallbacks=(lambda: asked,), max_attempts=3, hedge_after=hedge_after)
        with pytest.raises(DispatchError) as raised:
            await Runner(dispatcher.fingerprints).run(plan, log, lambda call: embed(dispatcher, call, log))
    assert len(provider.times) == 2
    assert (raised.value.retryable, raised.value.answering) == (False, True)
    assert [attempt.number for attempt in raised.value.attempts] == [1, 2]


async def test_a_wait_that_does_not_fit_is_not_begun(dispatcher: Dispatcher) -> None:
    """The call fails at once, with the delay that the provider asked for, rather than at its deadline."""
    provider = Provider(says(lambda: refused(503, "busy", **{"Retry-After": "7"})))
    loop = asyncio.get_running_loop()
    async with http_provider(provider.answer) as url:
        asked = call(url)
        asked = msgspec.structs.replace(asked, deadline=asked.received_at + 5.0)
        with pytest.raises(DispatchError) as raised:
            await whole(dispatcher, Runner(dispatcher.fingerprints), asked)
    assert loop.time() - asked.received_at < 2.0
    assert (raised.value.retry_after, raised.value.retryable, raised.value.upstream_status) == (7.0, True, 503)
