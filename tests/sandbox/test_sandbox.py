from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from keyswitch_sandbox import Recordings, Sandbox
from keyswitch_sandbox.journal import Tally
from keyswitch_sandbox.scenarios import SCENARIOS

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}}


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sandbox.url, headers={"authorization": "Bearer test-key"}) as session:
        yield session


def body(
    model: str, *, stream: bool = True, text: str = "one two three four five six", **fields: Any
) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": f"sandbox/{model}", "stream": stream, "messages": [message], **fields}


async def post(session: aiohttp.ClientSession, request: dict[str, Any]) -> tuple[int, bytes]:
    async with session.post("/v1/chat/completions", json=request, allow_redirects=False) as response:
        return response.status, await response.read()


def deltas(stream: bytes) -> list[dict[str, Any]]:
    """Return the delta of every chunk that has one."""
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b'data: {"')]
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk.get("choices")]


async def test_echo_says_the_text_back_exactly(http: aiohttp.ClientSession) -> None:
    """Word by word, white space and all, then a finish reason, usage where asked for, and the marker."""
    text = "  a\n\nb  ü "
    request = body("echo", text=text, stream_options={"include_usage": True})
    status, stream = await post(http, request)
    assert (status, "".join(delta.get("content", "") for delta in deltas(stream))) == (200, text)
    assert stream.endswith(b"data: [DONE]\n\n")
    usage = json.loads(stream.splitlines()[-4][6:])["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (3, 3 + usage["completion_tokens"])
    _, whole = await post(http, body("echo", stream=False, text=text))
    assert json.loads(whole)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"properties": {"a": True, "b": False}}, {"a": "text", "b": "text"}),
        ({"type": "array", "items": True}, ["text"]),
    ],
)
async def test_a_schema_may_be_a_boolean(http: aiohttp.ClientSession, schema: dict[str, Any], value: object) -> None:
    """Where a schema inside a schema is a boolean, any value stands."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    status, whole = await post(http, body("tools", stream=False, tools=[tool]))
    (call,) = json.loads(whole)["choices"][0]["message"]["tool_calls"]
    assert (status, json.loads(call["function"]["arguments"])) == (200, value)


@pytest.mark.parametrize("stream", [False, True])
async def test_ids_of_calls_differ_in_a_conversation(http: aiohttp.ClientSession, stream: bool) -> None:
    """Calls of a later answer have other ids than those whose results the conversation has."""
    request = body("tools", stream=stream, tools=[TOOL, TOOL])
    results = [{"role": "tool", "tool_call_id": f"call_sandbox_{number}", "content": "42"} for number in range(2)]
    request["messages"] += [*results, {"role": "user", "content": "again"}]
    _, answer = await post(http, request)
    assert [f"call_sandbox_{number}".encode() in answer for number in range(5)] == [False, False, True, True, False]


async def test_tools_are_called_and_their_results_answered(http: aiohttp.ClientSession) -> None:
    """Each given tool is called with arguments that fit its schema, in fragments; then the result is quoted."""
    _, stream = await post(http, body("tools", tools=[TOOL, TOOL]))
    calls = [call for delta in deltas(stream) for call in delta.get("tool_calls", [])]
    assert {call["index"] for call in calls} == {0, 1}
    assert json.loads("".join(call["function"]["arguments"] for call in calls if call["index"] == 1)) == {"n": 1}
    _, whole = await post(http, body("tools", stream=False, tools=[TOOL]))
    answer = json.loads(whole)["choices"][0]
    assert (answer["finish_reason"], answer["message"]["tool_calls"][0]["function"]["name"]) == ("tool_calls", "f")
    request = body("tools", stream=False, tools=[TOOL])
    request["messages"].append({"role": "tool", "tool_call_id": "x", "content": "42"})
    _, whole = await post(http, request)
    assert json.loads(whole)["choices"][0]["message"]["content"] == "The tool said: 42"


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("bad-key", 401), ("not-permitted", 403), ("out-of-credit", 429), ("payment-required", 402),
        ("rate-limited", 429), ("model-not-found", 404), ("bad-request", 400), ("context-overflow", 400),
        ("content-refused", 400), ("overloaded", 503), ("unavailable", 500), ("error-in-200", 200), ("no-such", 404),
        ("html", 200), ("redirect", 302),
    ],
)  # fmt: skip
async def test_failures_have_their_status(http: aiohttp.ClientSession, model: str, status: int) -> None:
    """Failures before the answer come with the provider's status, streamed or not."""
    for stream in (True, False):
        assert (await post(http, body(model, stream=stream)))[0] == status


async def test_a_model_goes_wrong_as_often_as_it_is_told(http: aiohttp.ClientSession) -> None:
    """After so many failures of a key it echoes; other keys have theirs still before them."""
    tuning = {"times": 2, "retry_after": 0.5}
    for key in ("often-1", "often-2"):
        header = {"authorization": f"Bearer {key}"}
        for status in (429, 429, 200, 200):
            request = body("rate-limited", stream=False, sandbox=tuning)
            async with http.post("/v1/chat/completions", json=request, headers=header) as answer:
                assert answer.status == status
                assert answer.headers.get("retry-after") == ("0.5" if status == 429 else None)


async def test_a_missing_key_is_refused_everywhere(sandbox: Sandbox) -> None:
    """No scenario answers without a key."""
    async with aiohttp.ClientSession(sandbox.url) as session:
        for name in SCENARIOS:
            assert (await post(session, body(name)))[0] == 401


