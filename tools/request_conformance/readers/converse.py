"""Bedrock's Converse."""

from __future__ import annotations

import json

from contract import Json, assistant, image, media, schema_text, state, text, tool_call, tool_results, user

from readers.common import Unreadable, effort_of, hint_of, sampling

__all__ = ["read"]


def _converse_parts(content: list[Json], provider: str) -> tuple[list[Json], list[Json]]:
    parts: list[Json] = []
    results: list[Json] = []
    for block in content:
        match block:
            case {"text": value}:
                parts.append(text(value))
            case {"cachePoint": point}:
                parts[-1]["cacheHint"] = hint_of(point)
            case {"image": {"format": form, "source": {"bytes": data}}}:
                parts.append(image(media(data, f"image/{form}")))
            case {"document": {"format": form, "name": name, "source": {"bytes": data}, **rest}} if not rest:
                kind = {
                    "pdf": "application/pdf",
                    "txt": "text/plain",
                    "md": "text/markdown",
                    "csv": "text/csv",
                    "html": "text/html",
                }[form]
                parts.append({"file": {"source": media(data, kind), "filename": name}})
            case {"toolUse": {"toolUseId": call_id, "name": name, "input": given}}:
                parts.append(tool_call(call_id, name, given))
            case {"toolResult": {"toolUseId": call_id, "content": inner, **rest}}:
                said = [
                    text(json.dumps(part["json"])) if "json" in part else _converse_parts([part], provider)[0][0]
                    for part in inner
                ]
                results.append(
                    {"toolCallId": call_id, "parts": said}
                    | ({"isError": True} if rest.get("status") == "error" else {})
                )
            case {"reasoningContent": {"reasoningText": {"text": value, "signature": signature}}}:
                kept = state(provider, "bedrock-converse", {"signature": signature})
                parts.append({"reasoning": {"text": value}, "providerState": kept})
            case _:
                raise Unreadable(f"block {sorted(block)}")
    return parts, results


def read(body: Json, provider: str) -> Json:
    """Read a body; see `READERS`."""
    found: Json = {"messages": []}
    for turn in body.pop("messages"):
        parts, results = _converse_parts(turn["content"], provider)
        if results:
            found["messages"].append(tool_results(*results))
        if parts:
            found["messages"].append((assistant if turn["role"] == "assistant" else user)(*parts))
    if body.get("system"):
        found["system"], _ = _converse_parts(body.pop("system"), provider)
    config = body.pop("toolConfig", None) or {}
    found["tools"] = []
    for tool in config.get("tools", ()):
        match tool:
            case {"toolSpec": {"name": name, "inputSchema": {"json": schema}, **rest}}:
                function = {"name": name, "parametersJsonSchema": schema_text(schema)} | rest
                found["tools"].append({"function": function})
            case {"systemTool": {"name": name}}:
                found["tools"].append({"providerTool": {"type": name}})
            case _:
                raise Unreadable(f"tool {sorted(tool)}")
    match config.get("toolChoice"):
        case {"tool": {"name": name}}:
            found["toolChoice"] = {"function": {"name": name}}
        case {"any": _}:
            found["toolChoice"] = {"required": {}}
        case {"auto": _}:
            found["toolChoice"] = {"auto": {}}
    names = {"temperature": "temperature", "topP": "topP", "maxTokens": "maxOutputTokens"}
    inference = body.pop("inferenceConfig", None) or {}
    found |= sampling(inference, names, "stopSequences")
    match body.get("outputConfig"):
        case {"textFormat": {"structure": {"jsonSchema": {"schema": schema, **rest}}}}:
            found["responseFormat"] = {"jsonSchema": {"jsonSchema": schema} | rest}
            del body["outputConfig"]
    additional = body.get("additionalModelRequestFields") or {}
    match additional.get("thinking"):
        case {"type": "enabled", "budget_tokens": budget}:
            found["reasoning"] = {"budgetTokens": budget}
            del additional["thinking"]
    match additional.get("reasoningConfig"):
        case {"type": "enabled", "maxReasoningEffort": effort}:
            found["reasoning"] = effort_of(effort)
            del additional["reasoningConfig"]
    if set(additional.get("inferenceConfig") or ()) == {"topK"}:
        found.setdefault("sampling", {})["topK"] = additional.pop("inferenceConfig")["topK"]
    if not additional:
        body.pop("additionalModelRequestFields", None)
    return found
