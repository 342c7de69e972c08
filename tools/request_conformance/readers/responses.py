"""Responses."""

from __future__ import annotations

import json
from typing import Any

from contract import Json, assistant, image, media, schema_text, state, system, text, tool_call, tool_results, user

from readers.common import Unreadable, choice_of, effort_of, function_of, sampling, take

__all__ = ["read"]


def _responses_content(content: Any) -> list[Json]:
    if isinstance(content, str):
        return [text(content)]
    parts = []
    for part in content:
        match part:
            case {"type": "input_text" | "output_text", "text": value}:
                parts.append(text(value))
            case {"type": "refusal", "refusal": value}:
                parts.append({"refusal": {"text": value}})
            case {"type": "input_image", "image_url": url}:
                parts.append(image(media(None, None, url), part.get("detail")))
            case {"type": "input_file", "file_data": data}:
                parts.append({"file": {"source": media(None, None, data), "filename": part.get("filename", "")}})
            case {"type": "input_file", "file_url": url}:
                parts.append({"file": {"source": media(None, None, url)}})
            case _:
                raise Unreadable(f"content part {part.get('type')}")
    return parts


def read(body: Json, provider: str) -> Json:
    """Read a body; see `READERS`."""
    found: Json = {"messages": []}
    messages: list[Json] = found["messages"]
    said = body.pop("input")

    def speak(part: Json) -> None:
        if messages and messages[-1]["role"] == "ROLE_ASSISTANT":
            messages[-1]["parts"].append(part)
        else:
            messages.append(assistant(part))

    for item in [{"role": "user", "content": said}] if isinstance(said, str) else said:
        match item:
            case {"type": "function_call_output", "call_id": call_id, "output": output}:
                messages.append(
                    tool_results({"toolCallId": call_id, "parts": _responses_content(output) if output else []})
                )
            case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
                speak(tool_call(call_id, name, arguments))
            case {"type": "reasoning"}:
                shown = "".join(part["text"] for part in item.get("summary") or ())
                speak({"reasoning": {"text": shown}, "providerState": state(provider, "openai-responses", item)})
            case {"role": "user", "content": content}:
                messages.append(user(*_responses_content(content)))
            case {"role": "system" | "developer", "content": content}:
                messages.append(system(*_responses_content(content)))
            case {"role": "assistant", "content": content}:
                for part in _responses_content(content):
                    speak(part)
            case {"type": str(kind)}:
                speak({"opaque": {"type": kind}, "providerState": state(provider, "openai-responses", item)})
    if body.get("instructions"):
        found["system"] = [text(body.pop("instructions"))]
    found["tools"] = []
    for tool in body.pop("tools", None) or ():
        if tool["type"] == "function":
            found["tools"].append(function_of(tool))
        else:
            config = {key: value for key, value in tool.items() if key != "type"}
            found["tools"].append({"providerTool": {"type": tool["type"], "configJson": json.dumps(config)}})
    if body.get("tool_choice") is not None:
        found["toolChoice"] = choice_of(body.pop("tool_choice"))
    if body.get("parallel_tool_calls") is not None:
        found["parallelToolCalls"] = body.pop("parallel_tool_calls")
    found |= sampling(body, {"temperature": "temperature", "top_p": "topP", "max_output_tokens": "maxOutputTokens"})
    match body.get("text"):
        case {"format": {"type": "json_schema", "name": name, "schema": schema, **rest}, **more} if not more:
            form = {"name": name, "jsonSchema": schema_text(schema)}
            form |= {key: rest[key] for key in ("strict", "description") if rest.get(key) is not None}
            found["responseFormat"] = {"jsonSchema": form}
            del body["text"]
        case {"format": {"type": "json_object"}, **more} if not more:
            found["responseFormat"] = {"json": {}}
            del body["text"]
        case {"format": {"type": "text"}, **more} if not more:
            del body["text"]
    match body.get("reasoning"):
        case {**rest} if rest.keys() <= {"effort", "summary"} and rest.get("summary") in (None, "auto"):
            found["reasoning"] = (effort_of(rest["effort"]) if rest.get("effort") else {}) | (
                {"includeText": True} if rest.get("summary") else {}
            )
            del body["reasoning"]
    found |= take(body, {"user": "endUserId", "safety_identifier": "endUserId"})
    return found
