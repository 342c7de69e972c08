from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from attempting import ELSEWHERE, ROW, ask, fail, saw, told, tuned
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.target_pb2 import Target
from keyswitch_client import AsyncClient, KeyswitchError, Started
from keyswitch_client.requests import credential_messages
from keyswitch_sandbox import Sandbox
from support import EGRESS, ServerProcess, server_process


@pytest.fixture(scope="module")
async def second() -> AsyncIterator[Sandbox]:
    """Another provider."""
    async with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
async def two_providers(
    sandbox: Sandbox, second: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("two")
    for name, url in (("second", second.url), ("gone", "http://127.0.0.1:9")):
        (folder / f"{name}.toml").write_text(ROW.format(id=name, url=url))
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_PROVIDERS": json.dumps([str(folder)])}
    async with server_process(folder, env) as running:
        yield running


@pytest.fixture(scope="module")
async def caller(two_providers: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(two_providers.address, timeout=30.0) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "reason", "status"),
    [
        ("unavailable", "PROVIDER_UNAVAILABLE", 500),
        ("overloaded", "PROVIDER_OVERLOADED", 503),
        ("error-in-200", "PROVIDER_UNAVAILABLE", 200),
    ],
)
async def test_a_failure_that_passes_is_tried_again(
    client: AsyncClient, sandbox: Sandbox, model: str, reason: str, status: int, stream: bool
) -> None:
    """The second try answers; the receipt has both, as the provider saw them, and the answer names the second."""
    key = f"passes-{model}-{stream}"
    answer = await ask(client, model, key, stream=stream, options=tuned(times=1))
    assert answer.text == "one two"
    assert answer.response.started.attempt == 2
    assert told(answer.receipt) == [("FAILED", reason, "sandbox", status), ("SUCCEEDED", "", "sandbox", 200)]
    assert [entry.status for entry in saw(sandbox, key)] == [status, 200]
    first, last = answer.receipt.attempts
    assert first.queue_time.ToTimedelta() + first.total_time.ToTimedelta() <= last.queue_time.ToTimedelta()


async def test_retry_after_is_honoured(client: AsyncClient, sandbox: Sandbox) -> None:
    """The provider sees the next try no sooner than it asked for, and little later."""
    await ask(client, "rate-limited", "waits", options=tuned(times=2, retry_after=0.8), max_attempts=3)
    times = [entry.at for entry in saw(sandbox, "waits")]
    assert len(times) == 3
    for before, after in itertools.pairwise(times):
        assert 0.8 <= after - before < 2.0


async def test_a_call_makes_as_many_tries_as_it_allows(client: AsyncClient, sandbox: Sandbox) -> None:
    """The server's default is two; a request may say otherwise; afterwards the error is still what the table says."""
    for most, expected in ((0, 2), (1, 1), (4, 4)):
        key = f"most-{most}"
        error = await fail(client, "unavailable", key, max_attempts=most)
        assert (error.reason, error.retryable) == ("PROVIDER_UNAVAILABLE", True)
        assert len(error.receipt.attempts) == len(saw(sandbox, key)) == expected


@pytest.mark.parametrize("model", ["truncated", "error-mid-stream", "reset", "bad-json", "stall-mid-stream"])
async def test_nothing_is_tried_after_the_first_block(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox, model: str
) -> None:
    """An answer that breaks is neither repeated nor continued elsewhere: it is billed, and the caller has seen it."""
    key = f"broke-{model}"
    limits = pb.GenerateRequest(limits={"idle_timeout": {"nanos": 300_000_000}})
    error = await fail(
        caller, model, key, stream=True, messages="a b c d e f", fallbacks=[ELSEWHERE], max_attempts=3, request=limits
    )
    assert (error.retryable, len(error.receipt.attempts)) == (False, 1)
    assert (len(saw(sandbox, key)), len(saw(second, f"{key}-second"))) == (1, 0)


@pytest.mark.parametrize("model", ["truncated", "reset", "bad-json", "stall-mid-stream"])
async def test_nothing_is_tried_after_the_first_bytes_of_a_whole_answer(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox, model: str
) -> None:
    """Nothing of it reached the caller, and yet it is billed."""
    key = f"half-{model}"
    limits = pb.GenerateRequest(limits={"idle_timeout": {"nanos": 300_000_000}})
    error = await fail(caller, model, key, messages="a b c d", fallbacks=[ELSEWHERE], max_attempts=3, request=limits)
    assert (error.retryable, len(error.receipt.attempts)) == (False, 1)
    assert (len(saw(sandbox, key)), len(saw(second, f"{key}-second"))) == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_hangs_is_left_for_a_fallback(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox, stream: bool
) -> None:
    """An answer that has not begun in its target's share of the time is not waited for, unless a limit says so."""
    hangs, stays = f"hangs-{stream}", f"stays-{stream}"
    answer = await ask(caller, "stall", hangs, stream=stream, fallbacks=[ELSEWHERE], timeout=3.0)
    assert told(answer.receipt) == [
        ("FAILED", "FIRST_TOKEN_TIMEOUT", "sandbox", 0),
        ("SUCCEEDED", "", "second", 200),
    ]
    await closed(sandbox, hangs, 1)
    limits = pb.GenerateRequest(limits={"first_token_timeout": {"seconds": 10}})
    error = await fail(caller, "stall", stays, stream=stream, fallbacks=[ELSEWHERE], timeout=1.5, request=limits)
    assert (error.reason, len(error.receipt.attempts)) == ("TOTAL_TIMEOUT", 1)
    assert not saw(second, f"{stays}-second")


