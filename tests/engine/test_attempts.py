from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from keyswitch_engine import cool_down, registry
from keyswitch_engine.attempt import AttemptLog, Call
from keyswitch_engine.attempts import MAX_ATTEMPTS, Runner
from keyswitch_engine.cool_down import CoolDown
from keyswitch_engine.credential import AwsBearerToken, ProviderCredential
from keyswitch_engine.dispatch import Dispatcher, GenerationCall, TimeLimits
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.embeddings import EmbeddingInput
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import AttemptOutcome, Event, Started, TextDelta
from keyswitch_engine.operations import CountCall, EmbeddingCall, embed
from keyswitch_engine.plan import Plan
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve_embeddings
from keyswitch_engine.secret import Secret
from provoking import ANSWERS, FAILS, WHOLE, Provider, attempts, call, refused, says, whole
from support import http_provider


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with Egress(policy) as egress:
        yield Dispatcher(egress)


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


async def test_a_wait_says_how_long_it_is_and_what_to_do(dispatcher: Dispatcher) -> None:
    """A call that is refused without a try names the seconds that the provider asked for, however many they are."""
    runner = Runner(dispatcher.fingerprints)
    asked = call("http://127.0.0.1:9")
    for seconds, told in ((99.5, "100 s"), (86_399.5, "86400 s")):
        runner.cool_down(asked, seconds)
        with pytest.raises(DispatchError) as raised:
            await whole(dispatcher, runner, asked)
        assert str(raised.value).endswith(f"; try again in {told}, with another key, or with a fallback")
        assert raised.value.retry_after == pytest.approx(seconds, abs=0.5)


async def test_a_rate_limit_of_one_operation_holds_up_no_other(dispatcher: Dispatcher) -> None:
    """A key that may count no more tokens may still generate, at the same model."""
    runner = Runner(dispatcher.fingerprints)
    asked = call("http://127.0.0.1:9")
    route: Any = asked.route
    counted = CountCall(route=route, request=asked.request, limits=asked.limits, received_at=asked.received_at)
    runner.cool_down(counted, 60.0)
    assert runner.cooling(counted) is not None
    assert runner.cooling(asked) is None


async def test_a_very_long_wait_is_not_begun(dispatcher: Dispatcher) -> None:
    """However much time a call has, it holds its place for half a minute at most; the error keeps the provider's word."""
    provider = Provider(says(lambda: refused(429, **{"Retry-After": "86000"})))
    async with http_provider(provider.answer) as url, asyncio.timeout(5):
        asked = call(url, limits=TimeLimits(5, 5, 5, 100_000))
        with pytest.raises(DispatchError) as raised:
            await whole(dispatcher, Runner(dispatcher.fingerprints), asked)
    assert raised.value.retry_after == 86_000.0


async def test_no_try_is_begun_when_the_time_is_over(dispatcher: Dispatcher) -> None:
    """What could not be answered any more is not sent, and so is neither billed nor in the receipt."""
    provider = Provider(ANSWERS)
    async with http_provider(provider.answer) as url:
        asked = call(url)
        with pytest.raises(DispatchError) as raised:
            await whole(dispatcher, Runner(dispatcher.fingerprints), call(url, received_at=asked.received_at - 10))
    assert (raised.value.reason, raised.value.provider, raised.value.attempts) == (Reason.TOTAL_TIMEOUT, "sandbox", ())
    assert provider.times == []


@pytest.mark.parametrize("fallbacks", [0, 1])
async def test_a_failure_at_the_end_of_the_time_is_the_calls(dispatcher: Dispatcher, fallbacks: int) -> None:
    """With no time left for another try or another target, the error is what went wrong, not that time is over."""
    asked = call("http://127.0.0.1:9", limits=TimeLimits(5, 5, 5, 0.1))
    tries: list[GenerationCall] = []

    async def attempt(tried: GenerationCall) -> None:
        tries.append(tried)
        while asyncio.get_running_loop().time() < asked.due:
            await asyncio.sleep(0.01)
        raise DispatchError(Reason.PROVIDER_UNAVAILABLE, "down")

    plan = Plan(call=asked, fallbacks=(lambda: asked,) * fallbacks, max_attempts=3)
    with pytest.raises(DispatchError) as raised:
        await Runner(dispatcher.fingerprints, draw=lambda: 0.0).run(plan, AttemptLog(), attempt)
    assert (raised.value.reason, len(tries)) == (Reason.PROVIDER_UNAVAILABLE, 1)


