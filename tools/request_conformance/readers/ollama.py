"""Ollama's chat."""

from __future__ import annotations

from contract import Json, assistant, image, media, schema_text, system, text, tool_call, tool_results, user

from readers.common import Unreadable, effort_of, function_of, sampling

__all__ = ["read"]


def read(body: Json, provider: str) -> Json:
    """Read a body; see `READERS`."""
    found: Json = {"messages": []}
    if "messages" not in body:
        raise Unreadable("no conversation")
    calls: dict[str, str] = {}
    for message in body.pop("messages"):
        content = [text(message["content"])] if message.get("content") else []
        match message["role"]:
            case "system":
                found["messages"].append(system(*content))
            case "user":
                pictures = [image(media(data, "image/png")) for data in message.get("images") or ()]
                found["messages"].append(user(*content, *pictures))
            case "tool":
                name = message.get("tool_name") or next(reversed(calls), "")
                found["messages"].append(tool_results({"toolCallId": calls.get(name, "call"), "parts": content}))
            case _:
                thoughts = [{"reasoning": {"text": message["thinking"]}}] if message.get("thinking") else []
                made = []
                for number, call in enumerate(message.get("tool_calls") or ()):
                    call_id = call.get("id") or f"call_{number}"
                    calls[call["function"]["name"]] = call_id
                    made.append(tool_call(call_id, call["function"]["name"], call["function"]["arguments"]))
                found["messages"].append(assistant(*thoughts, *content, *made))
    found["tools"] = [function_of(tool) for tool in body.pop("tools", None) or ()]
    names = {
        "temperature": "temperature",
        "top_p": "topP",
        "top_k": "topK",
        "min_p": "minP",
        "seed": "seed",
        "num_predict": "maxOutputTokens",
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
    }
    found |= sampling(body.get("options") or {}, names, "stop")
    if body.get("options") == {}:
        del body["options"]
    match body.get("format"):
        case "json":
            found["responseFormat"] = {"json": {}}
            del body["format"]
        case dict() as schema:
            found["responseFormat"] = {"jsonSchema": {"jsonSchema": schema_text(schema)}}
            del body["format"]
    match body.pop("think", None):
        case True:
            found["reasoning"] = {"includeText": True}
        case False:
            found["reasoning"] = effort_of("none")
        case str(level):
            found["reasoning"] = effort_of(level)
    return found
