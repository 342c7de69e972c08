"""The sandbox's chat completions, as platform.openai.com/docs/api-reference/chat describes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from keyswitch_sandbox.scenarios import (
    Conversation,
    Failure,
    Reasoning,
    Refusal,
    Said,
    Script,
    Text,
    Tool,
    ToolCall,
    Tuning,
)

__all__ = ["Request", "error_body", "error_event", "read", "stream_events", "whole_body"]


class Request(msgspec.Struct, frozen=True):
    """A request, as far as the sandbox cares."""

    model: str
    stream: bool
    include_usage: bool
    conversation: Conversation
    tuning: Tuning


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


def read(body: bytes) -> Request:
    """Read a request. Raises `msgspec.DecodeError` if it is not one."""
    request = _DECODER.decode(body)
    texts = [(message.role, _text(message)) for message in request.messages]
    user = [text for role, text in texts if role == "user"]
    conversation = Conversation(
        text=user[-1] if user else "",
        tools=tuple(Tool(row.function.name, row.function.parameters) for row in request.tools),
        tool_result=texts[-1][1] if texts and texts[-1][0] == "tool" else None,
        schema=request.response_format.get("json_schema", {}).get("schema"),
        body=body,
        input_tokens=sum(len(text.split()) for _, text in texts),
    )
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return Request(request.model, request.stream, include_usage, conversation, request.sandbox)


def _text(message: _Message) -> str:
    """Return the text of a message."""
    if isinstance(message.content, list):
        return "".join(str(part.get("text", "")) for part in message.content)
    return message.content or ""


def _usage(request: Request, said: Iterable[Said]) -> dict[str, Any]:
    """Count words."""
    reasoning = sum(isinstance(piece, Reasoning) for piece in said)
    output = sum(not isinstance(piece, ToolCall) or bool(piece.fragment) for piece in said)
    return {
        "prompt_tokens": request.conversation.input_tokens,
        "completion_tokens": output,
        "total_tokens": request.conversation.input_tokens + output,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _call_id(index: int) -> str:
    return f"call_sandbox_{index}"


def _delta(piece: Said) -> dict[str, Any]:
    """Spell one piece."""
    match piece:
        case Text(text=text):
            return {"content": text}
        case Reasoning(text=text):
            return {"reasoning_content": text}
        case Refusal(text=text):
            return {"refusal": text}
        case ToolCall(index=index, name=name, fragment=fragment):
            function: dict[str, Any] = {"arguments": fragment}
            call: dict[str, Any] = {"index": index, "function": function}
            if name:
                function["name"] = name
                call |= {"id": _call_id(index), "type": "function"}
            return {"tool_calls": [call]}


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream, one a piece."""
    head = {"id": response_id, "object": "chat.completion.chunk", "created": 0, "model": request.model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in script.said:
        yield chunk(_delta(piece))
    yield chunk({}, script.stop)
    if request.include_usage:
        yield _event(head | {"choices": [], "usage": _usage(request, script.said)})
    yield b"data: [DONE]\n\n"


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer."""
    said = script.said
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(piece.text for piece in said if isinstance(piece, Text)) or None,
    }
    for name, kind in (("reasoning_content", Reasoning), ("refusal", Refusal)):
        text = "".join(piece.text for piece in said if isinstance(piece, kind))
        if text:
            message[name] = text
    calls = _whole_calls([piece for piece in said if isinstance(piece, ToolCall)])
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


def _whole_calls(pieces: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Join the pieces of tool calls."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        call = calls.setdefault(
            piece.index,
            {"id": _call_id(piece.index), "type": "function", "function": {"name": piece.name, "arguments": ""}},
        )
        call["function"]["arguments"] += piece.fragment
    return list(calls.values())


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
    return _event({"error": {"message": "The server had an error while answering.", "type": "server_error"}})
