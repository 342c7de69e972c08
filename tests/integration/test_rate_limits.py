from __future__ import annotations

import asyncio
import itertools
import json
import pathlib
import time

import pytest
from attempting import ROW, ask, fail, saw, tuned
from keyswitch.v1.target_pb2 import Target
from keyswitch_client import AsyncClient, KeyswitchError
from keyswitch_sandbox import Sandbox
from support import EGRESS, server_process


async def test_an_exhausted_key_asks_its_provider_once_for_many_calls(client: AsyncClient, sandbox: Sandbox) -> None:
    """While a key has to wait, calls that cannot wait as long fail without a try; another key goes through at once."""
    exhausted = {"options": tuned(retry_after=30), "timeout": 20.0}
    begun = time.monotonic()
    first = await fail(client, "rate-limited", "exhausted", **exhausted)
    assert (first.reason, first.retry_after, len(first.receipt.attempts)) == ("PROVIDER_RATE_LIMITED", 30.0, 1)
    stormed = asyncio.gather(*(fail(client, "rate-limited", "exhausted", **exhausted) for _ in range(50)))
    free = await ask(client, "rate-limited", "free", options=tuned(times=1, retry_after=0.05))
    errors = await stormed
    assert time.monotonic() - begun < 10.0
    assert free.text == "one two"
    for error in errors:
        assert (error.reason, error.retryable, list(error.receipt.attempts)) == ("PROVIDER_RATE_LIMITED", True, [])
        assert error.retry_after is not None
        assert 25 < error.retry_after <= 30
    assert len(saw(sandbox, "exhausted")) == 1


async def test_calls_that_wait_for_a_key_send_one_probe_at_a_time(client: AsyncClient, sandbox: Sandbox) -> None:
    """However far away the provider is, it sees one of 40 calls a cool-down; 16 wait, and the others fail at once."""
    exhausted = {"options": tuned(retry_after=0.7, first_ms=300), "timeout": 4.0}
    await fail(client, "rate-limited", "storm", max_attempts=1, **exhausted)
    took: list[float] = []

    async def fails() -> KeyswitchError:
        begun = time.monotonic()
        error = await fail(client, "rate-limited", "storm", max_attempts=5, **exhausted)
        took.append(time.monotonic() - begun)
        return error

    errors = await asyncio.gather(*(fails() for _ in range(40)))
    assert sorted(took)[40 - 16 - 1] < 0.6 < sorted(took)[40 - 16]
    entries = saw(sandbox, "storm")
    reasons = [error.reason for error in errors]
    assert set(reasons) <= {"PROVIDER_RATE_LIMITED", "TOTAL_TIMEOUT"}
    assert reasons.count("TOTAL_TIMEOUT") <= 1  # a last probe that its time ended
    assert 1 + sum(len(error.receipt.attempts) for error in errors) == len(entries)
    assert 3 <= len(entries) <= 5  # a second each: the wait, and the way to the provider
    assert all(after.at - before.at >= 1.0 for before, after in itertools.pairwise(entries))


async def test_all_go_once_a_probe_is_answered(client: AsyncClient, sandbox: Sandbox) -> None:
    """The calls that wait for a key go together as soon as the first of them has its answer, and not before."""
    limited = {"options": tuned(times=1, retry_after=0.3, first_ms=300)}
    await fail(client, "rate-limited", "opens", max_attempts=1, **limited)
    answers = await asyncio.gather(*(ask(client, "rate-limited", "opens", **limited) for _ in range(16)))
    assert [len(answer.receipt.attempts) for answer in answers] == [1] * 16
    refused, probe, *others = saw(sandbox, "opens")
    assert (refused.status, len(others)) == (429, 15)
    assert all(0.3 <= other.at - probe.at < 1.5 for other in others)


@pytest.mark.parametrize(
    ("model", "reason"), [("rate-limited", "PROVIDER_RATE_LIMITED"), ("unavailable", "PROVIDER_UNAVAILABLE")]
)
async def test_whoever_waits_leaves_room_for_others(
    tmp_path: pathlib.Path, sandbox: Sandbox, model: str, reason: str
) -> None:
    """Calls that wait take half of the server's places at most, whatever for; further ones fail, others go on."""
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_MAX_CALLS": "10"}
    async with (
        server_process(tmp_path, env) as server,
        AsyncClient(server.address, timeout=30.0) as client,
        asyncio.timeout(10),
    ):
        limited = {"options": tuned(retry_after=20)}
        await fail(client, model, "crowd", max_attempts=1, **limited)
        calls = {asyncio.ensure_future(fail(client, model, "crowd", **limited)) for _ in range(10)}
        ended: set[asyncio.Future[object]] = set()
        while len(ended) < 5:
            done, _ = await asyncio.wait(calls - ended, return_when=asyncio.FIRST_COMPLETED)
            ended |= done
        assert (await ask(client, "echo", "alone")).text == "one two"
        assert len([call for call in calls if not call.done()]) == 5
        for call in calls - ended:
            call.cancel()
        await asyncio.gather(*calls - ended, return_exceptions=True)
        assert {call.result().reason for call in calls & ended} == {reason}


async def test_a_server_for_one_call_lets_it_wait(tmp_path: pathlib.Path, sandbox: Sandbox) -> None:
    """Half of one place is a place."""
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_MAX_CALLS": "1"}
    async with server_process(tmp_path, env) as server, AsyncClient(server.address, timeout=30.0) as client:
        answer = await ask(client, "rate-limited", "only", options=tuned(times=1, retry_after=0.1))
    assert len(answer.receipt.attempts) == 2


async def test_the_log_blames_whoever_failed_without_a_try(tmp_path: pathlib.Path, sandbox: Sandbox) -> None:
    """Where the last fallback's key has to wait, the call's line names that fallback and not where the last try went."""
    (tmp_path / "second.toml").write_text(ROW.format(id="second", url=sandbox.url))
    env = {**EGRESS, "KEYSWITCH_SANDBOX_URL": sandbox.url, "KEYSWITCH_PROVIDERS": json.dumps([str(tmp_path)])}
    fallback = Target(provider="second", model="sandbox/rate-limited", options_json=json.dumps(tuned(retry_after=40)))
    async with server_process(tmp_path, env) as server, AsyncClient(server.address, timeout=30.0) as client:
        for tries in (2, 1):
            error = await fail(client, "unavailable", "blamed", fallbacks=[fallback], max_attempts=1)
            assert (error.provider, len(error.receipt.attempts)) == ("second", tries)
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    last = [line for line in lines if line["event"] == "call"][-1]
    assert (last["provider"], last["model"], last["attempts"]) == ("second", "sandbox/rate-limited", 1)
