"""The sandbox's chat completions, as platform.openai.com/docs/api-reference/chat describes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects.base import Request, conversation_of, event, joined, output_count, whole_calls
from keyswitch_sandbox.scenarios import (
    Failure,
    Reasoning,
    Refusal,
    Said,
    Script,
    Signature,
    Text,
    Tool,
    ToolCall,
    Tuning,
)

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


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Function(msgspec.Struct):
    name: str = ""
    parameters: dict[str, Any] = {}


class _ToolRow(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    tools: list[_ToolRow] = []
    response_format: dict[str, Any] = {}
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


PATH = re.compile(r"/chat/completions$")
SIGNS = False


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    texts = [(message.role, _text(message)) for message in request.messages]
    tools = [Tool(row.function.name, row.function.parameters) for row in request.tools]
    conversation = conversation_of(body, texts, tools, request.response_format.get("json_schema", {}).get("schema"))
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return Request(request.model, request.stream, conversation, request.sandbox, include_usage)


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "text/event-stream; charset=utf-8"


def _text(message: _Message) -> str:
    """Return the text of a message."""
    if isinstance(message.content, list):
        return "".join(str(part.get("text", "")) for part in message.content)
    return message.content or ""


def _usage(request: Request, said: Iterable[Said]) -> dict[str, Any]:
    """Count words."""
    reasoning = sum(isinstance(piece, Reasoning) for piece in said)
    output = output_count(said)
    return {
        "prompt_tokens": request.conversation.input_tokens,
        "completion_tokens": output,
        "total_tokens": request.conversation.input_tokens + output,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _call_id(number: int) -> str:
    return f"call_sandbox_{number}"


def _delta(piece: Said) -> dict[str, Any]:
    """Spell one piece."""
    match piece:
        case Text(text=text):
            return {"content": text}
        case Reasoning(text=text):
            return {"reasoning_content": text}
        case Refusal(text=text):
            return {"refusal": text}
        case Signature():
            return {}
        case ToolCall(index=index, name=name, fragment=fragment, number=number):
            function: dict[str, Any] = {"arguments": fragment}
            call: dict[str, Any] = {"index": index, "function": function}
            if name:
                function["name"] = name
                call |= {"id": _call_id(number), "type": "function"}
            return {"tool_calls": [call]}


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream, one a piece."""
    head = {"id": response_id, "object": "chat.completion.chunk", "created": 0, "model": request.model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in script.said:
        yield chunk(_delta(piece))
    yield chunk({}, script.stop)
    if request.include_usage:
        yield event(head | {"choices": [], "usage": _usage(request, script.said)})
    yield b"data: [DONE]\n\n"


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer."""
    said = script.said
    message: dict[str, Any] = {
        "role": "assistant",
        "content": joined(said, Text) or None,
    }
    for name, kind in (("reasoning_content", Reasoning), ("refusal", Refusal)):
        if text := joined(said, kind):
            message[name] = text
    calls = [
        {"id": _call_id(number), "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, name, arguments in whole_calls(said)
    ]
    if calls:
        message["tool_calls"] = calls
    return msgspec.json.encode(
        {
            "id": response_id,
            "object": "chat.completion",
            "created": 0,
            "model": request.model,
            "choices": [{"index": 0, "message": message, "finish_reason": script.stop}],
            "usage": _usage(request, said),
        }
    )


_ERRORS: dict[Failure, tuple[int, str, str, str]] = {
    Failure.BAD_KEY: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    Failure.NOT_PERMITTED: (403, "permission_error", "", "The key {key} may not use this model."),
    Failure.OUT_OF_CREDIT: (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    Failure.PAYMENT_REQUIRED: (402, "billing_error", "", "Payment is required."),
    Failure.RATE_LIMITED: (429, "requests", "rate_limit_exceeded", "Rate limit reached; try again in 2s."),
    Failure.MODEL_NOT_FOUND: (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    Failure.BAD_REQUEST: (400, "invalid_request_error", "invalid_value", "A parameter has an invalid value."),
    Failure.CONTEXT_OVERFLOW: (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "The maximum context length is 8.",
    ),
    Failure.CONTENT_REFUSED: (400, "invalid_request_error", "content_policy_violation", "The content is not allowed."),
    Failure.OVERLOADED: (503, "server_error", "", "The engine is currently overloaded."),
    Failure.UNAVAILABLE: (500, "server_error", "", "The server had an error."),
    Failure.ERROR_IN_200: (200, "server_error", "", "Something failed after all."),
}


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an error. Like real providers, it quotes the key back."""
    status, kind, code, message = _ERRORS[failure]
    headers = {"retry-after": "2"} if failure is Failure.RATE_LIMITED else {}
    error = {"message": message.format(key=key), "type": kind, "param": None, "code": code or None}
    return status, headers, msgspec.json.encode({"error": error})


def error_event() -> bytes:
    """Return the event by which a stream fails in the middle."""
    return event({"error": {"message": "The server had an error while answering.", "type": "server_error"}})


def bad_event() -> bytes:
    """Return a piece that is damaged; see `Dialect.bad_event`."""
    return b"data: {not json\n\n"