PASSED_ON = ["bad-key", "not-permitted", "out-of-credit", "payment-required", "model-not-found", "context-overflow",
             "rate-limited", "overloaded", "unavailable"]  # fmt: skip
KEPT = ["bad-request", "content-refused", "html", "redirect"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", PASSED_ON)
async def test_a_fallback_takes_over_with_its_own_key(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox, model: str, stream: bool
) -> None:
    """What another target may not have leads there; each provider saw its own key and nobody else's."""
    key = f"passed-{model}-{stream}"
    answer = await ask(caller, model, key, stream=stream, fallbacks=[ELSEWHERE], max_attempts=1)
    assert answer.text == "one two"
    assert (answer.response.started.provider, answer.response.started.attempt) == ("second", 2)
    assert [line[0::2] for line in told(answer.receipt)] == [("FAILED", "sandbox"), ("SUCCEEDED", "second")]
    assert (len(saw(sandbox, key)), len(saw(second, f"{key}-second"))) == (1, 1)
    assert (len(saw(second, key)), len(saw(sandbox, f"{key}-second"))) == (0, 0)
    prints = [attempt.key_fingerprint for attempt in answer.receipt.attempts]
    assert len(set(prints)) == 2
    assert all(len(each) == 16 for each in prints)


@pytest.mark.parametrize("model", KEPT)
async def test_what_is_wrong_with_the_request_goes_nowhere_else(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox, model: str
) -> None:
    """A request that a provider rejects, content that it refuses, and an answer that is none are not passed on."""
    error = await fail(caller, model, f"kept-{model}", fallbacks=[ELSEWHERE], max_attempts=3)
    assert len(error.receipt.attempts) == len(saw(sandbox, f"kept-{model}")) == 1
    assert not saw(second, f"kept-{model}-second")


@pytest.mark.parametrize("model", ["out-of-credit", "payment-required", "bad-key"])
async def test_a_key_that_is_no_good_is_never_tried_again(client: AsyncClient, sandbox: Sandbox, model: str) -> None:
    """However many tries a call allows, a key without credit or meaning is used once."""
    error = await fail(client, model, f"no-good-{model}", max_attempts=5)
    assert not error.retryable
    assert len(error.receipt.attempts) == len(saw(sandbox, f"no-good-{model}")) == 1


async def test_fallbacks_are_used_in_order_and_all_are_in_the_receipt(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox
) -> None:
    """Each target has its tries before the next one; the last failure is the call's, with all tries before it."""
    plan = [Target(provider="second", model="sandbox/payment-required"), Target(model="sandbox/overloaded")]
    error = await fail(caller, "unavailable", "order", fallbacks=plan, max_attempts=2)
    assert (error.reason, error.model) == ("PROVIDER_OVERLOADED", "sandbox/overloaded")
    assert told(error.receipt) == [
        ("FAILED", "PROVIDER_UNAVAILABLE", "sandbox", 500),
        ("FAILED", "PROVIDER_UNAVAILABLE", "sandbox", 500),
        ("FAILED", "INSUFFICIENT_CREDIT", "second", 402),
        ("FAILED", "PROVIDER_OVERLOADED", "sandbox", 503),
        ("FAILED", "PROVIDER_OVERLOADED", "sandbox", 503),
    ]
    assert [entry.status for entry in saw(sandbox, "order")] == [500, 500, 503, 503]
    assert [entry.status for entry in saw(second, "order-second")] == [402]


async def test_a_long_wait_is_not_waited_for_while_a_fallback_is_left(
    caller: AsyncClient, sandbox: Sandbox, second: Sandbox
) -> None:
    """A key that has to wait for five seconds costs no time, and the next call with it goes to the fallback directly."""
    begun = time.monotonic()
    limited = {"options": tuned(retry_after=5), "fallbacks": [ELSEWHERE], "max_attempts": 3}
    first = await ask(caller, "rate-limited", "impatient", **limited)
    then = await ask(caller, "rate-limited", "impatient", **limited)
    assert time.monotonic() - begun < 4.0
    assert [line[2] for line in told(first.receipt)] == ["sandbox", "second"]
    assert [line[2] for line in told(then.receipt)] == ["second"]
    assert (len(saw(sandbox, "impatient")), len(saw(second, "impatient-second"))) == (1, 2)


@pytest.mark.parametrize(
    ("model", "options", "limits", "reasons"),
    [
        ("rate-limited", tuned(retry_after=0.4), {}, {"PROVIDER_RATE_LIMITED"}),
        ("stall", {}, {"first_token_timeout": {"nanos": 400_000_000}}, {"FIRST_TOKEN_TIMEOUT", "TOTAL_TIMEOUT"}),
    ],
)
async def test_all_tries_together_stay_within_the_deadline(
    client: AsyncClient,
    sandbox: Sandbox,
    model: str,
    options: dict[str, Any],
    limits: dict[str, Any],
    reasons: set[str],
) -> None:
    """The last wait or try is the last that fits; what is left of the time is what the next try gets."""
    begun = time.monotonic()
    request = pb.GenerateRequest(limits={"total_timeout": {"seconds": 1}, **limits})
    error = await fail(client, model, f"within-{model}", options=options, request=request, max_attempts=10)
    assert time.monotonic() - begun < 1.5
    assert error.reason in reasons
    assert 2 <= len(error.receipt.attempts) == len(saw(sandbox, f"within-{model}")) <= 4


async def closed(sandbox: Sandbox, key: str, count: int) -> None:
    """Wait until the provider has seen so many sockets of a key closed by us, a second at most."""
    await sandbox.journal.wait_for(
        lambda _: sum(entry.state == "closed_by_client" for entry in saw(sandbox, key)) == count, seconds=1.0
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedge_answers_where_the_first_try_stalls(client: AsyncClient, sandbox: Sandbox, stream: bool) -> None:
    """Without an event in time a second try begins; it answers, and the first one's socket is closed."""
    key = f"hedged-{stream}"
    answer = await ask(client, "stall", key, stream=stream, options=tuned(times=1), hedge_after=0.2)
    assert (answer.text, answer.response.started.attempt) == ("one two", 2)
    assert told(answer.receipt) == [("CANCELLED", "", "sandbox", 0), ("SUCCEEDED", "", "sandbox", 200)]
    assert answer.receipt.attempts[1].queue_time.ToMilliseconds() >= 200
    await closed(sandbox, key, 1)
    assert [entry.state for entry in saw(sandbox, key)] == ["closed_by_client", "completed"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedge_that_is_slower_is_cancelled(client: AsyncClient, sandbox: Sandbox, stream: bool) -> None:
    """The first try wins if its first event comes first; exactly one answer reaches the caller."""
    key = f"slower-{stream}"
    answer = await ask(client, "echo", key, stream=stream, options=tuned(first_ms=600), hedge_after=0.2)
    assert (answer.text, answer.response.started.attempt) == ("one two", 1)
    assert told(answer.receipt) == [("SUCCEEDED", "", "sandbox", 200), ("CANCELLED", "", "sandbox", 0)]
    await closed(sandbox, key, 1)
    assert [entry.state for entry in saw(sandbox, key)] == ["completed", "closed_by_client"]


async def test_a_first_try_with_an_event_in_time_is_not_hedged(client: AsyncClient, sandbox: Sandbox) -> None:
    """An answer that has begun gets no rival, however long it takes; one that failed before is plainly tried again."""
    events = [
        event
        async for event in client.stream(
            model="sandbox/echo", credentials={"sandbox": "unhedged"}, messages="a b c d e f", hedge_after=0.6,
            options=tuned(interval_ms=150),
        )
    ]  # fmt: skip
    assert sum(isinstance(event, Started) for event in events) == 1
    assert len(saw(sandbox, "unhedged")) == 1
    again = await ask(client, "unavailable", "plain", options=tuned(times=1), hedge_after=5.0)
    assert [line[0] for line in told(again.receipt)] == ["FAILED", "SUCCEEDED"]


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_a_hedged_call_closes_both_sockets(
    client: AsyncClient, sandbox: Sandbox, stream: bool
) -> None:
    """Whoever leaves leaves no try behind."""
    key = f"left-{stream}"
    task = asyncio.ensure_future(ask(client, "stall", key, stream=stream, hedge_after=0.1))
    await sandbox.journal.wait_for(lambda _: len(saw(sandbox, key)) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await closed(sandbox, key, 2)


async def test_a_hedge_needs_a_second_attempt(client: AsyncClient, sandbox: Sandbox) -> None:
    """Hedging that the number of attempts forbids is a contradiction in the request."""
    error = await fail(client, "echo", "contradiction", max_attempts=1, hedge_after=1.0)
    assert (error.reason, error.field) == ("INVALID_REQUEST", "limits.hedge_after")
    assert not saw(sandbox, "contradiction")


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"max_attempts": 1, "hedge_after": {"seconds": 1}}, "limits.hedge_after"),
        ({"total_timeout": {"seconds": 100_000}}, "limits.total_timeout"),
    ],
)
async def test_what_cannot_be_called_cannot_be_explained(
    caller: AsyncClient, limits: dict[str, Any], field: str
) -> None:
    """An explanation refuses the limits that a call would refuse, in the same words."""
    request = pb.GenerateRequest(limits=limits)
    error = await fail(caller, "echo", "unexplained", request=request)
    with pytest.raises(KeyswitchError) as explained:
        await caller.explain(model="sandbox/echo", credentials={"sandbox": "k"}, messages="hi", request=request)
    assert (explained.value.field, explained.value.message) == (error.field, error.message) == (field, error.message)


