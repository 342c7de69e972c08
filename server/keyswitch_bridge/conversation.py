"""The conversation and what goes with it: parts, messages, tools, formats, sampling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from keyswitch.v1 import conversation_pb2 as pb
from keyswitch_engine import generation as model
from keyswitch_engine.events import ProviderState

from keyswitch_bridge.violations import Violations

__all__ = [
    "read_messages",
    "read_parts",
    "read_reasoning",
    "read_response_format",
    "read_sampling",
    "read_tool_choice",
    "read_tools",
]

_ROLES: dict[int, model.Role] = {
    pb.ROLE_USER: model.Role.USER,
    pb.ROLE_ASSISTANT: model.Role.ASSISTANT,
    pb.ROLE_TOOL: model.Role.TOOL,
    pb.ROLE_SYSTEM: model.Role.SYSTEM,
}
_EFFORTS: dict[int, model.ReasoningEffort] = {
    pb.REASONING_EFFORT_NONE: model.ReasoningEffort.NONE,
    pb.REASONING_EFFORT_MINIMAL: model.ReasoningEffort.MINIMAL,
    pb.REASONING_EFFORT_LOW: model.ReasoningEffort.LOW,
    pb.REASONING_EFFORT_MEDIUM: model.ReasoningEffort.MEDIUM,
    pb.REASONING_EFFORT_HIGH: model.ReasoningEffort.HIGH,
    pb.REASONING_EFFORT_MAX: model.ReasoningEffort.MAX,
}
_RETENTIONS: dict[int, model.CacheRetention] = {
    pb.CACHE_RETENTION_SHORT: model.CacheRetention.SHORT,
    pb.CACHE_RETENTION_LONG: model.CacheRetention.LONG,
}
_MEDIA = frozenset({"text", "image", "audio", "file"})
_ALLOWED = {
    model.Role.USER: _MEDIA,
    model.Role.ASSISTANT: frozenset({"text", "image", "audio", "tool_call", "reasoning", "refusal", "opaque"}),
    model.Role.TOOL: frozenset({"tool_result"}),
    model.Role.SYSTEM: frozenset({"text"}),
}
_IN_TOOL_RESULT = frozenset({"text", "image", "file"})
_IN_SYSTEM = frozenset({"text"})
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_TYPE = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,64}/[a-z0-9.+*-]{1,64}")
_URL = re.compile(r"https://[\x21-\x7e]{1,8192}")
_DETAILS = ("auto", "low", "high")


def read_messages(messages: Iterable[pb.Message], found: Violations) -> tuple[model.Message, ...]:
    """Read the turns of a conversation."""
    return tuple([_message(message, f"messages[{number}]", found) for number, message in enumerate(messages)])


def _message(message: pb.Message, path: str, found: Violations) -> model.Message:
    """Read one turn."""
    role = found.enum(message.role, _ROLES, f"{path}.role", required=True)
    if not message.parts:
        found.add(f"{path}.parts", "at least one part is needed")
    allowed = _ALLOWED[role] if role is not None else frozenset()
    parts = read_parts(message.parts, f"{path}.parts", found, allowed) if role is not None else ()
    name = found.name(message.name, f"{path}.name", 64) if message.name else ""
    return model.Message(role or model.Role.USER, parts, name)


def read_parts(
    parts: Iterable[pb.Part], path: str, found: Violations, allowed: frozenset[str] = _IN_SYSTEM
) -> tuple[model.Part, ...]:
    """Read parts of the kinds that are *allowed* where they stand; by default text, as for system instructions."""
    return tuple([_part(part, f"{path}[{number}]", found, allowed) for number, part in enumerate(parts)])


def _part(part: pb.Part, path: str, found: Violations, allowed: frozenset[str]) -> model.Part:
    """Read one part."""
    kind = part.WhichOneof("kind")
    if kind is None:
        found.add(path, "its kind is required")
        return model.Part(model.TextPart(""))
    if kind not in allowed:
        found.add(f"{path}.{kind}", f"only {', '.join(sorted(allowed))} can stand here")
    state = None
    if part.HasField("provider_state"):
        sent = part.provider_state
        if not sent.provider or not sent.dialect:
            found.add(f"{path}.provider_state", "provider and dialect are required")
        state = ProviderState(sent.provider, sent.dialect, sent.data)
    return model.Part(_content(part, kind, path, found), state, _cache_hint(part, path, found))


def _cache_hint(message: pb.Part | pb.Tool, path: str, found: Violations) -> model.CacheHint | None:
    """Read a cache hint, if there is one."""
    if not message.HasField("cache_hint"):
        return None
    retention = found.enum(message.cache_hint.retention, _RETENTIONS, f"{path}.cache_hint.retention")
    return model.CacheHint(retention or model.CacheRetention.DEFAULT)


def _content(part: pb.Part, kind: str, path: str, found: Violations) -> model.Content:
    """Read what a part is."""
    match kind:
        case "text":
            return model.TextPart(part.text.text)
        case "image":
            detail = found.one_of(part.image.detail, _DETAILS, f"{path}.image.detail")
            return model.ImagePart(_source(part.image.source, f"{path}.image.source", found), detail)
        case "audio":
            return model.AudioPart(_source(part.audio.source, f"{path}.audio.source", found))
        case "file":
            filename = found.name(part.file.filename, f"{path}.file.filename", 256)
            return model.FilePart(_source(part.file.source, f"{path}.file.source", found), filename)
        case "tool_call":
            call = part.tool_call
            if not call.id:
                found.add(f"{path}.tool_call.id", "is required")
            if not call.name:
                found.add(f"{path}.tool_call.name", "is required")
            return model.ToolCallPart(call.id, call.name, call.arguments_json)
        case "tool_result":
            result = part.tool_result
            if not result.tool_call_id:
                found.add(f"{path}.tool_result.tool_call_id", "is required")
            parts = read_parts(result.parts, f"{path}.tool_result.parts", found, _IN_TOOL_RESULT)
            return model.ToolResultPart(result.tool_call_id, parts, result.is_error)
        case "reasoning":
            return model.ReasoningPart(part.reasoning.text)
        case "refusal":
            return model.RefusalPart(part.refusal.text)
        case _:
            if not part.HasField("provider_state"):
                found.add(f"{path}.provider_state", "is required, since it is all that an opaque item consists of")
            return model.OpaquePart(part.opaque.type)


def _source(source: pb.MediaSource, path: str, found: Violations) -> model.MediaSource:
    """Read where media comes from."""
    media_type = source.media_type
    if media_type:
        found.pattern(media_type, _MEDIA_TYPE, f"{path}.media_type")
    if source.WhichOneof("source") == "url":
        if not _URL.fullmatch(source.url):
            found.add(f"{path}.url", "must be an https URL")
        return model.MediaUrl(source.url, media_type)
    if not source.data:
        found.add(path, "data or url is required")
    elif not media_type:
        found.add(f"{path}.media_type", "is required with data")
    return model.InlineMedia(source.data, media_type)


def read_tools(tools: Iterable[pb.Tool], found: Violations) -> tuple[model.Tool, ...]:
    """Read the tools; their names are unique."""
    read: list[model.Tool] = []
    names: set[str] = set()
    for number, tool in enumerate(tools):
        path = f"tools[{number}]"
        if tool.HasField("provider_tool"):
            read.append(_provider_tool(tool, path, found))
            continue
        if not tool.HasField("function"):
            found.add(path, "its kind is required")
            continue
        function = tool.function
        found.pattern(function.name, _NAME, f"{path}.function.name")
        if function.name in names:
            found.add(f"{path}.function.name", "another tool has this name")
        names.add(function.name)
        schema = found.json_object(function.parameters_json_schema, f"{path}.function.parameters_json_schema")
        strict = function.strict if function.HasField("strict") else None
        read.append(
            model.FunctionTool(function.name, function.description, schema, strict, _cache_hint(tool, path, found))
        )
    return tuple(read)


def _provider_tool(tool: pb.Tool, path: str, found: Violations) -> model.ProviderTool:
    """Read a tool that the provider runs itself."""
    inner = tool.provider_tool
    found.pattern(inner.type, _TOOL_TYPE, f"{path}.provider_tool.type")
    config = found.json_object(inner.config_json, f"{path}.provider_tool.config_json")
    return model.ProviderTool(inner.type, config, _cache_hint(tool, path, found))


def read_tool_choice(
    choice: pb.ToolChoice, tools: tuple[model.Tool, ...], found: Violations
) -> model.ToolChoice | None:
    """Read whether and which tools may be called."""
    read = choice.WhichOneof("choice")
    match read:
        case "auto" | "none" | "required":
            if not tools and read != "none":
                found.add("tool_choice", "there are no tools to choose from")
            return read
        case "function":
            if not any(isinstance(tool, model.FunctionTool) and tool.name == choice.function.name for tool in tools):
                found.add("tool_choice.function.name", "must be the name of one of the tools")
            return model.ToolChoiceFunction(choice.function.name)
        case None:
            found.add("tool_choice", "its choice is required")
            return None


def read_response_format(form: pb.ResponseFormat, found: Violations) -> model.ResponseFormat | None:
    """Read the form of the answer; None is plain text."""
    match form.WhichOneof("format"):
        case "text":
            return None
        case "json":
            return model.JsonFormat()
        case "json_schema":
            schema, path = form.json_schema, "response_format.json_schema"
            if not schema.json_schema:
                found.add(f"{path}.json_schema", "is required")
            found.json_object(schema.json_schema, f"{path}.json_schema")
            name = found.pattern(schema.name, _NAME, f"{path}.name") if schema.name else "response"
            strict = schema.strict if schema.HasField("strict") else None
            return model.JsonSchemaFormat(schema.json_schema, name, schema.description, strict)
        case None:
            found.add("response_format", "its format is required")
            return None


_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (1, 2**32 - 1),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "seed": (-(2**63), 2**63 - 1),
    "max_output_tokens": (1, 2**32 - 1),
}
_MAX_STOPS, _MAX_STOP = 16, 256


def read_sampling(sampling: pb.Sampling, found: Violations) -> model.Sampling:
    """Read the numbers that steer generation."""
    values: dict[str, Any] = {}
    for field, value in sampling.ListFields():
        if field.name in _RANGES:
            low, high = _RANGES[field.name]
            values[field.name] = found.number(value, f"sampling.{field.name}", low, high)
    stops = tuple(sampling.stop_sequences)
    if len(stops) > _MAX_STOPS:
        found.add("sampling.stop_sequences", f"at most {_MAX_STOPS}")
    for number, stop in enumerate(stops):
        if not 1 <= len(stop) <= _MAX_STOP:
            found.add(f"sampling.stop_sequences[{number}]", f"1 to {_MAX_STOP} characters")
    return model.Sampling(**values, stop_sequences=stops)


def read_reasoning(reasoning: pb.Reasoning, found: Violations) -> model.Reasoning:
    """Read how long the model thinks."""
    effort = found.enum(reasoning.effort, _EFFORTS, "reasoning.effort")
    budget = reasoning.budget_tokens if reasoning.HasField("budget_tokens") else None
    if effort is not None and budget is not None:
        found.add("reasoning", "at most one of effort and budget_tokens")
    if budget == 0:
        found.add("reasoning.budget_tokens", "at least 1; say REASONING_EFFORT_NONE for no reasoning")
    return model.Reasoning(effort, budget, reasoning.include_text)
