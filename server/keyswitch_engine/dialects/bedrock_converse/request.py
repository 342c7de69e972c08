"""Requests of Converse."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.bedrock_converse.flags import ConverseFlags
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
    ResponseFormat,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolChoiceFunction,
    ToolResultPart,
)

__all__ = ["write_body"]

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_SOUNDS = {
    "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav", "audio/aac": "aac",
    "audio/flac": "flac", "audio/ogg": "ogg", "audio/opus": "opus", "audio/mp4": "mp4", "audio/webm": "webm",
}  # fmt: skip
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_TTL = {CacheRetention.DEFAULT: "", CacheRetention.SHORT: "5m", CacheRetention.LONG: "1h"}
_EFFORTS = {
    ReasoningEffort.MINIMAL: "low",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.MAX: "max",
}


def write_body(generation: Generation, model: str, profile: Profile, options_json: str) -> bytes:
    """Write the request body; see `Dialect.request`."""
    flags = cast("ConverseFlags", profile.flags)
    system, messages = _Writer(profile.provider).conversation(generation)
    body: dict[str, Any] = {"messages": messages}
    if system:
        body["system"] = system
    inference = _inference(generation.sampling)
    if inference:
        body["inferenceConfig"] = inference
    if generation.tools:
        tools = []
        for number, tool in enumerate(generation.tools):
            tools += [_tool(tool, f"tools[{number}]"), *_cache_point(tool.cache_hint)]
        body["toolConfig"] = {"tools": tools}
        if generation.tool_choice is not None:
            body["toolConfig"]["toolChoice"] = _tool_choice(generation.tool_choice)
    if generation.parallel_tool_calls is False:
        raise unsupported("parallel_tool_calls", "they cannot be switched off")
    if generation.response_format is not None:
        body["outputConfig"] = {"textFormat": _format(generation.response_format)}
    additional = _additional(generation, model, flags)
    if additional:
        body["additionalModelRequestFields"] = additional
    if generation.top_logprobs is not None:
        raise unsupported("logprobs")
    if generation.end_user_id:
        raise unsupported("end_user_id")
    return encode_body(body, options_json)


class _Writer:
    """Writes a conversation for one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._documents: dict[str, int] = {}  # by name, with the number that its last namesake got

    def conversation(self, generation: Generation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Write system text and turns. Turns of one side that follow each other become one, as the API wants them.

        System text that leads the conversation goes where the API has a place for it; further down it has none.
        """
        system: list[dict[str, Any]] = []
        for number, part in enumerate(generation.system):
            system += self._plain(part, f"system[{number}]")
        turns: list[dict[str, Any]] = []
        for number, message in enumerate(generation.messages):
            field = f"messages[{number}]"
            if message.name:
                raise unsupported(f"{field}.name")
            if message.role is Role.SYSTEM:
                if turns:
                    raise unsupported(f"{field}.role", "system text can only come first in this dialect")
                for n, part in enumerate(message.parts):
                    system += self._plain(part, f"{field}.parts[{n}]")
                continue
            role = "assistant" if message.role is Role.ASSISTANT else "user"
            content = self._content(message, field)
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += content
            elif content:
                turns.append({"role": role, "content": content})
        return system, turns

    def _content(self, message: Message, field: str) -> list[dict[str, Any]]:
        """Write what one turn says."""
        written: list[dict[str, Any]] = []
        for number, part in enumerate(message.parts):
            block = self._part(part, f"{field}.parts[{number}]")
            if block is not None:
                written.append(block)
                written += _cache_point(part.cache_hint)
        return written

    def _plain(self, part: Part, field: str) -> list[dict[str, Any]]:
        """Write system text."""
        if not isinstance(part.content, TextPart):
            raise unsupported(field, "only text goes here")
        return [{"text": part.content.text}, *_cache_point(part.cache_hint)]

    def _part(self, part: Part, field: str) -> dict[str, Any] | None:
        """Write one part; None for one that means nothing here."""
        state = own_state(part.state, self._provider, "bedrock-converse")
        match part.content:
            case TextPart(text=text) | RefusalPart(text=text):
                return {"text": text}
            case ImagePart(source=source, detail=detail):
                if detail:
                    raise unsupported(f"{field}.image.detail")
                return {"image": _media(source, _IMAGES, f"{field}.image")}
            case AudioPart(source=source):
                return {"audio": _media(source, _SOUNDS, f"{field}.audio")}
            case FilePart(source=source, filename=filename):
                return {"document": {"name": self._name(filename)} | _media(source, _DOCUMENTS, f"{field}.file")}
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                return {"toolUse": {"toolUseId": fitting_id(call_id), "name": name, "input": _input(arguments, field)}}
            case ToolResultPart(tool_call_id=call_id, parts=parts, is_error=is_error):
                content = [self._result(inner, f"{field}.tool_result.parts[{n}]") for n, inner in enumerate(parts)]
                result: dict[str, Any] = {"toolUseId": fitting_id(call_id), "content": content or [{"json": {}}]}
                return {"toolResult": result | {"status": "error"} if is_error else result}
            case ReasoningPart(text=text):
                return _reasoning(text, raw_object(state, field)) if state is not None else None
            case OpaquePart():
                return dict(raw_object(state, field)) if state is not None else None

    def _result(self, part: Part, field: str) -> dict[str, Any]:
        """Write one part of a tool's result, within which nothing can be marked for the cache."""
        block = self._part(part, field)
        if block is None:
            raise unsupported(field)
        if part.cache_hint is not None:
            raise unsupported(f"{field}.cache_hint", "only the result as a whole can have one")
        return block

    def _name(self, filename: str) -> str:
        """Return the name of a document, which has to be another than those before it."""
        base = _UNFIT.sub("-", filename.rpartition(".")[0] or filename) or f"document-{len(self._documents) + 1}"
        name, number = base, self._documents.get(base, 1)
        while name in self._documents:
            number += 1
            name = f"{base}-{number}"
        self._documents[base] = number
        self._documents.setdefault(name, 1)
        return name


def _input(arguments: str, field: str) -> msgspec.Raw | dict[str, Any]:
    """Write a call's arguments, which have to be an object here."""
    if not arguments.strip():
        return {}
    raw_object(arguments.encode(), f"{field}.tool_call.arguments_json")
    return raw_json(arguments)


def _reasoning(text: str, kept: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """Write reasoning with what its provider attached to it."""
    if "redactedContent" in kept:
        return {"reasoningContent": {"redactedContent": kept["redactedContent"]}}
    return {"reasoningContent": {"reasoningText": {"text": text} | kept}}


def _cache_point(hint: CacheHint | None) -> list[dict[str, Any]]:
    """Write the end of what is to be cached."""
    if hint is None:
        return []
    ttl = _TTL[hint.retention]
    return [{"cachePoint": {"type": "default"} | ({"ttl": ttl} if ttl else {})}]


_UNFIT = re.compile(r"[^A-Za-z0-9()\[\]-]+")


def _media(source: MediaSource, formats: dict[str, str], field: str) -> dict[str, Any]:
    """Write media, whose bytes have to come along."""
    if not isinstance(source, InlineMedia):
        raise unsupported(f"{field}.source.url", "the bytes have to come along")
    form = formats.get(source.media_type)
    if form is None:
        raise unsupported(f"{field}.source.media_type", f"one of {', '.join(sorted(formats))}")
    return {"format": form, "source": {"bytes": base64_text(source.data)}}


def _tool(tool: Tool, field: str) -> dict[str, Any]:
    """Write one tool."""
    match tool:
        case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
            spec: dict[str, Any] = {"name": name}
            if description:
                spec["description"] = description
            spec["inputSchema"] = {"json": raw_json(schema) if schema else {"type": "object", "properties": {}}}
            if strict is not None:
                spec["strict"] = strict
            return {"toolSpec": spec}
        case ProviderTool(type=kind, config_json=config):
            return {"systemTool": {"name": kind} | raw_object(config.encode(), f"{field}.provider_tool.config_json")}


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    """Write how tools may be used."""
    match choice:
        case ToolChoiceFunction(name=name):
            return {"tool": {"name": name}}
        case "required":
            return {"any": {}}
        case "auto":
            return {"auto": {}}
        case "none":
            raise unsupported("tool_choice.none", "leave the tools out instead")


def _inference(sampling: Sampling) -> dict[str, Any]:
    """Write the sampling numbers that every family of models has."""
    for name in ("min_p", "presence_penalty", "frequency_penalty", "seed"):
        if getattr(sampling, name) is not None:
            raise unsupported(f"sampling.{name}")
    names = {"max_output_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}
    written = {wire: value for name, wire in names.items() if (value := getattr(sampling, name)) is not None}
    if sampling.stop_sequences:
        written["stopSequences"] = sampling.stop_sequences
    return written


def _format(form: ResponseFormat) -> dict[str, Any]:
    """Write the form of the answer. A schema, which is JSON text here, is always kept to."""
    match form:
        case JsonFormat():
            raise unsupported("response_format.json", "ask for a JSON Schema instead")
        case JsonSchemaFormat(json_schema=schema, name=name, description=description, strict=strict):
            if strict is False:
                raise unsupported("response_format.json_schema.strict", "a schema is always kept to here")
            written = {"schema": schema, "name": name} | ({"description": description} if description else {})
            return {"type": "json_schema", "structure": {"jsonSchema": written}}


def _additional(generation: Generation, model: str, flags: ConverseFlags) -> dict[str, Any]:
    """Write what each family of models calls its own way."""
    written: dict[str, Any] = {}
    if generation.sampling.top_k is not None:
        if re.search(flags.anthropic_models, model):
            written["top_k"] = generation.sampling.top_k
        elif re.search(flags.nova_models, model):
            written["inferenceConfig"] = {"topK": generation.sampling.top_k}
        else:
            raise unsupported("sampling.top_k", "this family of models has none")
    if generation.reasoning is not None:
        written |= _thinking(generation.reasoning, model, flags)
    return written


def _thinking(reasoning: Reasoning, model: str, flags: ConverseFlags) -> dict[str, Any]:
    """Write how the model thinks."""
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort is None and budget is None:
        return {}
    if re.search(flags.anthropic_models, model):
        if budget is not None:
            return {"thinking": {"type": "enabled", "budget_tokens": budget}}
        if effort is ReasoningEffort.NONE:
            return {"thinking": {"type": "disabled"}}
        if effort is None:
            return {}
        # models that think adaptively are those that may show nothing unless asked; older ones know no such field
        shown = {"display": "summarized"} if reasoning.include_text else {}
        return {"thinking": {"type": "adaptive"} | shown, "output_config": {"effort": _EFFORTS[effort]}}
    if effort is not None and re.search(flags.nova_models, model):
        if effort is ReasoningEffort.NONE:
            return {"reasoningConfig": {"type": "disabled"}}
        level = "high" if effort is ReasoningEffort.MAX else _EFFORTS[effort]
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
    if effort in (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH) and re.search(
        flags.openai_models, model
    ):
        return {"reasoning_effort": _EFFORTS[effort]}
    raise unsupported(
        "reasoning.effort" if budget is None else "reasoning.budget_tokens", "this family of models has none"
    )