@pytest.mark.parametrize(
    ("fallback", "reason", "field"),
    [
        (Target(provider="nobody"), "UNKNOWN_PROVIDER", "fallbacks[1].provider"),
        (Target(model="no-such-thing"), "UNROUTABLE_MODEL", "fallbacks[1].model"),
        (Target(provider="second", dialect="gemini"), "INVALID_REQUEST", "fallbacks[1].dialect"),
        (Target(provider="groq"), "MISSING_CREDENTIAL", "credentials"),
        (Target(provider="second", options_json='{"model":"x"}'), "INVALID_REQUEST", "fallbacks[1].options_json"),
    ],
)
async def test_a_fallback_that_cannot_be_said_fails_the_call_up_front(
    caller: AsyncClient, sandbox: Sandbox, fallback: Target, reason: str, field: str
) -> None:
    """A plan is refused as a whole before anything is sent, by the path and the words of the fallback at fault."""
    error = await fail(caller, "echo", "up-front", fallbacks=[ELSEWHERE, fallback])
    assert (error.reason, error.field, list(error.receipt.attempts)) == (reason, field, [])
    assert "fallbacks[1]" in error.message
    assert not saw(sandbox, "up-front")


async def test_a_plan_is_explained_in_its_order(caller: AsyncClient) -> None:
    """The routes of target and fallbacks come in order, each with what would be sent there."""
    response = await caller.explain(
        model="sandbox/echo", credentials={"sandbox": "k", "second": "l"}, messages="hi", fallbacks=[ELSEWHERE],
        include_body=True,
    )  # fmt: skip
    assert [route.provider for route in response.routes] == ["sandbox", "second"]
    assert all(json.loads(route.body_json)["model"] == "sandbox/echo" for route in response.routes)


