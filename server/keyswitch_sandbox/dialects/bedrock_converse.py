"""The sandbox's Converse (docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects.aws import message
from keyswitch_sandbox.dialects.base import Request, conversation_of, joined, output_count, whole_calls
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

PATH = re.compile(r"/model/(?P<model>[^/]+)/converse(?P<stream>-stream)?$")
SIGNS = True
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "content_filtered"}


class _Message(msgspec.Struct):
    role: str
    content: list[dict[str, Any]]


class _Body(msgspec.Struct):
    messages: list[_Message]
    tools: dict[str, Any] = msgspec.field(name="toolConfig", default_factory=dict)
    output: dict[str, Any] = msgspec.field(name="outputConfig", default_factory=dict)
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    texts: list[tuple[str, str]] = []
    for turn in request.messages:
        for block in turn.content:
            if "text" in block:
                texts.append((turn.role, str(block["text"])))
            elif "toolResult" in block:
                texts.append(("tool", "".join(str(part.get("text", "")) for part in block["toolResult"]["content"])))
    specs = [tool["toolSpec"] for tool in request.tools.get("tools", ()) if "toolSpec" in tool]
    tools = [Tool(spec["name"], spec["inputSchema"]["json"]) for spec in specs]
    text = request.output.get("textFormat", {}).get("structure", {}).get("jsonSchema", {}).get("schema")
    schema = msgspec.json.decode(text) if text else None
    return Request(path["model"], bool(path["stream"]), conversation_of(body, texts, tools, schema), request.sandbox)


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "application/vnd.amazon.eventstream"


def _event(name: str, value: dict[str, Any]) -> bytes:
    return message("event", name, value | {"p": "abcdef"})


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream. Only tools are announced, and usage comes after the message has stopped."""
    yield _event("messageStart", {"role": "assistant"})
    number, opened = -1, ""
    for piece in script.said:
        kind, start, delta = _block(piece)
        if kind != opened:
            if opened:
                yield _event("contentBlockStop", {"contentBlockIndex": number})
            number, opened = number + 1, kind
            if start:
                yield _event("contentBlockStart", {"contentBlockIndex": number, "start": start})
        if delta:
            yield _event("contentBlockDelta", {"contentBlockIndex": number, "delta": delta})
    if opened:
        yield _event("contentBlockStop", {"contentBlockIndex": number})
    yield _event("messageStop", {"stopReason": _STOPS[script.stop]})
    yield _event("metadata", {"usage": _usage(request, script), "metrics": {"latencyMs": 1}})


def _block(piece: object) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return which block a piece belongs to, how that begins, and what the piece adds."""
    match piece:
        case Reasoning(text=text):
            return "reasoning", {}, {"reasoningContent": {"text": text}}
        case Signature(text=text):
            return "reasoning", {}, {"reasoningContent": {"signature": text}}
        case ToolCall(index=index, name=name, fragment=fragment, number=number):
            start = {"toolUse": {"toolUseId": f"tooluse_{number}", "name": name}}
            return f"tool {index}", start, {"toolUse": {"input": fragment}} if fragment else {}
        case Text(text=text) | Refusal(text=text):
            return "text", {}, {"text": text}
        case _:
            raise AssertionError("every piece is one of these")


def _usage(request: Request, script: Script) -> dict[str, int]:
    output = output_count(script.said)
    given = request.conversation.input_tokens
    return {"inputTokens": given, "outputTokens": output, "totalTokens": given + output}


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer; see `Dialect.whole_body`."""
    content: list[dict[str, Any]] = []
    if thinking := joined(script.said, Reasoning):
        reasoning = {"text": thinking, "signature": joined(script.said, Signature)}
        content.append({"reasoningContent": {"reasoningText": reasoning}})
    if text := joined(script.said, Text) + joined(script.said, Refusal):
        content.append({"text": text})
    for number, name, arguments in whole_calls(script.said):
        given = msgspec.Raw(arguments.encode() or b"{}")
        content.append({"toolUse": {"toolUseId": f"tooluse_{number}", "name": name, "input": given}})
    return msgspec.json.encode(
        {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": _STOPS[script.stop],
            "usage": _usage(request, script),
        }
    )


_ERRORS: dict[Failure, tuple[int, str, str]] = {
    Failure.BAD_KEY: (403, "UnrecognizedClientException", "The security token {key} is invalid."),
    Failure.NOT_PERMITTED: (403, "AccessDeniedException", "You don't have access to the model with {key}."),
    Failure.OUT_OF_CREDIT: (403, "AccessDeniedException", "Your account has an insufficient balance."),
    Failure.PAYMENT_REQUIRED: (402, "PaymentRequiredException", "Payment is required."),
    Failure.RATE_LIMITED: (429, "ThrottlingException", "Too many requests, please wait."),
    Failure.MODEL_NOT_FOUND: (400, "ValidationException", "The provided model identifier is invalid."),
    Failure.BAD_REQUEST: (400, "ValidationException", "Malformed input request."),
    Failure.CONTEXT_OVERFLOW: (400, "ValidationException", "Input is too long for requested model."),
    Failure.CONTENT_REFUSED: (400, "ValidationException", "Output blocked by content filtering policy."),
    Failure.OVERLOADED: (503, "ServiceUnavailableException", "The service is overloaded."),
    Failure.UNAVAILABLE: (500, "InternalServerException", "Something failed."),
    Failure.ERROR_IN_200: (200, "InternalServerException", "Something failed after all."),
}


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error; see `Dialect.error_body`."""
    status, name, text = _ERRORS[failure]
    headers = {"x-amzn-errortype": f"{name}:http://internal.example/"}
    if failure is Failure.RATE_LIMITED:
        headers["retry-after"] = "2"
    return status, headers, msgspec.json.encode({"message": text.format(key=key)})


def error_event() -> bytes:
    """Return the piece by which a stream fails; see `Dialect.error_event`."""
    return message("exception", "modelStreamErrorException", {"message": "The model failed."})


def bad_event() -> bytes:
    """Return a piece whose checksum is wrong; see `Dialect.bad_event`."""
    good = _event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "x"}})
    return good[:-1] + bytes([good[-1] ^ 1])
