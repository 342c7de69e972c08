"""The sandbox's generateContent (ai.google.dev/api/generate-content), framed with CR LF, or as one JSON array."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects.base import Request, conversation_of, event, joined, output_count, whole_calls
from keyswitch_sandbox.scenarios import Failure, Reasoning, Refusal, Script, Signature, Text, Tool, ToolCall, Tuning

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

PATH = re.compile(r"/models/(?P<model>[^/]+):(generate|(?P<stream>streamGenerate))Content(?P<sse>\?alt=sse)?$")
SIGNS = True
_STOPS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}


class _Content(msgspec.Struct):
    parts: list[dict[str, Any]]
    role: str = "user"


class _Body(msgspec.Struct, rename="camel"):
    contents: list[_Content]
    tools: list[dict[str, Any]] = []
    generation_config: dict[str, Any] = {}
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    texts: list[tuple[str, str]] = []
    for content in request.contents:
        for part in content.parts:
            if "text" in part:
                texts.append((content.role, str(part["text"])))
            elif "functionResponse" in part:
                texts.append(("tool", str(next(iter(part["functionResponse"]["response"].values())))))
    declared = [function for tool in request.tools for function in tool.get("functionDeclarations", ())]
    tools = [Tool(function["name"], function.get("parametersJsonSchema", {})) for function in declared]
    conversation = conversation_of(body, texts, tools, request.generation_config.get("responseJsonSchema"))
    return Request(path["model"], bool(path["stream"]), conversation, request.sandbox, framed=bool(path["sse"]))


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "text/event-stream" if request.framed else "application/json; charset=UTF-8"


def _parts(script: Script) -> list[dict[str, Any]]:
    """Return what is said, a part a piece; calls are whole, and the first of them carries the signature."""
    parts: list[dict[str, Any]] = []
    for piece in script.said:
        match piece:
            case Reasoning(text=text):
                parts.append({"text": text, "thought": True})
            case Text(text=text) | Refusal(text=text):
                parts.append({"text": text})
            case ToolCall() | Signature():
                pass
    signature = joined(script.said, Signature)
    for place, (_, name, arguments) in enumerate(whole_calls(script.said)):
        part: dict[str, Any] = {"functionCall": {"name": name, "args": msgspec.Raw(arguments.encode() or b"{}")}}
        parts.append(part | ({"thoughtSignature": signature} if signature and not place else {}))
    return parts


def _response(
    request: Request, script: Script, response_id: str, parts: list[dict[str, Any]], finish: str | None
) -> dict[str, Any]:
    """Return a response. Counts are cumulative and on each; thoughts are counted beside the candidates."""
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    thoughts = sum(isinstance(piece, Reasoning) for piece in script.said)
    given, made = request.conversation.input_tokens, output_count(script.said)
    usage = {"promptTokenCount": given, "candidatesTokenCount": made - thoughts, "totalTokenCount": given + made}
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": request.model, "responseId": response_id}


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream; see `Dialect.stream_events`."""
    parts = _parts(script) or [{"text": ""}]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        value = _response(request, script, response_id, [part], _STOPS[script.stop] if last else None)
        if request.framed:
            yield event(value, end=b"\r\n")
        else:
            yield (b",\r\n" if number else b"[") + msgspec.json.encode(value) + (b"]\n" if last else b"")


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer; see `Dialect.whole_body`."""
    return msgspec.json.encode(_response(request, script, response_id, _parts(script), _STOPS[script.stop]))


_ERRORS: dict[Failure, tuple[int, str, str, str]] = {
    Failure.BAD_KEY: (400, "INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid: {key}."),
    Failure.NOT_PERMITTED: (403, "PERMISSION_DENIED", "", "The caller {key} does not have permission."),
    Failure.OUT_OF_CREDIT: (429, "RESOURCE_EXHAUSTED", "", "Your prepayment credits are depleted."),
    Failure.PAYMENT_REQUIRED: (402, "FAILED_PRECONDITION", "", "Payment is required."),
    Failure.RATE_LIMITED: (429, "RESOURCE_EXHAUSTED", "", "You exceeded your current quota, please check your plan."),
    Failure.MODEL_NOT_FOUND: (404, "NOT_FOUND", "", "models/none is not found for API version v1beta."),
    Failure.BAD_REQUEST: (400, "INVALID_ARGUMENT", "", "Invalid value at 'contents'."),
    Failure.CONTEXT_OVERFLOW: (400, "INVALID_ARGUMENT", "", "The input token count exceeds the maximum."),
    Failure.CONTENT_REFUSED: (400, "INVALID_ARGUMENT", "", "The prompt violates the usage policy."),
    Failure.OVERLOADED: (503, "UNAVAILABLE", "", "The model is overloaded. Please try again later."),
    Failure.UNAVAILABLE: (500, "INTERNAL", "", "An internal error has occurred."),
    Failure.ERROR_IN_200: (200, "INTERNAL", "", "Something failed after all."),
}  # fmt: skip


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error; see `Dialect.error_body`. The delay before a retry is in the body, not in a header."""
    status, name, reason, text = _ERRORS[failure]
    details: list[dict[str, Any]] = []
    if reason:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
    if failure is Failure.RATE_LIMITED:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"})
    error = {"code": status, "message": text.format(key=key), "status": name, "details": details}
    return status, {}, msgspec.json.encode({"error": error})


def error_event() -> bytes:
    """Return the piece by which a stream fails; see `Dialect.error_event`."""
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    return event(error, end=b"\r\n")


def bad_event() -> bytes:
    """Return a piece that is damaged; see `Dialect.bad_event`."""
    return b"data: {not json\r\n\r\n"
