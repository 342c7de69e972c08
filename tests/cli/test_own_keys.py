"""What people do who bring a key of their own and little else."""

from __future__ import annotations

import importlib.resources
import json
import pathlib
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from cli.running import run
from support import EGRESS, ServerProcess, http_provider, server_process

SEEN: list[tuple[str, str, str]] = []
"""Path, key and model of each request that a provider got."""


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer as chat completions and as Messages do, in a stream."""
    body = await request.json()
    SEEN.append((request.path, request.headers.get("authorization", ""), body["model"]))
    if request.path.endswith("/messages"):
        events = [
            {"type": "message_start", "message": {"id": "m", "model": body["model"], "usage": {"input_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ]
        text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    else:
        chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    return web.Response(text=text, content_type="text/event-stream")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server whose OpenRouter and MiniMax are on this machine, by the operator's own provider files."""
    folder = tmp_path_factory.mktemp("providers")
    built_in = pathlib.Path(str(importlib.resources.files("keyswitch_engine") / "providers"))
    async with http_provider(answer) as url:
        for name in ("openrouter", "minimax"):
            text = (built_in / f"{name}.toml").read_text()
            (folder / f"{name}.toml").write_text(re.sub(r'base_url = "https://[^/"]+', f'base_url = "{url}', text))
        env = {**EGRESS, "KEYSWITCH_PROVIDERS": json.dumps([str(folder)])}
        async with server_process(folder, env) as running:
            yield running


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (("--api-key", "openrouter=callers-key"), "openrouter/auto"),
        (("--api-key", "OpenRouter=callers-key"), "openrouter/auto"),
        (("--api-key", "openrouter=callers-key", "-m", "openrouter/auto"), "openrouter/auto"),
        (("--api-key", "openrouter=callers-key", "-m", "anthropic/claude-sonnet-4.5"), "anthropic/claude-sonnet-4.5"),
        (("--api-key", "openrouter=callers-key", "-m", "qwen/qwen3-coder:free"), "qwen/qwen3-coder:free"),
        (("--api-key", "openrouter=callers-key", "-m", "@preset/mine"), "@preset/mine"),
        (("--api-key", "minimax=callers-key"), "MiniMax-M3"),
        (("--api-key", "minimax=callers-key", "-m", "minimax/MiniMax-M2.7"), "MiniMax-M2.7"),
    ],
)
async def test_a_key_alone_is_enough(server: ServerProcess, arguments: tuple[str, ...], model: str) -> None:
    """One key decides the provider and its default model; an id that is given goes through as it is."""
    before = len(SEEN)
    status, out, err = await run("generate", "hi", *arguments, server=server)
    assert (status, out) == (0, "yes\n"), err
    (request,) = SEEN[before:]
    assert request[1:] == ("Bearer callers-key", model)


@pytest.mark.parametrize("model", [(), ("-m", "openrouter/auto"), ("-p", "openrouter")])
async def test_an_unknown_provider_is_refused_whatever_else_is_given(
    server: ServerProcess, model: tuple[str, ...]
) -> None:
    """A key for a provider that nobody knows is an error with or without a model; the key is not shown."""
    before = len(SEEN)
    status, _, err = await run("generate", "hi", "--api-key", "opnrouter=callers-key", *model, server=server)
    assert status == 64 + 3
    assert "UNKNOWN_PROVIDER" in err
    assert "did you mean 'openrouter'" in err
    assert "callers-key" not in err
    assert SEEN[before:] == []


@pytest.mark.parametrize(
    "argument", ["pasted-secret", "=pasted-secret", "pasted-secret=", "a b=pasted-secret", "=", ""]
)
async def test_a_malformed_argument_is_never_shown(server: ServerProcess, argument: str) -> None:
    """An argument that is no provider=key may be a bare key; the complaint names its place alone."""
    status, out, err = await run("generate", "hi", "--api-key", argument, server=server)
    assert status == 2
    assert "--api-key (number 1)" in err
    assert "pasted-secret" not in out + err