async def test_embeddings_and_counts_are_tried_again_and_elsewhere(
    caller: AsyncClient, two_providers: ServerProcess, second: Sandbox
) -> None:
    """What is asked for makes no difference: each target has its tries, and the fallback its own key."""
    gone, elsewhere = Target(provider="gone", model="m"), Target(provider="second", model="sandbox/embed")
    keys = {"gone": "gone-key", "second": "other-key"}
    request = pb.EmbedRequest(target=gone, fallbacks=[elsewhere], inputs=["a b"], credentials=credential_messages(keys))
    async with grpc.aio.insecure_channel(two_providers.address) as channel:
        embedded = await DispatchServiceStub(channel).Embed(request, timeout=10)
    assert [line[0::2] for line in told(embedded.finished.receipt)] == [
        ("FAILED", "gone"), ("FAILED", "gone"), ("SUCCEEDED", "second"),
    ]  # fmt: skip
    assert (embedded.started.provider, embedded.started.attempt) == ("second", 3)
    count = await caller.count_tokens(
        provider="gone", model="m", messages="a b c", credentials=keys, fallbacks=[elsewhere]
    )
    assert count == 3
    assert len(saw(second, "other-key")) == 2
    assert not saw(second, "gone-key")
    lines = [json.loads(line) for line in two_providers.log.read_text().splitlines()]
    (counted,) = [line for line in lines if line.get("method") == "CountTokens"]
    assert (counted["attempts"], counted["provider"]) == (3, "second")


async def test_the_log_line_counts_the_attempts(caller: AsyncClient, two_providers: ServerProcess) -> None:
    """A call's line says how often it was tried, and who answered."""
    await ask(caller, "unavailable", "logged", fallbacks=[ELSEWHERE], max_attempts=2)
    lines = [json.loads(line) for line in two_providers.log.read_text().splitlines()]
    last = [line for line in lines if line["event"] == "call"][-1]
    assert (last["code"], last["attempts"], last["provider"]) == ("OK", 3, "second")
