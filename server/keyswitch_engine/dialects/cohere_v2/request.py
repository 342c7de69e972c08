"""Requests of Cohere's chat."""

from __future__ import annotations

from typing import Any

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.writing import (
    encode_body,
    joined_text,
    media_url,
    own_state,
    raw_json,
    raw_object,
    unsupported,
)
from keyswitch_engine.generation import (
    FunctionTool,
    Generation,
    ImagePart,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    OpaquePart,
    Part,
    ProviderTool,
    Reasoning,
    ReasoningEffort,
    ReasoningPart,
    RefusalPart,
    ResponseFormat,
    Role,
    Sampling,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

__all__ = ["write_body"]


def write_body(generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool) -> bytes:
    """Write the request body; see `Dialect.request`."""
    body: dict[str, Any] = {"model": model, "messages": _messages(generation, profile.provider)}
    if stream:
        body["stream"] = True
    if generation.tools:
        _write_tools(body, generation)
    if generation.response_format is not None:
        body["response_format"] = _format(generation.response_format)
    _write_sampling(body, generation.sampling)
    if generation.reasoning is not None and (thinking := _thinking(generation.reasoning)):
        body["thinking"] = thinking
    if generation.top_logprobs is not None:
        if generation.top_logprobs:
            raise unsupported("logprobs.top", "only the token itself, so 0")
        body["logprobs"] = True
    if generation.end_user_id:
        raise unsupported("end_user_id")
    return encode_body(body, options_json)


def _messages(generation: Generation, provider: str) -> list[dict[str, Any]]:
    """Write the conversation."""
    written: list[dict[str, Any]] = []
    if generation.system:
        written.append({"role": "system", "content": joined_text(generation.system, "system")})
    for number, message in enumerate(generation.messages):
        field = f"messages[{number}]"
        if message.name:
            raise unsupported(f"{field}.name")
        match message.role:
            case Role.SYSTEM:
                written.append({"role": "system", "content": joined_text(message.parts, f"{field}.parts")})
            case Role.USER:
                written.append({"role": "user", "content": _content(message.parts, f"{field}.parts")})
            case Role.ASSISTANT:
                if (said := _assistant(message, provider, field)) is not None:
                    written.append(said)
            case Role.TOOL:
                written += [_result(part, f"{field}.parts[{n}]") for n, part in enumerate(message.parts)]
    return written


def _content(parts: tuple[Part, ...], field: str) -> str | list[dict[str, Any]]:
    """Write content: a plain string where it is one text."""
    written: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        path = f"{field}[{number}]"
        if part.cache_hint is not None:
            raise unsupported(f"{path}.cache_hint")
        match part.content:
            case TextPart(text=text):
                written.append({"type": "text", "text": text})
            case ImagePart(source=source, detail=detail):
                image = {"url": media_url(source)} | ({"detail": detail} if detail else {})
                written.append({"type": "image_url", "image_url": image})
            case _:
                raise unsupported(path, "only text and images go here")
    if len(written) == 1 and written[0]["type"] == "text":
        return str(written[0]["text"])
    return written


def _result(part: Part, field: str) -> dict[str, Any]:
    """Write a tool's result. The dialect has no mark for a failed tool, so its text says so."""
    if not isinstance(part.content, ToolResultPart):
        raise unsupported(field, "only tool results go here")
    if part.cache_hint is not None:
        raise unsupported(f"{field}.cache_hint")
    result = part.content
    text = joined_text(result.parts, f"{field}.tool_result.parts")
    content = f"Error: {text}" if result.is_error else text
    return {"role": "tool", "tool_call_id": result.tool_call_id, "content": content}


def _assistant(message: Message, provider: str, field: str) -> dict[str, Any] | None:
    """Write what the model said earlier; None if nothing is left of it here."""
    content: list[dict[str, Any]] = []
    plan: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, part in enumerate(message.parts):
        path = f"{field}.parts[{number}]"
        if part.cache_hint is not None:
            raise unsupported(f"{path}.cache_hint")
        state = own_state(part.state, provider, "cohere-v2")
        match part.content:
            case TextPart(text=text) | RefusalPart(text=text):
                content.append({"type": "text", "text": text})
            case ReasoningPart(text=text):
                carrier = bytes(raw_object(state, path).get("carrier", b""))
                if carrier == b'"tool_plan"':
                    plan.append(text)
                elif carrier:
                    content.append({"type": "thinking", "thinking": text})
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                function = {"name": name, "arguments": arguments or "{}"}
                calls.append({"id": call_id, "type": "function", "function": function})
            case OpaquePart():
                pass
            case _:
                raise unsupported(path, "not in an assistant's message")
    written: dict[str, Any] = {"role": "assistant"}
    if plan:
        written["tool_plan"] = "".join(plan)
    if len(content) == 1 and content[0]["type"] == "text":
        written["content"] = content[0]["text"]
    elif content:
        written["content"] = content
    if calls:
        written["tool_calls"] = calls
    return written if len(written) > 1 else None


def _write_tools(body: dict[str, Any], generation: Generation) -> None:
    """Write tools and how they may be used. Whether schemas are kept to is said for all of them at once."""
    tools = []
    stricts = set()
    for number, tool in enumerate(generation.tools):
        if tool.cache_hint is not None:
            raise unsupported(f"tools[{number}].cache_hint")
        match tool:
            case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
                function: dict[str, Any] = {"name": name}
                if description:
                    function["description"] = description
                function["parameters"] = raw_json(schema) if schema else {"type": "object", "properties": {}}
                tools.append({"type": "function", "function": function})
                stricts.add(strict)
            case ProviderTool():
                raise unsupported(f"tools[{number}].provider_tool")
    body["tools"] = tools
    if len(stricts) > 1:
        raise unsupported("tools", "either all functions or none can be strict here")
    if (strict := stricts.pop()) is not None:
        body["strict_tools"] = strict
    match generation.tool_choice:
        case None | "auto":
            pass
        case "none":
            body["tool_choice"] = "NONE"
        case "required":
            body["tool_choice"] = "REQUIRED"
        case _:
            raise unsupported("tool_choice.function", "no single function can be demanded here")
    if generation.parallel_tool_calls is False:
        raise unsupported("parallel_tool_calls", "they cannot be switched off")


def _format(form: ResponseFormat) -> dict[str, Any]:
    """Write the form of the answer. A schema is always kept to."""
    match form:
        case JsonFormat():
            return {"type": "json_object"}
        case JsonSchemaFormat(json_schema=schema, strict=strict, description=description):
            if strict is False:
                raise unsupported("response_format.json_schema.strict", "a schema is always kept to here")
            if description:
                raise unsupported("response_format.json_schema.description")
            return {"type": "json_object", "json_schema": raw_json(schema)}


_NAMES = {
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "max_output_tokens": "max_tokens",
}


def _write_sampling(body: dict[str, Any], sampling: Sampling) -> None:
    """Write the sampling numbers that were given."""
    if sampling.min_p is not None:
        raise unsupported("sampling.min_p")
    for name, wire in _NAMES.items():
        value = getattr(sampling, name)
        if value is not None:
            body[wire] = value
    if sampling.stop_sequences:
        body["stop_sequences"] = sampling.stop_sequences


def _thinking(reasoning: Reasoning) -> dict[str, Any]:
    """Write how the model thinks: on, off, or with a budget. Its text is shown whenever it thinks."""
    if reasoning.budget_tokens is not None:
        return {"type": "enabled", "token_budget": reasoning.budget_tokens}
    if reasoning.effort is None:
        return {}
    if reasoning.effort is ReasoningEffort.NONE:
        return {"type": "disabled"}
    raise unsupported("reasoning.effort", "give a budget instead")
