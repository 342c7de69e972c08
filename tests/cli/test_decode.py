from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

CHUNK = '{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'
FINISH = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
STREAM = f"data: {CHUNK}\r\n\r\ndata: {FINISH}\r\n\r\ndata: [DONE]\r\n\r\n"
WHOLE = (
    '{"choices":[{"index":0,"message":{"content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{oops"}}]},'
    '"finish_reason":"tool_calls"}]}'
)
FIELDS = ["outcome", "text", "reasoning", "tool_calls", "finish", "finish_raw", "usage", "error", "events"]


def decode(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "keyswitch_cli", "decode", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout, result.stderr


def write(folder: pathlib.Path, text: str, name: str = "body") -> str:
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


@pytest.mark.parametrize("cut", [[], ["--chunk-bytes", "1"], ["--chunk-bytes", "random:5"]])
def test_a_stream_is_one_object(tmp_path: pathlib.Path, cut: list[str]) -> None:
    """Every field is there, and cuts do not matter."""
    code, out, _ = decode("--provider", "groq", *cut, write(tmp_path, STREAM))
    result = json.loads(out)
    assert code == 0
    assert set(FIELDS) <= set(result)
    assert (result["outcome"], result["text"], result["finish"], result["finish_raw"]) == ("ok", "hi", "stop", "stop")
    assert result["usage"] == {"input": 1, "output": 2, "reasoning": None, "cached": None}
    assert (result["error"], result["events"]) == (None, 3)


def test_arguments_that_are_no_json_stay_as_they_are(tmp_path: pathlib.Path) -> None:
    """A whole answer is recognised, and broken arguments are kept raw."""
    _, out, _ = decode(write(tmp_path, WHOLE))
    assert json.loads(out)["tool_calls"] == [{"name": "f", "arguments": {"_raw": "{oops"}}]


@pytest.mark.parametrize(
    ("body", "arguments", "outcome", "error"),
    [
        (STREAM[:60] + "\r\n\r\n", [], "error", "upstream"),
        (f"data: {CHUNK}\n\n", [], "truncated", None),
        ('{"error":{"message":"bad key","code":"invalid_api_key"}}', ["--status", "401"], "error", "auth"),
        ('{"error":"You used all available credits"}', ["--status", "429", "--provider", "xai"], "error", "billing"),
        ("", ["--status", "413", "--provider", "cerebras"], "error", "context_overflow"),
        ("<html>", ["--status", "502"], "error", "upstream"),
        ('{"detail":[{"loc":["body"],"msg":"missing"}]}', ["--status", "422"], "error", "invalid_request"),
    ],
)
def test_every_outcome_exits_zero(
    tmp_path: pathlib.Path, body: str, arguments: list[str], outcome: str, error: str | None
) -> None:
    """What the answer was is in the object, not in the exit status."""
    code, out, _ = decode(*arguments, write(tmp_path, body))
    result = json.loads(out)
    assert (code, result["outcome"]) == (0, outcome)
    assert (result["error"] or {}).get("class") == error


def test_headers_decide_what_a_web_page_is(tmp_path: pathlib.Path) -> None:
    """An answer that says it is HTML is a protocol error."""
    headers = write(tmp_path, '{"Content-Type": "text/html; charset=utf-8"}', "headers")
    _, out, _ = decode("--headers", headers, write(tmp_path, "<html>"))
    assert json.loads(out)["error"]["reason"] == "PROVIDER_PROTOCOL_ERROR"


def test_a_batch_is_one_result_a_line(tmp_path: pathlib.Path) -> None:
    """Relative bodies, unknown fields, unknown providers and encodings that are undone already are all fine."""
    write(tmp_path, STREAM, "a.body")
    rows: list[dict[str, Any]] = [
        {"chunk_bytes": "3"},
        {"chunk_sizes": [5, 60], "provider": "nobody-knows", "extra": {"x": 1}},
        {"headers": {"content-encoding": "gzip", "set-cookie": ["a", "b"]}},
    ]
    base = {"provider": "openai", "protocol": "openai-chat", "stream": True, "status": 200, "headers": {}}
    lines = [json.dumps(base | {"id": str(number), "body_file": "a.body"} | row) for number, row in enumerate(rows)]
    code, out, err = decode("--batch", write(tmp_path, "\n".join(lines), "batch.jsonl"))
    results = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    assert [(result["id"], result["text"], result["outcome"]) for result in results] == [
        (str(number), "hi", "ok") for number in range(3)
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "line 2"),
        ('{"id":"x","protocol":"morse","status":200,"body_file":"a.body"}', "morse"),
        ('{"id":"x","protocol":"openai-chat","status":200,"body_file":"none"}', "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: pathlib.Path, line: str, words: str) -> None:
    """A line that cannot be decoded at all exits 2 with its number."""
    write(tmp_path, STREAM, "a.body")
    good = '{"id":"ok","protocol":"openai-chat","status":200,"stream":true,"body_file":"a.body"}'
    code, _, err = decode("--batch", write(tmp_path, f"{good}\n{line}\n", "batch.jsonl"))
    assert code == 2
    assert words in err


@pytest.mark.parametrize("value", ["0", "-1", "x", "random", "random:", "3:4"])
def test_a_bad_chunk_size_is_refused(tmp_path: pathlib.Path, value: str) -> None:
    """Chunk sizes are positive numbers or random:SEED."""
    assert decode("--chunk-bytes", value, write(tmp_path, STREAM))[0] == 2
