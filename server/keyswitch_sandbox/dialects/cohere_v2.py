"""The sandbox's Cohere chat (docs.cohere.com/reference/chat-stream)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects.base import Request, conversation_of, event, joined, output_count, whole_calls
from keyswitch_sandbox.scenarios import Failure, Reasoning, Refusal, Script, Text, Tool, ToolCall, Tuning

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

PATH = re.compile(r"/v2/chat$")
SIGNS = False
_STOPS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "content_filter": "ERROR_TOXIC"}


class _Function(msgspec.Struct):
    name: str = ""
    parameters: dict[str, Any] = {}


class _Tool(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool = False
    tools: list[_Tool] = []
    response_format: dict[str, Any] = {}
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    texts = [(turn.role, _flat(turn.content)) for turn in request.messages]
    tools = [Tool(tool.function.name, tool.function.parameters) for tool in request.tools]
    conversation = conversation_of(body, texts, tools, request.response_format.get("json_schema"))
    return Request(request.model, request.stream, conversation, request.sandbox)


def _flat(content: str | list[dict[str, Any]] | None) -> str:
    return "".join(str(part.get("text", "")) for part in content) if isinstance(content, list) else content or ""


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "text/event-stream"


def _event(name: str, **fields: Any) -> bytes:
    return event({"type": name} | fields, name)


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream; see `Dialect.stream_events`."""
    yield _event(
        "message-start", id=response_id, delta={"message": {"role": "assistant", "content": [], "tool_calls": []}}
    )
    opened = ""
    for piece in script.said:
        match piece:
            case Reasoning(text=text):
                kind, name, content = "thinking", "thinking", text
            case Text(text=text) | Refusal(text=text):
                kind, name, content = "text", "text", text
            case ToolCall(index=index, name=called, fragment=fragment, number=number):
                if called:
                    call = {"id": f"call_{number}", "type": "function", "function": {"name": called, "arguments": ""}}
                    yield _event("tool-call-start", index=index, delta={"message": {"tool_calls": call}})
                if fragment:
                    part = {"tool_calls": {"function": {"arguments": fragment}}}
                    yield _event("tool-call-delta", index=index, delta={"message": part})
                continue
            case _:
                continue
        if kind != opened:
            opened = kind
            yield _event("content-start", index=0, delta={"message": {"content": {"type": kind, name: ""}}})
        yield _event("content-delta", index=0, delta={"message": {"content": {name: content}}})
    yield _event("message-end", delta={"finish_reason": _STOPS[script.stop], "usage": _usage(request, script)})
    yield b"data: [DONE]\n\n"


def _usage(request: Request, script: Script) -> dict[str, Any]:
    counts = {"input_tokens": request.conversation.input_tokens, "output_tokens": output_count(script.said)}
    return {"billed_units": {"input_tokens": 1, "output_tokens": 1}, "tokens": counts}


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer; see `Dialect.whole_body`."""
    message: dict[str, Any] = {"role": "assistant", "content": []}
    if thinking := joined(script.said, Reasoning):
        message["content"].append({"type": "thinking", "thinking": thinking})
    if text := joined(script.said, Text) + joined(script.said, Refusal):
        message["content"].append({"type": "text", "text": text})
    if calls := whole_calls(script.said):
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, name, arguments in calls
        ]
    answer = {"id": response_id, "message": message, "finish_reason": _STOPS[script.stop]}
    return msgspec.json.encode(answer | {"usage": _usage(request, script)})


_ERRORS: dict[Failure, tuple[int, str]] = {
    Failure.BAD_KEY: (401, "Incorrect API key provided: {key}."),
    Failure.NOT_PERMITTED: (403, "The key {key} may not use this model."),
    Failure.OUT_OF_CREDIT: (402, "Please add or update your payment method; insufficient balance."),
    Failure.PAYMENT_REQUIRED: (402, "Payment is required."),
    Failure.RATE_LIMITED: (429, "You are using a trial key, which is limited to 10 calls a minute."),
    Failure.MODEL_NOT_FOUND: (404, "model 'none' not found, make sure the correct model ID was used."),
    Failure.BAD_REQUEST: (400, "invalid request: a field is wrong."),
    Failure.CONTEXT_OVERFLOW: (400, "too many tokens: total number of tokens in the prompt exceeds the limit of 8."),
    Failure.CONTENT_REFUSED: (400, "the content is against the usage policy."),
    Failure.OVERLOADED: (503, "the model is overloaded."),
    Failure.UNAVAILABLE: (500, "internal server error."),
    Failure.ERROR_IN_200: (200, "something failed after all."),
}


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error; see `Dialect.error_body`."""
    status, text = _ERRORS[failure]
    headers = {"retry-after": "2"} if failure is Failure.RATE_LIMITED else {}
    return status, headers, msgspec.json.encode({"id": "sandbox", "message": text.format(key=key)})


def error_event() -> bytes:
    """Return the piece by which a stream fails; see `Dialect.error_event`."""
    return _event(
        "message-end", delta={"finish_reason": "ERROR", "error": "the model failed", "error_type": "INTERNAL"}
    )


def bad_event() -> bytes:
    """Return a piece that is damaged; see `Dialect.bad_event`."""
    return b"event: content-delta\ndata: {not json\n\n"
