"""Requests of Messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from keyswitch_engine.dialects.anthropic_messages.flags import MessagesFlags
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.writing import (
    base64_text,
    encode_body,
    fitting_id,
    own_state,
    raw_json,
    raw_object,
    unsupported,
)
from keyswitch_engine.generation import (
    AudioPart,
    CacheHint,
    CacheRetention,
    FilePart,
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
    JsonFormat,
    JsonSchemaFormat,
    MediaSource,
    Message,
    OpaquePart,
    Part,
    ProviderTool,
    Reasoning,
    ReasoningEffort,
    ReasoningPart,
    RefusalPart,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoiceFunction,
    ToolResultPart,
)

__all__ = ["write_body"]

_EFFORTS = {
    ReasoningEffort.MINIMAL: "low",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.MAX: "max",
}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_TTL = {CacheRetention.DEFAULT: "", CacheRetention.SHORT: "5m", CacheRetention.LONG: "1h"}


def write_body(
    generation: Generation,
    head: Mapping[str, str],
    profile: Profile,
    dialect: str,
    options_json: str,
    *,
    stream: bool,
) -> bytes:
    """Write the request body, which begins with *head*; see `Dialect.request`."""
    flags = cast("MessagesFlags", profile.flags)
    budget = generation.reasoning.budget_tokens if generation.reasoning is not None else None
    limit = generation.sampling.max_output_tokens or flags.default_max_tokens + (budget or 0)
    writer = _Writer(profile.provider, dialect, flags)
    system, messages = writer.conversation(generation)
    body: dict[str, Any] = {**head, "max_tokens": limit, "messages": messages}
    if system:
        body["system"] = system
    if stream:
        body["stream"] = True
    if generation.tools:
        body["tools"] = [writer.tool(tool, f"tools[{number}]") for number, tool in enumerate(generation.tools)]
        if generation.tool_choice is not None or generation.parallel_tool_calls is not None:
            body["tool_choice"] = _tool_choice(generation)
    output = _output(generation, flags)
    if output:
        body["output_config"] = output
    _write_sampling(body, generation.sampling)
    if generation.reasoning is not None and (thinking := _thinking(generation.reasoning)):
        body["thinking"] = thinking
    if generation.top_logprobs is not None:
        raise unsupported("logprobs")
    if generation.end_user_id:
        body["metadata"] = {"user_id": generation.end_user_id}
    return encode_body(body, options_json)


class _Writer:
    """Writes the parts of a conversation for one provider."""

    def __init__(self, provider: str, dialect: str, flags: MessagesFlags) -> None:
        self._provider = provider
        self._dialect = dialect
        self._flags = flags

    def conversation(self, generation: Generation) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
        """Write system text and turns. Turns of one side that follow each other become one, as the API wants them.

        System text that leads the conversation goes where the API has a place for it; further down it has none.
        """
        system = [self._plain(part, f"system[{number}]") for number, part in enumerate(generation.system)]
        turns: list[dict[str, Any]] = []
        for number, message in enumerate(generation.messages):
            field = f"messages[{number}]"
            if message.name:
                raise unsupported(f"{field}.name")
            if message.role is Role.SYSTEM:
                if turns:
                    raise unsupported(f"{field}.role", "system text can only come first in this dialect")
                system += [self._plain(part, f"{field}.parts[{n}]") for n, part in enumerate(message.parts)]
                continue
            role = "assistant" if message.role is Role.ASSISTANT else "user"
            content = self._content(message, field)
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += content
            elif content:
                turns.append({"role": role, "content": content})
        for turn in turns:
            turn["content"] = _short(turn["content"])
        return _short(system), turns

    def _content(self, message: Message, field: str) -> list[dict[str, Any]]:
        """Write what one turn says."""
        written = []
        for number, part in enumerate(message.parts):
            block = self._part(part, f"{field}.parts[{number}]")
            if block is not None:
                written.append(self._hinted(block, part.cache_hint, f"{field}.parts[{number}]"))
        return written

    def _part(self, part: Part, field: str) -> dict[str, Any] | None:
        """Write one part; None for one that means nothing here."""
        state = own_state(part.state, self._provider, self._dialect)
        match part.content:
            case TextPart(text=text):
                return {"type": "text", "text": text} | raw_object(state, field)
            case RefusalPart(text=text):
                return {"type": "text", "text": text}
            case ImagePart(source=source, detail=detail):
                if detail:
                    raise unsupported(f"{field}.image.detail")
                return {"type": "image", "source": _source(source)}
            case FilePart(source=source, filename=filename):
                return _document(source, filename)
            case AudioPart():
                raise unsupported(f"{field}.audio")
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                return {"type": "tool_use", "id": fitting_id(call_id), "name": name, "input": _input(arguments, field)}
            case ToolResultPart(tool_call_id=call_id, parts=parts, is_error=is_error):
                result: dict[str, Any] = {"type": "tool_result", "tool_use_id": fitting_id(call_id)}
                if parts:
                    result["content"] = _short(
                        [self._result(inner, f"{field}.tool_result.parts[{n}]") for n, inner in enumerate(parts)]
                    )
                return result | {"is_error": True} if is_error else result
            case ReasoningPart(text=text):
                if state is None:
                    return None
                fields = raw_object(state, field)
                if "data" in fields:
                    return {"type": "redacted_thinking"} | fields
                return {"type": "thinking", "thinking": text} | fields
            case OpaquePart():
                return raw_object(state, field) if state is not None else None

    def _result(self, part: Part, field: str) -> dict[str, Any]:
        """Write one part of a tool's result."""
        block = self._part(part, field)
        if block is None:
            raise unsupported(field)
        return self._hinted(block, part.cache_hint, field)

    def _plain(self, part: Part, field: str) -> dict[str, Any]:
        """Write system text."""
        if not isinstance(part.content, TextPart):
            raise unsupported(field, "only text goes here")
        return self._hinted({"type": "text", "text": part.content.text}, part.cache_hint, field)

    def _hinted(self, block: dict[str, Any], hint: CacheHint | None, field: str) -> dict[str, Any]:
        """Mark a block as the end of what is to be cached."""
        if hint is None:
            return block
        if not self._flags.cache_hints:
            raise unsupported(f"{field}.cache_hint")
        ttl = _TTL[hint.retention]
        return block | {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}

    def tool(self, tool: Tool, field: str) -> dict[str, Any]:
        """Write one tool."""
        match tool:
            case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
                written: dict[str, Any] = {"name": name}
                if description:
                    written["description"] = description
                written["input_schema"] = raw_json(schema) if schema else {"type": "object", "properties": {}}
                if strict is not None:
                    if not self._flags.strict_tools:
                        raise unsupported(f"{field}.function.strict")
                    written["strict"] = strict
                return self._hinted(written, tool.cache_hint, field)
            case ProviderTool(type=kind, config_json=config):
                written = {"type": kind} | raw_object(config.encode(), f"{field}.provider_tool.config_json")
                return self._hinted(written, tool.cache_hint, field)


