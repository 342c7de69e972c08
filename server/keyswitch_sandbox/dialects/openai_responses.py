"""The sandbox's Responses (platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from keyswitch_sandbox.dialects import openai_chat
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

PATH = re.compile(r"/responses$")
SIGNS = True


class _Tool(msgspec.Struct):
    name: str = ""
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct):
    model: str
    input: str | list[dict[str, Any]]
    stream: bool = False
    tools: list[_Tool] = []
    text: dict[str, Any] = {}
    sandbox: Tuning = Tuning()


_DECODER = msgspec.json.Decoder(_Body)


def read(path: re.Match[str], body: bytes) -> Request:
    """Read a request; see `Dialect.read`."""
    request = _DECODER.decode(body)
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    texts: list[tuple[str, str]] = []
    for item in items:
        if item.get("type") == "function_call_output":
            texts.append(("tool", _flat(item["output"])))
        elif "role" in item:
            texts.append((item["role"], _flat(item["content"])))
    tools = [Tool(tool.name, tool.parameters) for tool in request.tools]
    conversation = conversation_of(body, texts, tools, request.text.get("format", {}).get("schema"))
    return Request(request.model, request.stream, conversation, request.sandbox)


def _flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def stream_type(request: Request) -> str:
    """Return the media type of a stream; see `Dialect.stream_type`."""
    return "text/event-stream; charset=utf-8"


def _items(script: Script) -> list[dict[str, Any]]:
    """Return the items of the output, each as it is when it is complete."""
    items: list[dict[str, Any]] = []
    if thinking := joined(script.said, Reasoning):
        item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": thinking}]}
        if signature := joined(script.said, Signature):
            item["encrypted_content"] = signature
        items.append(item)
    content: list[dict[str, Any]] = []
    if text := joined(script.said, Text):
        content.append({"type": "output_text", "text": text, "annotations": []})
    if refusal := joined(script.said, Refusal):
        content.append({"type": "refusal", "refusal": refusal})
    if content:
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content})
    for number, name, arguments in whole_calls(script.said):
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": name}
        items.append(call | {"arguments": arguments, "status": "completed"})
    return items


def _response(request: Request, script: Script, response_id: str, status: str) -> dict[str, Any]:
    """Return the response object."""
    response: dict[str, Any] = {"id": response_id, "object": "response", "model": request.model, "status": status}
    if status == "in_progress":
        return response | {"output": [], "usage": None, "error": None}
    ended = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(script.stop)
    if ended:
        response |= {"status": "incomplete", "incomplete_details": {"reason": ended}}
    given, made = request.conversation.input_tokens, output_count(script.said)
    details = {"output_tokens_details": {"reasoning_tokens": 0}, "input_tokens_details": {"cached_tokens": 0}}
    usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made} | details
    return response | {"output": _items(script), "usage": usage, "error": None}


def stream_events(request: Request, script: Script, response_id: str) -> Iterator[bytes]:
    """Yield the events of a stream; see `Dialect.stream_events`."""
    begun = _response(request, script, response_id, "in_progress")
    yield _event({"type": "response.created", "response": begun})
    places = {item["type"]: number for number, item in reversed(list(enumerate(_items(script))))}
    opened: set[int] = set()
    for piece in script.said:
        kind, begins, name, delta = _piece(piece)
        number = places.get(kind, 0) + (piece.index if isinstance(piece, ToolCall) else 0)
        if number not in opened:
            opened.add(number)
            yield _event({"type": "response.output_item.added", "output_index": number, "item": begins})
        if delta:
            place = {"output_index": number, "item_id": begins["id"], "content_index": 0, "obfuscation": "xyz"}
            yield _event({"type": name, "delta": delta} | place)
    for number, item in enumerate(_items(script)):
        yield _event({"type": "response.output_item.done", "output_index": number, "item": item})
    ended = _response(request, script, response_id, "completed")
    yield _event({"type": f"response.{ended['status']}", "response": ended})


def _piece(piece: object) -> tuple[str, dict[str, Any], str, str]:
    """Return the type of a piece's item, how that begins, the name of its event and what it adds."""
    match piece:
        case Reasoning(text=text):
            return "reasoning", {"type": "reasoning", "id": "rs_1"}, "response.reasoning_summary_text.delta", text
        case Signature():
            return "reasoning", {"type": "reasoning", "id": "rs_1"}, "", ""
        case ToolCall(name=name, fragment=fragment, number=number):
            call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": name}
            return "function_call", call | {"arguments": ""}, "response.function_call_arguments.delta", fragment
        case Refusal(text=text):
            return "message", {"type": "message", "id": "msg_1", "content": []}, "response.refusal.delta", text
        case Text(text=text):
            return "message", {"type": "message", "id": "msg_1", "content": []}, "response.output_text.delta", text
        case _:
            raise AssertionError("every piece is one of these")


def _event(value: dict[str, Any]) -> bytes:
    return event(value, value["type"])


def whole_body(request: Request, script: Script, response_id: str) -> bytes:
    """Return a whole answer; see `Dialect.whole_body`."""
    return msgspec.json.encode(_response(request, script, response_id, "completed"))


def error_body(failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error, which is spelt as in chat completions; see `Dialect.error_body`."""
    return openai_chat.error_body(failure, key)


def error_event() -> bytes:
    """Return the pieces by which a stream fails; see `Dialect.error_event`."""
    error = {"type": "server_error", "code": "server_error", "message": "The server had an error.", "param": None}
    failed = {"status": "failed", "error": {"code": "server_error", "message": "The server had an error."}}
    return _event({"type": "error", "error": error}) + _event({"type": "response.failed", "response": failed})


def bad_event() -> bytes:
    """Return a piece that is damaged; see `Dialect.bad_event`."""
    return b"event: response.output_text.delta\ndata: {not json\n\n"
