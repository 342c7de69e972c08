"""What tests of attempts ask, and what they see of it at the providers."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from keyswitch.v1 import usage_pb2
from keyswitch.v1.target_pb2 import Target
from keyswitch_client import Answer, AsyncClient, KeyswitchError
from keyswitch_client.enums import value_name
from keyswitch_sandbox import Sandbox
from keyswitch_sandbox.journal import Entry

__all__ = ["ELSEWHERE", "ROW", "ask", "fail", "saw", "told", "tuned"]

ROW = """
schema = 1
id = "{id}"
name = "{id}"
base_url = "{url}"
vendor_token = "{id}"
default_model = "{id}/echo"
models = ["{id}/echo"]
[[dialects]]
name = "openai-chat"
path = "/v1/chat/completions"
[embeddings]
name = "openai"
path = "/v1/embeddings"
[token_counting]
name = "anthropic-messages"
path = "/v1/messages/count_tokens"
"""
ELSEWHERE = Target(provider="second", model="sandbox/echo")


def saw(sandbox: Sandbox, key: str) -> list[Entry]:
    """Return what a provider was sent with a key, in order."""
    digest = hashlib.sha256(f"Bearer {key}".encode()).hexdigest()
    return [entry for entry in sandbox.journal if entry.key_sha256 == digest]


def tuned(**tuning: float) -> dict[str, Any]:
    return {"sandbox": tuning}


async def ask(client: AsyncClient, model: str, key: str, *, stream: bool = False, **arguments: Any) -> Answer:
    """Ask the sandbox with a key of the test's own, since a rate limit makes a key wait."""
    credentials = {"sandbox": key, "second": f"{key}-second"}
    call: dict[str, Any] = {"model": f"sandbox/{model}", "credentials": credentials, "messages": "one two", **arguments}
    if "fallbacks" not in call:
        del credentials["second"]
    return await client.stream(**call).final() if stream else await client.generate(**call)


async def fail(client: AsyncClient, model: str, key: str, **arguments: Any) -> KeyswitchError:
    with pytest.raises(KeyswitchError) as raised:
        await ask(client, model, key, **arguments)
    return raised.value


def told(receipt: usage_pb2.Receipt) -> list[tuple[str, str, str, int]]:
    """Return outcome, reason, provider and status of each attempt, whose numbers count from 1."""
    assert [attempt.number for attempt in receipt.attempts] == list(range(1, len(receipt.attempts) + 1))
    return [
        (
            value_name(usage_pb2.AttemptOutcome, attempt.outcome, "ATTEMPT_OUTCOME_"),
            attempt.failure_reason,
            attempt.provider,
            attempt.upstream_status,
        )
        for attempt in receipt.attempts
    ]
