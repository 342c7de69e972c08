"""The sandbox's Ollama chat (github.com/ollama/ollama/blob/main/docs/api.md), newline-delimited JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects.base import Request, conversation_of, joined, output_count, whole_calls
from keyswitch_sandbox.scenarios import Failure, Reasoning, Refusal, Script, Text, Tool, Tuning

__all__ = [
    "PATH",
    "SIGNS",
    "bad_event",
    "error_body",
    "error_event",
    "read",
    "stream_events",
    "stream_type",
    "whole_body",
]

PATH = re.compile(r"/api/chat$")
SIGNS = False
_STOPS = {"stop": "stop", "length": "length", "tool_calls": "stop", "content_filter": "stop"}


class _Function(msgspec.Struct):
    name: str = ""
    parameters: dict[str, Any] = {}


class _Tool(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    role: str
    content: str = ""


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool = True
    tools: list[_Tool] = []
    format: Any = None
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    texts = [(turn.role, turn.content) for turn in request.messages]
    tools = [Tool(tool.function.name, tool.function.parameters) for tool in request.tools]
    schema = request.format if isinstance(request.format, dict) else None
    return Request(request.model, request.stream, conversation_of(body, texts, tools, schema), request.sandbox)


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "application/x-ndjson"


def _line(request: Request, message: dict[str, Any], **fields: Any) -> bytes:
    said = {"role": "assistant", "content": ""} | message
    return msgspec.json.encode({"model": request.model, "message": said, "done": False} | fields) + b"\n"


def _calls(script: Script) -> list[dict[str, Any]]:
    return [
        {"function": {"name": name, "arguments": msgspec.Raw(arguments.encode() or b"{}")}}
        for _, name, arguments in whole_calls(script.said)
    ]


def _end(request: Request, script: Script) -> dict[str, Any]:
    counts = {"prompt_eval_count": request.conversation.input_tokens, "eval_count": output_count(script.said)}
    return {"done": True, "done_reason": _STOPS[script.stop]} | counts


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the lines of a stream; calls are whole, and have no ids."""
    yield _line(request, {})
    for piece in script.said:
        match piece:
            case Reasoning(text=text):
                yield _line(request, {"thinking": text})
            case Text(text=text) | Refusal(text=text):
                yield _line(request, {"content": text})
            case _:
                pass
    if calls := _calls(script):
        yield _line(request, {"tool_calls": calls})
    yield _line(request, {}, **_end(request, script))


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer; see `Dialect.whole_body`."""
    message: dict[str, Any] = {"content": joined(script.said, Text) + joined(script.said, Refusal)}
    if thinking := joined(script.said, Reasoning):
        message["thinking"] = thinking
    if calls := _calls(script):
        message["tool_calls"] = calls
    return _line(request, message, **_end(request, script))


_ERRORS: dict[Failure, tuple[int, str]] = {
    Failure.BAD_KEY: (401, "unauthorized: {key}"),
    Failure.NOT_PERMITTED: (403, "the key {key} may not use this model"),
    Failure.OUT_OF_CREDIT: (402, "insufficient balance"),
    Failure.PAYMENT_REQUIRED: (402, "payment is required"),
    Failure.RATE_LIMITED: (429, "too many requests"),
    Failure.MODEL_NOT_FOUND: (404, 'model "none" not found, try pulling it first'),
    Failure.BAD_REQUEST: (400, "invalid options: a field is wrong"),
    Failure.CONTEXT_OVERFLOW: (400, "prompt too long; exceeded max context length by 1 tokens"),
    Failure.CONTENT_REFUSED: (400, "the content is against the usage policy"),
    Failure.OVERLOADED: (503, "server busy, please try again; the server is overloaded"),
    Failure.UNAVAILABLE: (500, "llama runner process has terminated"),
    Failure.ERROR_IN_200: (200, "something failed after all"),
}


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error; see `Dialect.error_body`."""
    status, text = _ERRORS[failure]
    headers = {"retry-after": "2"} if failure is Failure.RATE_LIMITED else {}
    return status, headers, msgspec.json.encode({"error": text.format(key=key)})


def error_event() -> bytes:
    """Return the line by which a stream fails; see `Dialect.error_event`."""
    return b'{"error":"an error was encountered while running the model"}\n'


def bad_event() -> bytes:
    """Return a line that is damaged; see `Dialect.bad_event`."""
    return b"{not json\n"
