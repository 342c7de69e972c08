"""Cohere's chat."""

from __future__ import annotations

from typing import Any

from contract import Json, assistant, schema_text, state, system, text, tool_call, tool_results, user

from readers.common import Unreadable, chat_parts, choice_of, effort_of, function_of, sampling

__all__ = ["read"]


def read(body: Json, provider: str) -> Json:
    """Read a body; see `READERS`."""
    found: Json = {"messages": []}
    for message in body.pop("messages"):
        match message["role"]:
            case "system":
                found["messages"].append(system(*chat_parts(message["content"])))
            case "user":
                found["messages"].append(user(*chat_parts(message["content"])))
            case "tool":
                content = message["content"]
                if isinstance(content, list) and any(part.get("type") == "document" for part in content):
                    raise Unreadable("documents as results")
                found["messages"].append(
                    tool_results({"toolCallId": message["tool_call_id"], "parts": chat_parts(content)})
                )
            case _:
                parts = []
                if message.get("tool_plan"):
                    kept = state(provider, "cohere-v2", {"carrier": "tool_plan"})
                    parts.append({"reasoning": {"text": message["tool_plan"]}, "providerState": kept})
                for part in _listed(message.get("content")):
                    if part["type"] == "thinking":
                        kept = state(provider, "cohere-v2", {"carrier": "thinking"})
                        parts.append({"reasoning": {"text": part["thinking"]}, "providerState": kept})
                    else:
                        parts.append(text(part["text"]))
                parts += [
                    tool_call(call["id"], call["function"]["name"], call["function"]["arguments"])
                    for call in message.get("tool_calls") or ()
                ]
                found["messages"].append(assistant(*parts))
    found["tools"] = [function_of(tool) for tool in body.pop("tools", None) or ()]
    if body.get("tool_choice"):
        found["toolChoice"] = choice_of(body.pop("tool_choice").lower())
    names = {
        "temperature": "temperature",
        "p": "topP",
        "k": "topK",
        "seed": "seed",
        "max_tokens": "maxOutputTokens",
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
    }
    found |= sampling(body, names, "stop_sequences")
    match body.get("response_format"):
        case {"type": "json_object", "json_schema": schema} | {"type": "json_object", "schema": schema}:
            found["responseFormat"] = {"jsonSchema": {"jsonSchema": schema_text(schema)}}
            del body["response_format"]
        case {"type": "json_object"}:
            found["responseFormat"] = {"json": {}}
            del body["response_format"]
    match body.get("thinking"):
        case {"type": "disabled"}:
            found["reasoning"] = effort_of("none")
            del body["thinking"]
        case {"type": "enabled", "token_budget": budget}:
            found["reasoning"] = {"budgetTokens": budget}
            del body["thinking"]
    return found


def _listed(content: Any) -> list[Json]:
    if not content:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