async def test_no_call_makes_more_than_twenty_tries(dispatcher: Dispatcher) -> None:
    """However many targets it has and tries it asks for at each."""
    provider = Provider(*[FAILS] * 30)
    async with http_provider(provider.answer) as url:
        with pytest.raises(DispatchError) as raised:
            runner = Runner(dispatcher.fingerprints, draw=lambda: 0.0)
            await whole(dispatcher, runner, *[call(url)] * 3, max_attempts=9)
    assert len(provider.times) == len(raised.value.attempts) == MAX_ATTEMPTS == 20


async def test_a_target_that_hangs_leaves_the_others_their_share_of_the_time(dispatcher: Dispatcher) -> None:
    """Each of three has a third of the time to begin to answer, the tries at it together; the last one has the rest."""

    async def hangs(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return refused(500)

    over = asyncio.Event()
    provider = Provider(hangs, hangs, ANSWERS)
    async with http_provider(provider.answer) as url:
        asked = call(url, limits=TimeLimits(5, 1.5, 5, 1.5))
        runner = Runner(dispatcher.fingerprints)
        events = await whole(dispatcher, runner, asked, asked, asked, max_attempts=5, shares_time=True)
        over.set()
    assert attempts(events) == [AttemptOutcome.FAILED, AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    assert all(0.4 < gap < 0.75 for gap in provider.gaps)


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


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_a_refusal_for_another_reason_ends_a_cool_down(dispatcher: Dispatcher, status: int) -> None:
    """A probe that its provider refuses, but not for a rate limit, lets everybody go and learn the same."""
    other = says(lambda: refused(status))
    provider = Provider(says(lambda: refused(429, **{"Retry-After": "0.2"})), *[other] * 4)
    runner = Runner(dispatcher.fingerprints)
    async with http_provider(provider.answer) as url:
        for _ in range(5):
            with pytest.raises(DispatchError) as raised:
                await whole(dispatcher, runner, call(url), max_attempts=1)
    assert raised.value.upstream_status == status
    assert [gap > 0.2 for gap in provider.gaps] == [True, False, False, False]


async def test_a_probe_that_is_taken_on_ends_a_cool_down(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status of success says that the limit is over, however long the answer is in coming."""
    monkeypatch.setattr(cool_down, "_PROBE", 3600.0)  # nobody goes because the probe is silent

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await answered.wait()
        await response.write(json.dumps(WHOLE).encode())
        return response

    answered = asyncio.Event()
    provider = Provider(says(lambda: refused(429, **{"Retry-After": "0.1"})), slow, ANSWERS)
    runner = Runner(dispatcher.fingerprints)
    async with http_provider(provider.answer) as url, asyncio.timeout(30):
        with pytest.raises(DispatchError):
            await whole(dispatcher, runner, call(url), max_attempts=1)
        probe = asyncio.ensure_future(whole(dispatcher, runner, call(url)))
        assert attempts(await whole(dispatcher, runner, call(url))) == [AttemptOutcome.SUCCEEDED]
        answered.set()
        assert attempts(await probe) == [AttemptOutcome.SUCCEEDED]


async def test_a_place_to_wait_is_given_back(dispatcher: Dispatcher) -> None:
    """Where one call may wait at a time, the next one may once the first has gone on, or was cancelled."""
    provider = Provider(FAILS, ANSWERS, FAILS, FAILS, ANSWERS)
    runner = Runner(dispatcher.fingerprints, draw=lambda: 1.0, max_waiting=1)
    async with http_provider(provider.answer) as url, asyncio.timeout(5):
        await whole(dispatcher, runner, call(url))
        cancelled = asyncio.ensure_future(whole(dispatcher, runner, call(url)))
        while len(provider.times) < 3 or runner.has_room(None):
            await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await whole(dispatcher, runner, call(url))
    assert len(provider.times) == 5


async def test_a_target_whose_share_of_the_time_is_over_is_not_tried(dispatcher: Dispatcher) -> None:
    """Its fallback would be sent the same at the same time, and both would be billed."""

    class Held(Runner):
        """Is held up once, as a process without a processor is."""

        held = False

        def cooling(self, call: Call[Any]) -> CoolDown | None:
            if not self.held:
                self.held = True
                time.sleep(0.3)
            return super().cooling(call)

    provider = Provider(ANSWERS)
    async with http_provider(provider.answer) as url:
        asked = call(url, limits=TimeLimits(5, 0.5, 5, 0.5))
        events = await whole(dispatcher, Held(dispatcher.fingerprints), asked, asked, shares_time=True)
    assert attempts(events) == [AttemptOutcome.SUCCEEDED]
