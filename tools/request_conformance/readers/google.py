"""Google's generateContent."""

from __future__ import annotations

import json
from typing import Any

from contract import Json, assistant, media, schema_text, state, text, tool_call, tool_results, user

from readers.common import Unreadable, effort_of, sampling

__all__ = ["read"]


def _camel(part: Any) -> Any:
    """Return a part with the spelling that Google's JSON prefers; both are accepted."""
    if isinstance(part, dict):
        return {
            _CAMEL.get(key, key): _camel(value) if key not in ("args", "response") else value
            for key, value in part.items()
        }
    return [_camel(inner) for inner in part] if isinstance(part, list) else part


_CAMEL = {
    "function_call": "functionCall", "function_response": "functionResponse", "inline_data": "inlineData",
    "mime_type": "mimeType", "file_data": "fileData", "file_uri": "fileUri",
    "function_declarations": "functionDeclarations",
    "parameters_json_schema": "parametersJsonSchema",
}  # fmt: skip


def read(body: Json, provider: str) -> Json:
    """Read a body; see `READERS`."""
    found: Json = {"messages": []}
    ids: dict[str, str] = {}
    for number, content in enumerate(_camel(body.pop("contents"))):
        parts: list[Json] = []
        results: list[Json] = []
        for place, part in enumerate(content["parts"]):
            signature = {"thoughtSignature": part["thoughtSignature"]} if part.get("thoughtSignature") else {}
            kept = {"providerState": state(provider, "gemini", signature)} if signature else {}
            match part:
                case {"thought": True, "text": value}:
                    parts.append({"reasoning": {"text": value}} | kept)
                case {"text": value}:
                    parts.append(text(value) | kept)
                case {"inlineData": {"mimeType": kind, "data": data, **rest}}:
                    parts.append(_google_media(kind, media(data, kind), rest.get("displayName", "")))
                case {"fileData": {"fileUri": url, **rest}}:
                    parts.append(_google_media(rest.get("mimeType") or "", media(None, rest.get("mimeType"), url)))
                case {"functionCall": call}:
                    call_id = call.get("id") or f"call-{number}-{place}"
                    ids[call["name"]] = call_id
                    own = ({"id": call["id"]} if call.get("id") else {}) | signature
                    made = tool_call(call_id, call["name"], call.get("args") or {})
                    parts.append(made | {"providerState": state(provider, "gemini", own)})
                case {"functionResponse": response}:
                    call_id = response.get("id") or ids.get(response["name"])
                    if call_id is None:
                        raise Unreadable("a result without a call")
                    results.append(_google_result(call_id, response))
                case _:
                    parts.append({"opaque": {}, "providerState": state(provider, "gemini", part)})
        if results:
            found["messages"].append(tool_results(*results))
        if parts:
            found["messages"].append((assistant if content.get("role") == "model" else user)(*parts))
    if (instruction := body.pop("systemInstruction", None)) is not None:
        found["system"] = [text(part["text"]) for part in instruction["parts"]]
    found["tools"] = []
    for tool in _camel(body.pop("tools", None) or []):
        for name, value in tool.items():
            if name == "functionDeclarations":
                for function in value:
                    schema = function.get("parametersJsonSchema") or function.get("parameters")
                    one: Json = {"name": function["name"]} | (
                        {"description": function["description"]} if function.get("description") else {}
                    )
                    found["tools"].append(
                        {"function": one | ({"parametersJsonSchema": schema_text(schema)} if schema else {})}
                    )
            else:
                found["tools"].append({"providerTool": {"type": name, "configJson": json.dumps(value)}})
    match body.get("toolConfig"):
        case {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}:
            found["toolChoice"] = {"function": {"name": name}}
            del body["toolConfig"]
        case {"functionCallingConfig": {"mode": mode, **rest}} if not rest.get("allowedFunctionNames"):
            found["toolChoice"] = {{"AUTO": "auto", "ANY": "required", "NONE": "none"}[mode.upper()]: {}}
            del body["toolConfig"]
    config = body.get("generationConfig") or {}
    names = {
        "temperature": "temperature",
        "topP": "topP",
        "topK": "topK",
        "seed": "seed",
        "maxOutputTokens": "maxOutputTokens",
        "presencePenalty": "presencePenalty",
        "frequencyPenalty": "frequencyPenalty",
    }
    found |= sampling(config, names, "stopSequences")
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if config.get("responseMimeType") == "application/json":
        found["responseFormat"] = {"jsonSchema": {"jsonSchema": schema_text(schema)}} if schema else {"json": {}}
        for name in ("responseMimeType", "responseJsonSchema", "responseSchema"):
            config.pop(name, None)
    thinking = config.get("thinkingConfig")
    if (
        thinking is not None
        and thinking.keys() <= {"includeThoughts", "thinkingBudget", "thinkingLevel"}
        and thinking.get("thinkingBudget") != -1
    ):
        reasoning: Json = {"includeText": True} if thinking.get("includeThoughts") else {}
        if thinking.get("thinkingLevel"):
            reasoning |= effort_of(thinking["thinkingLevel"].lower())
        elif thinking.get("thinkingBudget") == 0:
            reasoning |= effort_of("none")
        elif thinking.get("thinkingBudget"):
            reasoning["budgetTokens"] = thinking["thinkingBudget"]
        found["reasoning"] = reasoning
        del config["thinkingConfig"]
    if config == {}:
        body.pop("generationConfig", None)
    return found


def _google_media(kind: str, source: Json, name: str = "") -> Json:
    family = kind.partition("/")[0]
    if family in ("image", "audio"):
        return {family: {"source": source}}
    return {"file": {"source": source} | ({"filename": name} if name else {})}


def _google_result(call_id: str, response: Json) -> Json:
    value = response["response"]
    key, said = next(iter(value.items())) if len(value) == 1 else ("output", value)
    shown = said if isinstance(said, str) else json.dumps(said)
    return {"toolCallId": call_id, "parts": [text(shown)]} | ({"isError": True} if key == "error" else {})
