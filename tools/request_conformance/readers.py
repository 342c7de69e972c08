"""Recorded bodies as requests of the contract; what is left of a body afterwards is what the contract cannot say.

Each reader takes a copy of a body, removes what it understood, and returns the fields of a `GenerateRequest` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from contract import Json, assistant, image, media, schema_text, state, system, text, tool_call, tool_results, user

__all__ = ["READERS", "Unreadable"]


class Unreadable(Exception):
    """The body is not one that the contract is for: no conversation, or parts that it has no word for."""


_EFFORTS = {
    "none": "NONE",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "MAX",
    "max": "MAX",
}


def _effort(value: str) -> Json:
    return {"effort": f"REASONING_EFFORT_{_EFFORTS[value]}"}


def _take(body: Json, names: dict[str, str]) -> Json:
    """Move fields of the body into fields of the contract."""
    return {new: body.pop(old) for old, new in names.items() if body.get(old) is not None}


def _sampling(body: Json, names: dict[str, str], stop: str = "") -> Json:
    found = _take(body, names)
    if stop and body.get(stop) is not None:
        value = body.pop(stop)
        found["stopSequences"] = [value] if isinstance(value, str) else value
    return {"sampling": found} if found else {}


_CHAT_SAMPLING = {
    "temperature": "temperature", "top_p": "topP", "top_k": "topK", "min_p": "minP", "seed": "seed",
    "random_seed": "seed", "presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty",
    "max_tokens": "maxOutputTokens", "max_completion_tokens": "maxOutputTokens",
}  # fmt: skip


def _function(tool: Json) -> Json:
    """Read a function of chat completions, or of Responses, where the fields are one level higher."""
    function = tool.get("function", tool)
    found: Json = {"name": function["name"]}
    if function.get("description"):
        found["description"] = function["description"]
    schema = function.get("parameters")
    if schema:
        found["parametersJsonSchema"] = schema_text(schema)
    if function.get("strict") is not None:
        found["strict"] = function["strict"]
    return {"function": found}


def _choice(choice: Any) -> Json:
    match choice:
        case "any":
            return {"required": {}}
        case str():
            return {choice: {}}
        case (
            {"type": "function", "function": {"name": name}}
            | {"type": "function", "name": name}
            | {"type": "tool", "name": name}
        ):
            return {"function": {"name": name}}
        case {"type": "any" | "required"}:
            return {"required": {}}
        case {"type": str(kind)} if kind in ("auto", "none"):
            return {kind: {}}
        case _:
            raise Unreadable(f"tool choice {choice}")


def _chat_content(content: Any) -> list[Json]:
    if content is None:
        return []
    if isinstance(content, str):
        return [text(content)]
    parts = []
    for part in content:
        match part:
            case {"type": "text", "text": value}:
                hint = part.get("cache_control")
                parts.append(text(value) | ({"cacheHint": _hint(hint)} if hint else {}))
            case {"type": "image_url", "image_url": {"url": url, **rest}}:
                parts.append(image(media(None, None, url), rest.get("detail")))
            case {"type": "image_url", "image_url": str(url)}:
                parts.append(image(media(None, None, url)))
            case {"type": "input_audio", "input_audio": {"data": data, "format": form}}:
                kind = {"wav": "audio/wav", "mp3": "audio/mpeg"}[form]
                parts.append({"audio": {"source": media(data, kind)}})
            case {"type": "file", "file": {"file_data": data, **rest}}:
                parts.append({"file": {"source": media(None, None, data), "filename": rest.get("filename", "")}})
            case _:
                raise Unreadable(f"content part {part.get('type')}")
    return parts


def _hint(control: Json) -> Json:
    ttl = control.get("ttl")
    return {"retention": {"5m": "CACHE_RETENTION_SHORT", "1h": "CACHE_RETENTION_LONG"}[ttl]} if ttl else {}


def _chat(body: Json, provider: str) -> Json:
    found: Json = {"messages": []}
    for message in body.pop("messages"):
        match message["role"]:
            case "system" | "developer":
                found["messages"].append(system(*_chat_content(message["content"])))
            case "user":
                found["messages"].append(user(*_chat_content(message["content"])))
            case "tool":
                result = {"toolCallId": message["tool_call_id"], "parts": _chat_content(message["content"])}
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
                parts += _chat_content(content) if content else []
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
    found["tools"] = [_function(tool) for tool in body.pop("tools", None) or () if tool.get("type") == "function"]
    if body.get("tool_choice") is not None:
        found["toolChoice"] = _choice(body.pop("tool_choice"))
    if body.get("parallel_tool_calls") is not None:
        found["parallelToolCalls"] = body.pop("parallel_tool_calls")
    found |= _sampling(body, _CHAT_SAMPLING, "stop")
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
    if body.get("reasoning_effort") in _EFFORTS:
        found["reasoning"] = _effort(body.pop("reasoning_effort"))
    match body.get("reasoning"):
        case {"effort": effort, **rest} if not rest:
            found["reasoning"] = _effort(effort)
            del body["reasoning"]
        case {"max_tokens": budget, **rest} if not rest:
            found["reasoning"] = {"budgetTokens": budget}
            del body["reasoning"]
    match body.get("thinking"):
        case {"type": "disabled", **rest} if not rest:
            found["reasoning"] = _effort("none")
            del body["thinking"]
    if body.get("logprobs") is True:
        found["logprobs"] = {"top": body.pop("top_logprobs", 0)}
        del body["logprobs"]
    found |= _take(body, {"user": "endUserId", "safety_identifier": "endUserId"})
    if body.get("n") == 1:
        del body["n"]
    return found


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


def _responses(body: Json, provider: str) -> Json:
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
            found["tools"].append(_function(tool))
        else:
            config = {key: value for key, value in tool.items() if key != "type"}
            found["tools"].append({"providerTool": {"type": tool["type"], "configJson": json.dumps(config)}})
    if body.get("tool_choice") is not None:
        found["toolChoice"] = _choice(body.pop("tool_choice"))
    if body.get("parallel_tool_calls") is not None:
        found["parallelToolCalls"] = body.pop("parallel_tool_calls")
    found |= _sampling(body, {"temperature": "temperature", "top_p": "topP", "max_output_tokens": "maxOutputTokens"})
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
            found["reasoning"] = (_effort(rest["effort"]) if rest.get("effort") else {}) | (
                {"includeText": True} if rest.get("summary") else {}
            )
            del body["reasoning"]
    found |= _take(body, {"user": "endUserId", "safety_identifier": "endUserId"})
    return found


def _messages_parts(content: Any, provider: str, dialect: str) -> tuple[list[Json], list[Json]]:
    """Return parts, and results of tools, which are of another turn."""
    if isinstance(content, str):
        return [text(content)], []
    parts: list[Json] = []
    results: list[Json] = []
    for block in content:
        hint = {"cacheHint": _hint(block["cache_control"])} if block.get("cache_control") else {}
        match block:
            case {"type": "text", "text": value}:
                kept = {"citations": block["citations"]} if block.get("citations") else None
                parts.append(text(value) | hint | ({"providerState": state(provider, dialect, kept)} if kept else {}))
            case {"type": "image", "source": source}:
                parts.append(image(media(source.get("data"), source.get("media_type"), source.get("url"))) | hint)
            case {"type": "document", "source": {"type": "text", "data": data}}:
                import base64  # noqa: PLC0415 - here alone

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


def _messages(dialect: str) -> Callable[[Json, str], Json]:
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
            hint = {"cacheHint": _hint(tool.pop("cache_control"))} if tool.get("cache_control") else {}
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
            found["toolChoice"] = _choice(choice)
        names = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "max_tokens": "maxOutputTokens"}
        found |= _sampling(body, names, "stop_sequences")
        match body.get("thinking"), body.get("output_config"):
            case {"type": "enabled", "budget_tokens": budget, **rest}, _ if not rest:
                found["reasoning"] = {"budgetTokens": budget}
                del body["thinking"]
            case {"type": "disabled"}, _:
                found["reasoning"] = _effort("none")
                del body["thinking"]
            case {"type": "adaptive", **rest}, {"effort": effort} if not rest and effort in _EFFORTS:
                found["reasoning"] = _effort(effort)
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
    "mime_type": "mimeType", "file_data": "fileData", "file_uri": "fileUri", "function_declarations": "functionDeclarations",
    "parameters_json_schema": "parametersJsonSchema",
}  # fmt: skip


def _gemini(body: Json, provider: str) -> Json:
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
    found |= _sampling(config, names, "stopSequences")
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
            reasoning |= _effort(thinking["thinkingLevel"].lower())
        elif thinking.get("thinkingBudget") == 0:
            reasoning |= _effort("none")
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


def _converse_parts(content: list[Json], provider: str) -> tuple[list[Json], list[Json]]:
    parts: list[Json] = []
    results: list[Json] = []
    for block in content:
        match block:
            case {"text": value}:
                parts.append(text(value))
            case {"cachePoint": point}:
                parts[-1]["cacheHint"] = _hint(point)
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


def _converse(body: Json, provider: str) -> Json:
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
    found |= _sampling(inference, names, "stopSequences")
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
            found["reasoning"] = _effort(effort)
            del additional["reasoningConfig"]
    if set(additional.get("inferenceConfig") or ()) == {"topK"}:
        found.setdefault("sampling", {})["topK"] = additional.pop("inferenceConfig")["topK"]
    if not additional:
        body.pop("additionalModelRequestFields", None)
    return found


def _cohere(body: Json, provider: str) -> Json:
    found: Json = {"messages": []}
    for message in body.pop("messages"):
        match message["role"]:
            case "system":
                found["messages"].append(system(*_chat_content(message["content"])))
            case "user":
                found["messages"].append(user(*_chat_content(message["content"])))
            case "tool":
                content = message["content"]
                if isinstance(content, list) and any(part.get("type") == "document" for part in content):
                    raise Unreadable("documents as results")
                found["messages"].append(
                    tool_results({"toolCallId": message["tool_call_id"], "parts": _chat_content(content)})
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
                for call in message.get("tool_calls") or ():
                    parts.append(tool_call(call["id"], call["function"]["name"], call["function"]["arguments"]))
                found["messages"].append(assistant(*parts))
    found["tools"] = [_function(tool) for tool in body.pop("tools", None) or ()]
    if body.get("tool_choice"):
        found["toolChoice"] = _choice(body.pop("tool_choice").lower())
    names = {
        "temperature": "temperature",
        "p": "topP",
        "k": "topK",
        "seed": "seed",
        "max_tokens": "maxOutputTokens",
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
    }
    found |= _sampling(body, names, "stop_sequences")
    match body.get("response_format"):
        case {"type": "json_object", "json_schema": schema} | {"type": "json_object", "schema": schema}:
            found["responseFormat"] = {"jsonSchema": {"jsonSchema": schema_text(schema)}}
            del body["response_format"]
        case {"type": "json_object"}:
            found["responseFormat"] = {"json": {}}
            del body["response_format"]
    match body.get("thinking"):
        case {"type": "disabled"}:
            found["reasoning"] = _effort("none")
            del body["thinking"]
        case {"type": "enabled", "token_budget": budget}:
            found["reasoning"] = {"budgetTokens": budget}
            del body["thinking"]
    return found


def _listed(content: Any) -> list[Json]:
    if not content:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _ollama(body: Json, provider: str) -> Json:
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
    found["tools"] = [_function(tool) for tool in body.pop("tools", None) or ()]
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
    found |= _sampling(body.get("options") or {}, names, "stop")
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
            found["reasoning"] = _effort("none")
        case str(level):
            found["reasoning"] = _effort(level)
    return found


READERS: dict[str, Callable[[Json, str], Json]] = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "anthropic-messages": _messages("anthropic-messages"),
    "vertex-rawpredict": _messages("vertex-rawpredict"),
    "bedrock-invoke": _messages("bedrock-invoke"),
    "gemini": _gemini,
    "bedrock-converse": _converse,
    "cohere-v2": _cohere,
    "ollama": _ollama,
}
"""A reader for each dialect."""