def _short(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return content as a plain string where it is one text and nothing else."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks


def _source(source: MediaSource) -> dict[str, Any]:
    """Write where an image or a document comes from."""
    if isinstance(source, InlineMedia):
        return {"type": "base64", "media_type": source.media_type, "data": base64_text(source.data)}
    return {"type": "url", "url": source.url}


def _document(source: MediaSource, filename: str) -> dict[str, Any]:
    """Write a document; plain text has a form of its own."""
    if isinstance(source, InlineMedia) and source.media_type == "text/plain":
        text = source.data.decode("utf-8", "replace")
        inner: dict[str, Any] = {"type": "text", "media_type": "text/plain", "data": text}
    else:
        inner = _source(source)
    document = {"type": "document", "source": inner}
    return document | {"title": filename} if filename else document


def _input(arguments: str, field: str) -> msgspec.Raw | dict[str, Any]:
    """Write a call's arguments, which have to be an object here."""
    if not arguments.strip():
        return {}
    raw_object(arguments.encode(), f"{field}.tool_call.arguments_json")
    return raw_json(arguments)


def _tool_choice(generation: Generation) -> dict[str, Any]:
    """Write how tools may be used."""
    match generation.tool_choice:
        case ToolChoiceFunction(name=name):
            written: dict[str, Any] = {"type": "tool", "name": name}
        case None:
            written = {"type": "auto"}
        case choice:
            written = {"type": _CHOICES[choice]}
    if generation.parallel_tool_calls is not None and written["type"] != "none":
        written["disable_parallel_tool_use"] = not generation.parallel_tool_calls
    return written


def _output(generation: Generation, flags: MessagesFlags) -> dict[str, Any]:
    """Write form and effort of the answer."""
    written: dict[str, Any] = {}
    match generation.response_format:
        case JsonSchemaFormat(json_schema=schema, strict=strict, description=description):
            if not flags.json_schema:
                raise unsupported("response_format.json_schema")
            if strict is False:
                raise unsupported("response_format.json_schema.strict", "a schema is always kept to here")
            if description:
                raise unsupported("response_format.json_schema.description")
            written["format"] = {"type": "json_schema", "schema": raw_json(schema)}
        case JsonFormat():
            raise unsupported("response_format.json", "ask for a JSON Schema instead")
        case None:
            pass
    effort = generation.reasoning.effort if generation.reasoning is not None else None
    if effort in _EFFORTS:
        if flags.reasoning_effort == "none":
            raise unsupported("reasoning.effort", "give a budget instead")
        written["effort"] = _EFFORTS[effort]
    return written


def _thinking(reasoning: Reasoning) -> dict[str, Any] | None:
    """Write how the model thinks, and whether it shows that: models that think adaptively may do so only if asked."""
    if reasoning.budget_tokens is not None:
        return {"type": "enabled", "budget_tokens": reasoning.budget_tokens}
    if reasoning.effort is ReasoningEffort.NONE:
        return {"type": "disabled"}
    if reasoning.effort is None:
        return None
    return {"type": "adaptive"} | ({"display": "summarized"} if reasoning.include_text else {})


_NOT_HERE = ("min_p", "presence_penalty", "frequency_penalty", "seed")


def _write_sampling(body: dict[str, Any], sampling: Sampling) -> None:
    """Write the sampling numbers that were given."""
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(sampling, name)
        if value is not None:
            body[name] = value
    for name in _NOT_HERE:
        if getattr(sampling, name) is not None:
            raise unsupported(f"sampling.{name}")
    if sampling.stop_sequences:
        body["stop_sequences"] = sampling.stop_sequences
