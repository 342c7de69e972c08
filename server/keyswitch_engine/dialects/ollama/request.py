"""Requests of Ollama's chat."""

from __future__ import annotations

from typing import Any

import msgspec

from keyswitch_engine.dialects.writing import (
    base64_text,
    encode_body,
    joined_text,
    raw_json,
    raw_object,
    unsupported,
)
from keyswitch_engine.generation import (
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
    JsonFormat,
    JsonSchemaFormat,
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
    Tool,
    ToolCallPart,
    ToolResultPart,
)

__all__ = ["write_body"]


def write_body(generation: Generation, model: str, options_json: str, *, stream: bool) -> bytes:
    """Write the request body; see `Dialect.request`."""
    body: dict[str, Any] = {"model": model, "messages": _messages(generation), "stream": stream}
    if generation.tools:
        body["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(generation.tools)]
    if generation.tool_choice not in (None, "auto"):
        raise unsupported("tool_choice", "tools can neither be demanded nor forbidden here")
    if generation.parallel_tool_calls is False:
        raise unsupported("parallel_tool_calls", "they cannot be switched off")
    if generation.response_format is not None:
        body["format"] = _format(generation.response_format)
    if options := _options(generation.sampling):
        body["options"] = options
    if generation.reasoning is not None and (think := _think(generation.reasoning)) is not None:
        body["think"] = think
    if generation.top_logprobs is not None:
        body["logprobs"] = True
        if generation.top_logprobs:
            body["top_logprobs"] = generation.top_logprobs
    if generation.end_user_id:
        raise unsupported("end_user_id")
    return encode_body(body, options_json)


def _messages(generation: Generation) -> list[dict[str, Any]]:
    """Write the conversation. Results name their tool as well, since ids are younger than tools here."""
    written: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    if generation.system:
        written.append({"role": "system", "content": joined_text(generation.system, "system")})
    for number, message in enumerate(generation.messages):
        field = f"messages[{number}]"
        if message.name:
            raise unsupported(f"{field}.name")
        match message.role:
            case Role.SYSTEM:
                written.append({"role": "system", "content": joined_text(message.parts, f"{field}.parts")})
            case Role.TOOL:
                written += [_result(part, names, f"{field}.parts[{n}]") for n, part in enumerate(message.parts)]
            case Role.USER | Role.ASSISTANT:
                role = "user" if message.role is Role.USER else "assistant"
                said = _message(role, message.parts, f"{field}.parts")
                names |= {
                    part.content.id: part.content.name
                    for part in message.parts
                    if isinstance(part.content, ToolCallPart)
                }
                if len(said) > 1:
                    written.append(said)
    return written


def _message(role: str, parts: tuple[Part, ...], field: str) -> dict[str, Any]:
    """Write one turn."""
    texts: list[str] = []
    thoughts: list[str] = []
    images: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        path = f"{field}[{number}]"
        if part.cache_hint is not None:
            raise unsupported(f"{path}.cache_hint")
        match part.content:
            case TextPart(text=text) | RefusalPart(text=text):
                texts.append(text)
            case ReasoningPart(text=text):
                thoughts.append(text)
            case ImagePart(source=InlineMedia(data=data), detail=""):
                images.append(base64_text(data))
            case ImagePart():
                raise unsupported(f"{path}.image", "only inline images, without a detail")
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                calls.append({"id": call_id, "function": {"name": name, "arguments": _arguments(arguments, path)}})
            case OpaquePart():
                pass
            case _:
                raise unsupported(path, "only text, images, reasoning and tool calls go here")
    written: dict[str, Any] = {"role": role}
    if texts or images or thoughts or calls:
        written["content"] = "\n".join(texts) if role == "user" else "".join(texts)
    if thoughts:
        written["thinking"] = "".join(thoughts)
    if images:
        written["images"] = images
    if calls:
        written["tool_calls"] = calls
    return written


def _arguments(text: str, field: str) -> msgspec.Raw | dict[str, Any]:
    """Write a call's arguments, which have to be an object here."""
    if not text.strip():
        return {}
    raw_object(text.encode(), f"{field}.tool_call.arguments_json")
    return raw_json(text)


def _result(part: Part, names: dict[str, str], field: str) -> dict[str, Any]:
    """Write a tool's result. The dialect has no mark for a failed tool, so its text says so."""
    if not isinstance(part.content, ToolResultPart):
        raise unsupported(field, "only tool results go here")
    if part.cache_hint is not None:
        raise unsupported(f"{field}.cache_hint")
    result = part.content
    text = joined_text(result.parts, f"{field}.tool_result.parts")
    written = {"role": "tool", "content": f"Error: {text}" if result.is_error else text}
    if result.tool_call_id in names:
        written["tool_name"] = names[result.tool_call_id]
    return written | {"tool_call_id": result.tool_call_id}


def _tool(tool: Tool, field: str) -> dict[str, Any]:
    """Write one tool."""
    if tool.cache_hint is not None:
        raise unsupported(f"{field}.cache_hint")
    match tool:
        case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
            if strict:
                raise unsupported(f"{field}.function.strict")
            function: dict[str, Any] = {"name": name}
            if description:
                function["description"] = description
            function["parameters"] = raw_json(schema) if schema else {"type": "object", "properties": {}}
            return {"type": "function", "function": function}
        case ProviderTool():
            raise unsupported(f"{field}.provider_tool")


def _format(form: ResponseFormat) -> Any:
    """Write the form of the answer. A schema is always kept to."""
    match form:
        case JsonFormat():
            return "json"
        case JsonSchemaFormat(json_schema=schema, strict=strict, description=description):
            if strict is False:
                raise unsupported("response_format.json_schema.strict", "a schema is always kept to here")
            if description:
                raise unsupported("response_format.json_schema.description")
            return raw_json(schema)


_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "max_output_tokens": "num_predict",
}


def _options(sampling: Sampling) -> dict[str, Any]:
    """Write the sampling numbers that were given."""
    written = {wire: value for name, wire in _NAMES.items() if (value := getattr(sampling, name)) is not None}
    if sampling.stop_sequences:
        written["stop"] = sampling.stop_sequences
    return written


_LEVELS = {ReasoningEffort.LOW: "low", ReasoningEffort.MEDIUM: "medium", ReasoningEffort.HIGH: "high"}


def _think(reasoning: Reasoning) -> bool | str | None:
    """Write how the model thinks: not at all, or to one of three levels."""
    if reasoning.budget_tokens is not None:
        raise unsupported("reasoning.budget_tokens", "give an effort instead")
    if reasoning.effort is None:
        return True if reasoning.include_text else None
    if reasoning.effort is ReasoningEffort.NONE:
        return False
    if reasoning.effort not in _LEVELS:
        raise unsupported("reasoning.effort", "low, medium, high or none")
    return _LEVELS[reasoning.effort]
