"""The sandbox's Messages (docs.claude.com/en/api/messages), also as Vertex and Bedrock carry them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects.aws import message
from keyswitch_sandbox.dialects.base import Request, conversation_of, event, joined, output_count, whole_calls
from keyswitch_sandbox.scenarios import Failure, Reasoning, Refusal, Script, Signature, Text, Tool, ToolCall, Tuning

__all__ = [
    "PATH",
    "SIGNS",
    "BedrockInvoke",
    "bad_event",
    "error_body",
    "error_event",
    "read",
    "stream_events",
    "stream_type",
    "values",
    "whole_body",
]

PATH = re.compile(r"/messages$|/publishers/anthropic/models/(?P<model>[^/]+):(raw|(?P<stream>streamRaw))Predict$")
SIGNS = True
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class _Tool(msgspec.Struct):
    name: str = ""
    input_schema: dict[str, Any] = {}


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]]


class _Body(msgspec.Struct):
    messages: list[_Message]
    max_tokens: int
    model: str = ""
    stream: bool = False
    tools: list[_Tool] = []
    output_config: dict[str, Any] = {}
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    texts: list[tuple[str, str]] = []
    for turn in request.messages:
        blocks = [{"type": "text", "text": turn.content}] if isinstance(turn.content, str) else turn.content
        for block in blocks:
            if block.get("type") == "tool_result":
                texts.append(("tool", _flat(block.get("content", ""))))
            elif block.get("type") == "text":
                texts.append((turn.role, str(block["text"])))
    tools = [Tool(tool.name, tool.input_schema) for tool in request.tools]
    schema = request.output_config.get("format", {}).get("schema")
    found = path.groupdict()
    model = request.model or found.get("model") or ""
    streams = request.stream or bool(found.get("stream"))
    return Request(model, streams, conversation_of(body, texts, tools, schema), request.sandbox)


def _flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(block.get("text", "")) for block in content)


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "text/event-stream; charset=utf-8"


def _event(value: dict[str, Any]) -> bytes:
    return event(value, value["type"])


def values(request: Request, script: Script, response_id: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream as values. Input is told at the beginning, output at the end."""
    usage = {"input_tokens": request.conversation.input_tokens, "output_tokens": 1, "cache_read_input_tokens": 0}
    head = {"id": response_id, "type": "message", "role": "assistant", "model": request.model, "content": []}
    yield {"type": "message_start", "message": head | {"stop_reason": None, "usage": usage}}
    yield {"type": "ping"}
    number, opened = -1, ""
    for piece in script.said:
        kind, block, delta = _block(piece)
        if kind != opened:
            if opened:
                yield {"type": "content_block_stop", "index": number}
            number, opened = number + 1, kind
            yield {"type": "content_block_start", "index": number, "content_block": block}
        if delta:
            yield {"type": "content_block_delta", "index": number, "delta": delta}
    if opened:
        yield {"type": "content_block_stop", "index": number}
    refused = any(isinstance(piece, Refusal) for piece in script.said)
    stop = "refusal" if refused else _STOPS[script.stop]
    yield {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": _counts(script)}
    yield {"type": "message_stop"}


def _counts(script: Script) -> dict[str, int]:
    return {"output_tokens": output_count(script.said)}


def _block(piece: object) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return which block a piece belongs to, how that begins, and what the piece adds."""
    match piece:
        case Reasoning(text=text):
            return (
                "thinking",
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": text},
            )
        case Signature(text=text):
            return (
                "thinking",
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "signature_delta", "signature": text},
            )
        case ToolCall(index=index, name=name, fragment=fragment, number=number):
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}
            return f"tool {index}", block, {"type": "input_json_delta", "partial_json": fragment} if fragment else {}
        case Text(text=text) | Refusal(text=text):
            return "text", {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
        case _:
            raise AssertionError("every piece is one of these")


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream; see `Dialect.stream_events`."""
    for value in values(request, script, response_id):
        yield _event(value)


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer; see `Dialect.whole_body`."""
    content: list[dict[str, Any]] = []
    if thinking := joined(script.said, Reasoning):
        content.append({"type": "thinking", "thinking": thinking, "signature": joined(script.said, Signature)})
    if text := joined(script.said, Text) + joined(script.said, Refusal):
        content.append({"type": "text", "text": text})
    for number, name, arguments in whole_calls(script.said):
        given = msgspec.Raw(arguments.encode() or b"{}")
        content.append({"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given})
    refused = any(isinstance(piece, Refusal) for piece in script.said)
    return msgspec.json.encode(
        {
            "id": response_id,
            "type": "message",
            "role": "assistant",
            "model": request.model,
            "content": content,
            "stop_reason": "refusal" if refused else _STOPS[script.stop],
            "usage": {"input_tokens": request.conversation.input_tokens} | _counts(script),
        }
    )


_ERRORS: dict[Failure, tuple[int, str, str]] = {
    Failure.BAD_KEY: (401, "authentication_error", "invalid x-api-key: {key}"),
    Failure.NOT_PERMITTED: (403, "permission_error", "The key {key} may not use this model."),
    Failure.OUT_OF_CREDIT: (400, "invalid_request_error", "Your credit balance is too low to access the API."),
    Failure.PAYMENT_REQUIRED: (402, "billing_error", "Payment is required."),
    Failure.RATE_LIMITED: (429, "rate_limit_error", "This request would exceed a rate limit."),
    Failure.MODEL_NOT_FOUND: (404, "not_found_error", "model: no-such-model"),
    Failure.BAD_REQUEST: (400, "invalid_request_error", "messages.0: a field is wrong"),
    Failure.CONTEXT_OVERFLOW: (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
    Failure.CONTENT_REFUSED: (400, "invalid_request_error", "Output blocked by content filtering policy"),
    Failure.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    Failure.UNAVAILABLE: (500, "api_error", "Internal server error"),
    Failure.ERROR_IN_200: (200, "api_error", "Something failed after all."),
}


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error; see `Dialect.error_body`."""
    status, kind, text = _ERRORS[failure]
    headers = {"retry-after": "2"} if failure is Failure.RATE_LIMITED else {}
    body = {"type": "error", "error": {"type": kind, "message": text.format(key=key)}, "request_id": "req_sandbox"}
    return status, headers, msgspec.json.encode(body)


def error_event() -> bytes:
    """Return the piece by which a stream fails; see `Dialect.error_event`."""
    return _event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def bad_event() -> bytes:
    """Return a piece that is damaged; see `Dialect.bad_event`."""
    return b"event: content_block_delta\ndata: {not json\n\n"


class BedrockInvoke:
    """The same through Bedrock's InvokeModel (docs.aws.amazon.com/bedrock/latest/APIReference)."""

    PATH = re.compile(r"/model/(?P<model>[^/]+)/invoke(?P<stream>-with-response-stream)?$")
    SIGNS = True

    def read(self, path: re.Match[str], body: bytes) -> Request:
        """Read a request; see `Dialect.read`."""
        return read(path, body)

    def stream_type(self, request: Request) -> str:
        """Return the media type of a stream; see `Dialect.stream_type`."""
        return "application/vnd.amazon.eventstream"

    def stream_events(self, request: Request, script: Script, response_id: str) -> Iterator[bytes]:
        """Yield the events of a stream; see `Dialect.stream_events`."""
        for value in values(request, script, response_id):
            inner = base64.b64encode(msgspec.json.encode(value)).decode()
            yield message("event", "chunk", {"bytes": inner, "p": "abc"})

    def whole_body(self, request: Request, script: Script, response_id: str) -> bytes:
        """Return a whole answer; see `Dialect.whole_body`."""
        return whole_body(request, script, response_id)

    def error_body(self, failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
        """Return an error; see `Dialect.error_body`."""
        from keyswitch_sandbox.dialects import bedrock_converse  # noqa: PLC0415 - it imports this module's neighbours

        return bedrock_converse.error_body(failure, key)

    def error_event(self) -> bytes:
        """Return the piece by which a stream fails; see `Dialect.error_event`."""
        return message("exception", "modelStreamErrorException", {"message": "The model failed."})

    def bad_event(self) -> bytes:
        """Return a piece whose checksum is wrong; see `Dialect.bad_event`."""
        good = message("event", "chunk", {"bytes": ""})
        return good[:-1] + bytes([good[-1] ^ 1])
