"""Spellings that mean the same to the provider, made equal on both sides before bodies are compared.

Each is a difference that is deliberate: keyswitch has one way of saying a thing where its users' libraries have many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contract import Json

__all__ = ["normal"]

_OF_THE_CALL = ("model", "stream", "stream_options", "anthropic_version")
"""Said by target, rpc and dialect, not by the request: that whole answers say `stream: false` means nothing."""


def normal(dialect: str, body: Json) -> Json:
    """Return a body in the spelling that is compared."""
    said = {name: value for name, value in body.items() if name not in _OF_THE_CALL}
    found: Json = _plain(_SPELLINGS[dialect](said))
    return found


def _plain(value: Any) -> Any:
    """Drop nulls and empty values, which mean what absence means."""
    if isinstance(value, dict):
        return {key: kept for key, inner in value.items() if (kept := _plain(inner)) not in (None, {}, [], "")}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _joined(content: Any) -> Any:
    """Return content that is one plain text as that text."""
    match content:
        case [{"type": "text" | "input_text" | "output_text", "text": text, **rest}] if not rest or rest == {
            "annotations": []
        }:
            return text
        case _:
            return content


def _chat(body: Json) -> Json:
    """The system's role and the field for the output limit are the row's; efforts have two spellings."""
    for message in body["messages"]:
        if message["role"] == "developer":
            message["role"] = "system"
        message["content"] = _joined(message.get("content"))
        if message.get("refusal") is None:
            message.pop("refusal", None)
        if message["role"] == "assistant":
            for name in (
                "annotations",
                "audio",
                "function_call",
                "index",
            ):  # of answers that were sent back as they came
                if message.get(name) in (None, [], {}, 0):
                    message.pop(name, None)
            for call in message.get("tool_calls") or ():
                call.pop("index", None)
        message.setdefault("reasoning_content", message.pop("reasoning", None))
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    if "reasoning_effort" in body:
        body["reasoning"] = {"effort": body.pop("reasoning_effort")}
    if body.get("n") == 1:
        del body["n"]
    if isinstance(body.get("stop"), str):
        body["stop"] = [body["stop"]]
    if body.get("response_format") == {"type": "text"}:
        del body["response_format"]
    body["seed"] = body.pop("random_seed", body.get("seed"))
    body["user"] = body.pop("safety_identifier", body.get("user"))
    return body


def _responses(body: Json) -> Json:
    """Nothing is stored, reasoning is handed out encrypted, and schemas are only strict where that is asked for."""
    for name in ("store", "include"):
        body.pop(name, None)
    if isinstance(body["input"], str):
        body["input"] = [{"role": "user", "content": body["input"]}]
    for item in body["input"]:
        if item.get("type") == "message":
            del item["type"]
        if item.get("type") != "reasoning":
            item.pop("id", None)  # goes with what is stored
        item.pop("status", None)
        item["content"] = _joined(item.get("content"))
        item["output"] = _joined(item.get("output"))
        if item.get("role") == "developer":
            item["role"] = "system"
    for tool in body.get("tools") or ():
        if not tool.get("strict"):
            tool.pop("strict", None)
        if tool.get("parameters") == {"type": "object", "properties": {}}:
            del tool["parameters"]
    if body.get("text") == {"format": {"type": "text"}}:
        del body["text"]
    body["user"] = body.pop("safety_identifier", body.get("user"))
    return body


def _messages(body: Json) -> Json:
    """One text is a string, five minutes are the default of a cache, and consecutive turns of one side are one."""
    body["system"] = _blocks(body.get("system"))
    turns: list[Json] = []
    for turn in body["messages"]:
        blocks = _blocks(turn["content"])
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": turn["role"], "content": blocks})
    body["messages"] = turns
    for tool in body.get("tools") or ():
        if tool.get("type") == "custom":
            del tool["type"]
    return body


def _blocks(content: Any) -> list[Json]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for block in blocks:
        if block.get("is_error") is False:
            del block["is_error"]
        if "content" in block and block.get("type") == "tool_result":
            block["content"] = _blocks(block["content"])
        if (block.get("cache_control") or {}).get("ttl") == "5m":
            del block["cache_control"]["ttl"]
    return blocks


_GOOGLE = {
    "function_call": "functionCall", "function_response": "functionResponse", "inline_data": "inlineData",
    "mime_type": "mimeType", "file_data": "fileData", "file_uri": "fileUri",
    "function_declarations": "functionDeclarations", "parameters_json_schema": "parametersJsonSchema",
    "parameters": "parametersJsonSchema", "responseSchema": "responseJsonSchema",
}  # fmt: skip


def _gemini(body: Json) -> Json:
    """JSON Schema stands in place of the older form, whose types are in capitals; results have one key."""
    said: Json = _google(body)
    (said.get("systemInstruction") or {}).pop("role", None)
    turns: list[Json] = []
    for content in said["contents"]:
        role = content.get("role") or "user"
        for part in content["parts"]:
            response = part.get("functionResponse")
            if response is not None:
                value = response["response"]
                key, inner = next(iter(value.items())) if len(value) == 1 else ("output", value)
                shown = inner if isinstance(inner, str) else _text(inner)
                response["response"] = {"error" if key == "error" else "output": shown}
                role = "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += content["parts"]
        else:
            turns.append({"role": role, "parts": content["parts"]})
    said["contents"] = turns
    functions = [f for tool in said.get("tools") or () for f in tool.get("functionDeclarations", ())]
    own = [tool for tool in said.get("tools") or () if "functionDeclarations" not in tool]
    said["tools"] = ([{"functionDeclarations": functions}] if functions else []) + own
    config = said.get("generationConfig") or {}
    if config.get("candidateCount") == 1:
        del config["candidateCount"]
    return said


def _text(value: Any) -> str:
    import json  # noqa: PLC0415 - here alone

    return json.dumps(value)


def _google(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _GOOGLE.get(key, key): inner.lower()
            if key in ("type", "mode", "thinkingLevel") and isinstance(inner, str)
            else inner
            if key in ("args", "response")
            else _google(inner)
            for key, inner in value.items()
        }
    return [_google(inner) for inner in value] if isinstance(value, list) else value


def _converse(body: Json) -> Json:
    """Success is a result's default status."""
    for turn in body["messages"]:
        for block in turn["content"]:
            result = block.get("toolResult")
            if result is not None and result.get("status") == "success":
                del result["status"]
    return body


def _cohere(body: Json) -> Json:
    """One text is a string."""
    for message in body["messages"]:
        message["content"] = _joined(message.get("content"))
    form = body.get("response_format") or {}
    if "schema" in form:
        form["json_schema"] = form.pop("schema")
    return body


def _ollama(body: Json) -> Json:
    """Calls have ids, so that parallel ones can be told apart."""
    for message in body["messages"]:
        for name in ("tool_call_id", "tool_name"):
            message.pop(name, None)
        for call in message.get("tool_calls") or ():
            call.pop("id", None)
            call.pop("type", None)
    return body


_SPELLINGS: dict[str, Callable[[Json], Json]] = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "anthropic-messages": _messages,
    "vertex-rawpredict": _messages,
    "bedrock-invoke": _messages,
    "gemini": _gemini,
    "bedrock-converse": _converse,
    "cohere-v2": _cohere,
    "ollama": _ollama,
}
