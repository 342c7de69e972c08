"""Anthropic's Messages, wherever they are spoken."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from contract import Json, assistant, image, media, schema_text, state, text, tool_call, tool_results, user

from readers.common import EFFORTS, Unreadable, choice_of, effort_of, hint_of, sampling

__all__ = ["reader"]


def _messages_parts(content: Any, provider: str, dialect: str) -> tuple[list[Json], list[Json]]:
    """Return parts, and results of tools, which are of another turn."""
    if isinstance(content, str):
        return [text(content)], []
    parts: list[Json] = []
    results: list[Json] = []
    for block in content:
        hint = {"cacheHint": hint_of(block["cache_control"])} if block.get("cache_control") else {}
        match block:
            case {"type": "text", "text": value}:
                kept = {"citations": block["citations"]} if block.get("citations") else None
                parts.append(text(value) | hint | ({"providerState": state(provider, dialect, kept)} if kept else {}))
            case {"type": "image", "source": source}:
                parts.append(image(media(source.get("data"), source.get("media_type"), source.get("url"))) | hint)
            case {"type": "document", "source": {"type": "text", "data": data}}:
                inline = media(base64.b64encode(data.encode()).decode(), "text/plain")
                parts.append({"file": {"source": inline, "filename": block.get("title", "")}} | hint)
            case {"type": "document", "source": {"type": "base64" | "url"} as source}:
                given = media(source.get("data"), source.get("media_type"), source.get("url"))
                parts.append({"file": {"source": given, "filename": block.get("title", "")}} | hint)
            case {"type": "tool_use", "id": call_id, "name": name, "input": given}:
                parts.append(tool_call(call_id, name, given) | hint)
            case {"type": "thinking", "thinking": thinking, "signature": signature}:
                kept = {"signature": signature}
                parts.append({"reasoning": {"text": thinking}, "providerState": state(provider, dialect, kept)})
            case {"type": "redacted_thinking", "data": data}:
                parts.append({"reasoning": {}, "providerState": state(provider, dialect, {"data": data})})
            case {"type": "tool_result", "tool_use_id": call_id}:
                inner, _ = _messages_parts(block.get("content") or [], provider, dialect)
                failed = {"isError": True} if block.get("is_error") else {}
                results.append({"toolCallId": call_id, "parts": inner} | failed | hint)
            case {"type": str(kind)} if kind.endswith(("_tool_use", "_tool_result")):
                parts.append({"opaque": {"type": kind}, "providerState": state(provider, dialect, block)})
            case _:
                raise Unreadable(f"block {block.get('type')}")
    return parts, results


def reader(dialect: str) -> Callable[[Json, str], Json]:
    """Return the reader of one of the dialects."""

    def read(body: Json, provider: str) -> Json:
        found: Json = {"messages": []}
        for turn in body.pop("messages"):
            parts, results = _messages_parts(turn["content"], provider, dialect)
            if results:
                found["messages"].append(tool_results(*results))
            if parts:
                found["messages"].append((assistant if turn["role"] == "assistant" else user)(*parts))
        if body.get("system"):
            found["system"], _ = _messages_parts(body.pop("system"), provider, dialect)
        found["tools"] = []
        for tool in body.pop("tools", None) or ():
            hint = {"cacheHint": hint_of(tool.pop("cache_control"))} if tool.get("cache_control") else {}
            if tool.get("type") in (None, "custom"):
                function: Json = {"name": tool["name"], "parametersJsonSchema": schema_text(tool["input_schema"])}
                function |= {key: tool[key] for key in ("description", "strict") if tool.get(key) is not None}
                found["tools"].append({"function": function} | hint)
            else:
                config = {key: value for key, value in tool.items() if key != "type"}
                found["tools"].append({"providerTool": {"type": tool["type"], "configJson": json.dumps(config)}} | hint)
        if (choice := body.pop("tool_choice", None)) is not None:
            if choice.get("disable_parallel_tool_use") is not None:
                found["parallelToolCalls"] = not choice["disable_parallel_tool_use"]
            found["toolChoice"] = choice_of(choice)
        names = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "max_tokens": "maxOutputTokens"}
        found |= sampling(body, names, "stop_sequences")
        match body.get("thinking"), body.get("output_config"):
            case {"type": "enabled", "budget_tokens": budget, **rest}, _ if not rest:
                found["reasoning"] = {"budgetTokens": budget}
                del body["thinking"]
            case {"type": "disabled"}, _:
                found["reasoning"] = effort_of("none")
                del body["thinking"]
            case {"type": "adaptive", **rest}, {"effort": effort} if not rest and effort in EFFORTS:
                found["reasoning"] = effort_of(effort)
                del body["thinking"], body["output_config"]["effort"]
        match body.get("output_config"):
            case {"format": {"type": "json_schema", "schema": schema}}:
                found["responseFormat"] = {"jsonSchema": {"jsonSchema": schema_text(schema)}}
                del body["output_config"]["format"]
        if body.get("output_config") == {}:
            del body["output_config"]
        if set(body.get("metadata") or ()) == {"user_id"}:
            found["endUserId"] = body.pop("metadata")["user_id"]
        return found

    return read
