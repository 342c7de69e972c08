"""Chat completions."""

from __future__ import annotations

from contract import Json, assistant, schema_text, state, system, text, tool_call, tool_results, user

from readers.common import EFFORTS, Unreadable, chat_parts, choice_of, effort_of, function_of, sampling, take

__all__ = ["read"]


_CHAT_SAMPLING = {
    "temperature": "temperature", "top_p": "topP", "top_k": "topK", "min_p": "minP", "seed": "seed",
    "random_seed": "seed", "presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty",
    "max_tokens": "maxOutputTokens", "max_completion_tokens": "maxOutputTokens",
}  # fmt: skip


def read(body: Json, provider: str) -> Json:
    """Read a body; see `READERS`."""
    found: Json = {"messages": []}
    for message in body.pop("messages"):
        match message["role"]:
            case "system" | "developer":
                found["messages"].append(system(*chat_parts(message["content"])))
            case "user":
                found["messages"].append(user(*chat_parts(message["content"])))
            case "tool":
                result = {"toolCallId": message["tool_call_id"], "parts": chat_parts(message["content"])}
                found["messages"].append(tool_results(result))
            case "assistant":
                parts = []
                reasoning = message.get("reasoning_content") or message.get("reasoning")
                details = message.get("reasoning_details")
                if reasoning or details:
                    part: Json = {"reasoning": {"text": reasoning or ""}}
                    if details:
                        part["providerState"] = state(provider, "openai-chat", details)
                    parts.append(part)
                content = message.get("content")
                parts += chat_parts(content) if content else []
                if message.get("refusal"):
                    parts.append({"refusal": {"text": message["refusal"]}})
                for call in message.get("tool_calls") or ():
                    function = call.get("function") or {}
                    parts.append(tool_call(call["id"], function.get("name", ""), function.get("arguments", "")))
                found["messages"].append(assistant(*(parts or [text("")])))
            case role:
                raise Unreadable(f"role {role}")
        if message.get("name"):
            found["messages"][-1]["name"] = message["name"]
    found["tools"] = [function_of(tool) for tool in body.pop("tools", None) or () if tool.get("type") == "function"]
    if body.get("tool_choice") is not None:
        found["toolChoice"] = choice_of(body.pop("tool_choice"))
    if body.get("parallel_tool_calls") is not None:
        found["parallelToolCalls"] = body.pop("parallel_tool_calls")
    found |= sampling(body, _CHAT_SAMPLING, "stop")
    match body.get("response_format"):
        case {"type": "json_object"}:
            found["responseFormat"] = {"json": {}}
            del body["response_format"]
        case {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **rest}}:
            form = {"name": name, "jsonSchema": schema_text(schema)}
            form |= {key: rest[key] for key in ("strict", "description") if rest.get(key) is not None}
            found["responseFormat"] = {"jsonSchema": form}
            del body["response_format"]
        case {"type": "text"}:
            del body["response_format"]
    if body.get("reasoning_effort") in EFFORTS:
        found["reasoning"] = effort_of(body.pop("reasoning_effort"))
    match body.get("reasoning"):
        case {"effort": effort, **rest} if not rest:
            found["reasoning"] = effort_of(effort)
            del body["reasoning"]
        case {"max_tokens": budget, **rest} if not rest:
            found["reasoning"] = {"budgetTokens": budget}
            del body["reasoning"]
    match body.get("thinking"):
        case {"type": "disabled" | "enabled" as switch, **rest} if not rest:
            found["reasoning"] = effort_of("high" if switch == "enabled" else "none")
            del body["thinking"]
    if body.get("logprobs") is True:
        found["logprobs"] = {"top": body.pop("top_logprobs", 0)}
        del body["logprobs"]
    found |= take(body, {"user": "endUserId", "safety_identifier": "endUserId"})
    if body.get("n") == 1:
        del body["n"]
    return found
