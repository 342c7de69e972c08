"""Requests of Responses."""

from __future__ import annotations

import re
from typing import Any, cast

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.openai_responses.flags import ResponsesFlags
from keyswitch_engine.dialects.writing import (
    base64_text,
    encode_body,
    joined_text,
    media_url,
    option_names,
    own_state,
    raw_json,
    raw_object,
    unsupported,
)
from keyswitch_engine.generation import (
    AudioPart,
    FilePart,
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
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
    Tool,
    ToolCallPart,
    ToolChoiceFunction,
    ToolResultPart,
)

__all__ = ["write_body"]

_DIALECT = "openai-responses"
_EFFORTS = {
    ReasoningEffort.NONE: "none",
    ReasoningEffort.MINIMAL: "minimal",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.MAX: "xhigh",
}
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_EMPTY_SCHEMA = {"type": "object", "properties": {}}


def write_body(generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool) -> bytes:
    """Write the request body; see `Dialect.request`."""
    flags = cast("ResponsesFlags", profile.flags)
    body: dict[str, Any] = {"model": model, "input": _Writer(profile.provider, flags).items(generation)}
    if generation.system:
        body["instructions"] = joined_text(generation.system, "system")
    if stream:
        body["stream"] = True
    chosen = option_names(options_json)
    if flags.store == "false" and "store" not in chosen:
        body["store"] = False
    if generation.tools:
        body["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(generation.tools)]
    match generation.tool_choice:
        case None:
            pass
        case ToolChoiceFunction(name=name):
            body["tool_choice"] = {"type": "function", "name": name}
        case choice:
            body["tool_choice"] = choice
    if generation.parallel_tool_calls is not None:
        if not flags.parallel_tool_calls:
            raise unsupported("parallel_tool_calls")
        body["parallel_tool_calls"] = generation.parallel_tool_calls
    if generation.response_format is not None:
        body["text"] = {"format": _format(generation.response_format, flags)}
    _write_sampling(body, generation.sampling)
    if generation.reasoning is not None:
        _write_reasoning(body, generation.reasoning, flags)
    include = []
    if _hands_out_reasoning(generation, model, flags):
        include.append("reasoning.encrypted_content")
    if generation.top_logprobs is not None:
        if not flags.logprobs:
            raise unsupported("logprobs")
        include.append("message.output_text.logprobs")
        if generation.top_logprobs:
            body["top_logprobs"] = generation.top_logprobs
    if include and (generation.top_logprobs is not None or "include" not in chosen):
        body["include"] = include
    if generation.end_user_id:
        if flags.user_field == "none":
            raise unsupported("end_user_id")
        body[flags.user_field] = generation.end_user_id
    return encode_body(body, options_json)


def _hands_out_reasoning(generation: Generation, model: str, flags: ResponsesFlags) -> bool:
    """Tell whether reasoning has to be asked for in the form in which it can be sent back."""
    if not flags.reasoning_models:
        return False
    asked = generation.reasoning
    if asked is not None and asked.effort is ReasoningEffort.NONE:
        return False
    return asked is not None or re.search(flags.reasoning_models, model) is not None


class _Writer:
    """Writes a conversation as items."""

    def __init__(self, provider: str, flags: ResponsesFlags) -> None:
        self._provider = provider
        self._flags = flags
        self._custom_calls: set[str] = set()
        self._items: list[dict[str, Any]] = []

    def items(self, generation: Generation) -> list[dict[str, Any]]:
        """Write every turn."""
        for number, message in enumerate(generation.messages):
            field = f"messages[{number}]"
            if message.name:
                raise unsupported(f"{field}.name")
            match message.role:
                case Role.USER:
                    self._items.append({"role": "user", "content": self._content(message.parts, f"{field}.parts")})
                case Role.SYSTEM:
                    text = joined_text(message.parts, f"{field}.parts")
                    self._items.append({"role": self._flags.system_role, "content": text})
                case Role.ASSISTANT:
                    self._assistant(message, field)
                case Role.TOOL:
                    self._results(message, field)
        return self._items

    def _content(self, parts: tuple[Part, ...], field: str) -> str | list[dict[str, Any]]:
        """Write content: a plain string where it is one text."""
        if len(parts) == 1 and isinstance(parts[0].content, TextPart) and parts[0].cache_hint is None:
            return parts[0].content.text
        return [self._input(part, f"{field}[{number}]") for number, part in enumerate(parts)]

    def _input(self, part: Part, field: str) -> dict[str, Any]:
        """Write one part of what goes in."""
        if part.cache_hint is not None:
            raise unsupported(f"{field}.cache_hint")
        match part.content:
            case TextPart(text=text):
                return {"type": "input_text", "text": text}
            case ImagePart(source=source, detail=detail):
                image = {"type": "input_image", "image_url": media_url(source)}
                return image | {"detail": detail} if detail else image
            case FilePart(source=source, filename=filename):
                if isinstance(source, InlineMedia):
                    return {"type": "input_file", "filename": filename or "file", "file_data": media_url(source)}
                return {"type": "input_file", "file_url": source.url}
            case AudioPart(source=InlineMedia(data=data, media_type=kind)) if kind in _AUDIO_FORMATS:
                audio = {"data": base64_text(data), "format": _AUDIO_FORMATS[kind]}
                return {"type": "input_audio", "input_audio": audio}
            case AudioPart():
                raise unsupported(f"{field}.audio", "only inline audio/wav and audio/mpeg")
            case _:
                raise unsupported(field, "only text, images, audio and files go here")

    def _results(self, message: Message, field: str) -> None:
        """Write results, an item each. The dialect has no mark for a failed tool, so its text says so."""
        for number, part in enumerate(message.parts):
            path = f"{field}.parts[{number}]"
            if not isinstance(part.content, ToolResultPart):
                raise unsupported(path, "only tool results go here")
            if part.cache_hint is not None:
                raise unsupported(f"{path}.cache_hint")
            result = part.content
            content = self._content(result.parts, f"{path}.tool_result.parts") if result.parts else ""
            custom = result.tool_call_id in self._custom_calls
            self._items.append(
                {
                    "type": "custom_tool_call_output" if custom else "function_call_output",
                    "call_id": result.tool_call_id,
                    "output": _marked(content) if result.is_error else content,
                }
            )

    def _assistant(self, message: Message, field: str) -> None:
        """Write what the model said earlier, in its order; what follows each other of one phase is one message."""
        said: dict[str, Any] | None = None
        for number, part in enumerate(message.parts):
            path = f"{field}.parts[{number}]"
            if part.cache_hint is not None:
                raise unsupported(f"{path}.cache_hint")
            state = own_state(part.state, self._provider, _DIALECT)
            match part.content:
                case TextPart(text=text):
                    piece = {"type": "output_text", "text": text}
                case RefusalPart(text=text):
                    piece = {"type": "refusal", "refusal": text}
                case content:
                    said = None
                    if (item := self._item(content, state, path)) is not None:
                        self._items.append(item)
                    continue
            head = {"role": "assistant"} | raw_object(state, path)
            if said is None or {name: said[name] for name in said if name != "content"} != head:
                said = head | {"content": []}
                self._items.append(said)
            said["content"].append(piece)

    def _item(self, content: object, state: bytes | None, field: str) -> dict[str, Any] | None:
        """Write one part that is an item of its own; None for one that means nothing here."""
        match content:
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                if state is not None and "type" in raw_object(state, field):
                    self._custom_calls.add(call_id)
                    return {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": arguments}
                return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments or "{}"}
            case ReasoningPart() | OpaquePart():
                return raw_object(state, field) if state is not None else None
            case ImagePart(source=InlineMedia(data=data)) if state is not None:
                made = {"type": "image_generation_call", "status": "completed", "result": base64_text(data)}
                return made | raw_object(state, field)
            case _:
                raise unsupported(field, "not in an assistant's message")


def _marked(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Mark a result as that of a tool that failed."""
    match content:
        case str(text):
            return f"Error: {text}" if text else "Error"
        case [{"type": "input_text", "text": text} as first, *rest]:
            return [first | {"text": f"Error: {text}"}, *rest]
        case _:
            return [{"type": "input_text", "text": "Error"}, *content]


def _tool(tool: Tool, field: str) -> dict[str, Any]:
    """Write one tool."""
    if tool.cache_hint is not None:
        raise unsupported(f"{field}.cache_hint")
    match tool:
        case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
            written: dict[str, Any] = {"type": "function", "name": name}
            if description:
                written["description"] = description
            written["parameters"] = raw_json(schema) if schema else _EMPTY_SCHEMA
            # left out it would mean true here, unlike in every other dialect
            written["strict"] = bool(strict)
            return written
        case ProviderTool(type=kind, config_json=config):
            return {"type": kind} | raw_object(config.encode(), f"{field}.provider_tool.config_json")


def _format(form: ResponseFormat, flags: ResponsesFlags) -> dict[str, Any]:
    """Write the form of the answer."""
    match form:
        case JsonFormat():
            return {"type": "json_object"}
        case JsonSchemaFormat() as schema:
            if not flags.json_schema:
                raise unsupported("response_format.json_schema")
            written: dict[str, Any] = {"type": "json_schema", "name": schema.name}
            if schema.description:
                written["description"] = schema.description
            written["schema"] = raw_json(schema.json_schema)
            if schema.strict is not None:
                written["strict"] = schema.strict
            return written


_NOT_HERE = ("top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")


def _write_sampling(body: dict[str, Any], sampling: Sampling) -> None:
    """Write the sampling numbers that were given."""
    for name in ("temperature", "top_p", "max_output_tokens"):
        value = getattr(sampling, name)
        if value is not None:
            body[name] = value
    for name in _NOT_HERE:
        if getattr(sampling, name) is not None:
            raise unsupported(f"sampling.{name}")
    if sampling.stop_sequences:
        raise unsupported("sampling.stop_sequences")


def _write_reasoning(body: dict[str, Any], reasoning: Reasoning, flags: ResponsesFlags) -> None:
    """Write how hard to think."""
    if reasoning.budget_tokens is not None:
        raise unsupported("reasoning.budget_tokens", "give an effort instead")
    if reasoning.effort is not None and not flags.reasoning_effort:
        raise unsupported("reasoning.effort")
    written = {"effort": _EFFORTS[reasoning.effort]} if reasoning.effort is not None else {}
    if reasoning.include_text:
        written["summary"] = "auto"
    if written:
        body["reasoning"] = written
