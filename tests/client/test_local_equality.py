"""A call that is made in process is the one that the server makes, field by field."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from client.outcomes import outcome
from client.own_rows import NOBODY, rows_at
from keyswitch_client import AsyncClient, Endpoint, LocalOptions
from keyswitch_sandbox import Sandbox
from support import ServerProcess

DIALECTS = (
    "openai-chat", "openai-responses", "anthropic-messages", "gemini", "vertex-rawpredict", "bedrock-converse",
    "bedrock-invoke", "cohere-v2", "ollama",
)  # fmt: skip
SCENARIOS = (
    "echo", "tools", "reasoning", "signed", "json", "length", "content-filter", "refusal", "empty", "bad-key",
    "not-permitted", "out-of-credit", "payment-required", "rate-limited", "model-not-found", "bad-request",
    "context-overflow", "content-refused", "overloaded", "unavailable", "error-in-200", "html", "bad-json", "truncated",
    "error-mid-stream", "no-such-scenario",
)  # fmt: skip


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_call_made_here_is_the_one_that_the_server_makes(
    sandbox: Sandbox, server: ServerProcess, tmp_path: pathlib.Path, dialect: str, streamed: bool
) -> None:
    """Events, answers, failures, details and receipts are equal field by field, apart from times and ids."""
    moved = LocalOptions(mode="always", providers=rows_at(tmp_path, sandbox.url, "sandbox").providers)
    failed = 0
    async with AsyncClient(server.address, local="never") as there, AsyncClient(NOBODY, local=moved) as here:
        for scenario in SCENARIOS:
            asked: dict[str, Any] = {
                "model": f"sandbox/{scenario}", "dialect": dialect, "messages": "hi there", "max_attempts": 1,
                "max_output_tokens": 64,
            }  # fmt: skip
            keys = {"sandbox": f"k-{dialect}-{streamed}-{scenario}"}
            served = await outcome(there, streamed=streamed, credentials=keys, **asked)
            keys = {"sandbox": f"l-{dialect}-{streamed}-{scenario}"}
            local = await outcome(here, streamed=streamed, credentials=keys, **asked)
            assert local == served, scenario
            failed += local[1] is not None
    assert failed >= len(SCENARIOS) // 2


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages"])
async def test_endpoints_fail_here_as_they_fail_there(sandbox: Sandbox, server: ServerProcess, dialect: str) -> None:
    """A custom endpoint's failures name its label, in the same words and details by either way."""
    async with AsyncClient(server.address, local="never") as there, AsyncClient(NOBODY, local="auto") as here:
        for scenario in SCENARIOS:
            endpoint = Endpoint(sandbox.url, f"sandbox/{scenario}", f"e-{scenario}", dialect, "Desk")
            asked: dict[str, Any] = {"endpoint": endpoint, "messages": "hi", "max_attempts": 1}
            served, local = [await outcome(each, streamed=True, **asked) for each in (there, here)]
            assert local == served, scenario
            if scenario == "bad-key":
                assert local[1][1] == "INVALID_CREDENTIAL: Invalid API key for Desk"


async def test_requests_that_are_wrong_are_refused_alike(server: ServerProcess) -> None:
    """A request that no provider ever sees fails with the server's own violations."""
    async with AsyncClient(server.address, local="never") as there, AsyncClient(NOBODY, local="auto") as here:
        for wrong in (
            {"endpoint": Endpoint("http://127.0.0.1/v1?key=1", "m")},
            {"endpoint": Endpoint("http://u:p@127.0.0.1/v1", "m")},
            {"endpoint": Endpoint("http://127.0.0.1:8000", "")},
            {"endpoint": Endpoint("http://127.0.0.1:8000", "m", dialect="gemini")},
            {"endpoint": Endpoint("http://127.0.0.1:8000", "m", "a b")},
            {"endpoint": Endpoint("http://127.0.0.1:8000", "m"), "provider": "openai"},
            {"endpoint": Endpoint("http://127.0.0.1:8000", "m"), "options": "[]"},
        ):
            served, local = [await outcome(each, streamed=True, messages="hi", **wrong) for each in (there, here)]
            assert local == served
            assert local[1] is not None