async def test_streams_go_wrong_as_they_are_told(http: aiohttp.ClientSession) -> None:
    """Truncated, failing and broken streams stop after the pieces they were tuned to."""
    for name, last in (("truncated", b" two"), ("error-mid-stream", b"server_error"), ("bad-json", b"{not json")):
        status, stream = await post(http, body(name, sandbox={"after": 2}))
        assert status == 200
        assert "".join(delta.get("content", "") for delta in deltas(stream)) == "one two"
        assert last in stream
        assert b"[DONE]" not in stream
    for stream in (True, False):
        with pytest.raises(aiohttp.ClientError):
            await post(http, body("reset", stream=stream))


async def test_a_drip_is_the_same_answer(http: aiohttp.ClientSession) -> None:
    """Byte by byte, but complete."""
    _, stream = await post(http, body("drip", text="a b"))
    assert "".join(delta.get("content", "") for delta in deltas(stream)) == "a b"


async def test_tuning_is_checked(http: aiohttp.ClientSession) -> None:
    """Known knobs work, unknown ones are refused."""
    _, stream = await post(http, body("echo", sandbox={"tokens": 3}))
    assert "".join(delta.get("content", "") for delta in deltas(stream)) == " tok0 tok1 tok2"
    assert (await post(http, body("echo", sandbox={"tokns": 3})))[0] == 400


async def test_the_journal_knows_who_went_away(sandbox: Sandbox, http: aiohttp.ClientSession) -> None:
    """An answer that is left in the middle is closed_by_client, a whole one completed; the key itself is not kept."""
    number = max((entry.number for entry in sandbox.journal), default=0)
    async with http.post("/v1/chat/completions", json=body("stall-mid-stream")) as response:
        await response.content.readany()
    await sandbox.journal.wait_for(
        lambda journal: [entry.state for entry in journal if entry.number > number] == ["closed_by_client"], 5
    )
    await post(http, body("echo"))
    last = list(sandbox.journal)[-1]
    assert (last.state, last.status, last.model) == ("completed", 200, "sandbox/echo")
    assert "test-key" not in repr(last)
    async with http.get("/_sandbox/journal") as response:
        assert (await response.json())[-1]["key_sha256"] == last.key_sha256


def recording(folder: pathlib.Path, body: bytes, **response: Any) -> None:
    entry = {"id": "a/b.c", "meta_file": "a.json", "body_file": "a.body", "provider": "x"}
    (folder / "index.json").write_text(json.dumps([entry]))
    (folder / "a.json").write_text(json.dumps({"request": {}, "response": {"status": 200, "headers": {}} | response}))
    (folder / "a.body").write_bytes(body)


@pytest.mark.parametrize("chunk_bytes", ["", "1", "7", "random:3"])
async def test_a_recording_is_served_byte_for_byte(tmp_path: pathlib.Path, chunk_bytes: str) -> None:
    """Status, headers and bytes are those recorded, without what described the transport, in any chunking."""
    body_bytes = b"data: \xf0\x9f\x91\x8b\r\n\r\n" * 20
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip", "Content-Length": "7", "x-a": "b"}
    recording(tmp_path, body_bytes, status=418, headers=headers, chunk_sizes=[5, 9])
    async with Sandbox(recordings=Recordings(tmp_path, chunk_bytes)) as own, aiohttp.ClientSession(own.url) as session:
        request = {"model": "replay/a/b.c", "messages": []}
        async with session.post("/any/path", json=request) as response:
            assert (response.status, response.headers["x-a"]) == (418, "b")
            assert "content-encoding" not in response.headers
            assert await response.read() == body_bytes
        async with session.post("/any/path", json={"model": "replay/none", "messages": []}) as response:
            assert response.status == 404
        pieces = next(iter(own.journal)).pieces_sent
    assert pieces == {"": 3, "1": len(body_bytes), "7": -(-len(body_bytes) // 7)}.get(chunk_bytes, pieces)


@pytest.mark.parametrize("chunk_bytes", ["0", "x", "random:", "3:4"])
def test_bad_chunking_is_refused(tmp_path: pathlib.Path, chunk_bytes: str) -> None:
    """Chunk sizes are positive numbers or random:SEED; a folder needs an index."""
    recording(tmp_path, b"")
    with pytest.raises(ValueError, match="chunk bytes"):
        Recordings(tmp_path, chunk_bytes)
    with pytest.raises(ValueError, match=r"index\.json"):
        Recordings(tmp_path / "none")


async def test_a_port_in_use_fails_loudly(sandbox: Sandbox) -> None:
    """Two sandboxes cannot share a port."""
    with pytest.raises(OSError, match="in use"):
        async with asyncio.timeout(5), Sandbox(port=int(sandbox.listening.rpartition(":")[2])):
            pass


def test_what_is_counted_by_key_is_bounded() -> None:
    """However many keys come, the last 10,000 are remembered, and one that asks again counts as new to the end."""
    tally = Tally()
    assert [tally.count("model", key) for key in ("first", "other", "first")] == [1, 1, 2]
    for number in range(9_999):
        tally.count("model", str(number))
    assert len(tally) == 10_000
    assert (tally.count("model", "first"), tally.count("model", "other")) == (3, 1)
