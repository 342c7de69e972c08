"""Requests of generateContent."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.dialects.gemini.flags import GeminiFlags
from keyswitch_engine.dialects.writing import (
    base64_text,
    encode_body,
    joined_text,
    own_state,
    raw_json,
    raw_object,
    unsupported,
)
from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.generation import (
    AudioPart,
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

_DIALECT = "gemini"
_LEVELS = {
    ReasoningEffort.MINIMAL: "minimal",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.MAX: "high",
}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_UNSIGNED = "skip_thought_signature_validator"
"""The signature of a call that another model made (ai.google.dev/gemini-api/docs/thought-signatures)."""


def write_body(generation: Generation, model: str, profile: Profile, options_json: str) -> bytes:
    """Write the request body; see `Dialect.request`. Whether it streams is said by the path."""
    flags = cast("GeminiFlags", profile.flags)
    signs = bool(flags.signature_models) and re.search(flags.signature_models, model) is not None
    system, contents = _Writer(profile.provider, signs=signs).conversation(generation)
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
    if generation.tools:
        body["tools"] = _tools(generation.tools)
    if generation.tool_choice is not None:
        body["toolConfig"] = {"functionCallingConfig": _tool_choice(generation.tool_choice)}
    if generation.parallel_tool_calls is False:
        raise unsupported("parallel_tool_calls", "they cannot be switched off")
    if generation.end_user_id:
        raise unsupported("end_user_id")
    config = _config(generation)
    if config:
        body["generationConfig"] = config
    return encode_body(body, options_json)


class _Writer:
    """Writes a conversation for one provider; *signs* says whether its model refuses calls without a signature."""

    def __init__(self, provider: str, *, signs: bool) -> None:
        self._provider = provider
        self._signs = signs
        self._calls: dict[str, tuple[str, msgspec.Raw | None]] = {}  # by id: the function, and the id on the wire

    def conversation(self, generation: Generation) -> tuple[list[str], list[dict[str, Any]]]:
        """Write system text and turns. Turns of one side that follow each other become one.

        System text that leads the conversation goes where the API has a place for it; further down it has none.
        """
        system = [joined_text([part], f"system[{number}]") for number, part in enumerate(generation.system)]
        turns: list[dict[str, Any]] = []
        for number, message in enumerate(generation.messages):
            field = f"messages[{number}]"
            if message.name:
                raise unsupported(f"{field}.name")
            if message.role is Role.SYSTEM:
                if turns:
                    raise unsupported(f"{field}.role", "system text can only come first in this dialect")
                system.append(joined_text(message.parts, f"{field}.parts"))
                continue
            role = "model" if message.role is Role.ASSISTANT else "user"
            parts = self._parts(message, field)
            if turns and turns[-1]["role"] == role:
                turns[-1]["parts"] += parts
            elif parts:
                turns.append({"role": role, "parts": parts})
        return system, turns

    def _parts(self, message: Message, field: str) -> list[dict[str, Any]]:
        """Write what one turn says."""
        written = []
        for number, part in enumerate(message.parts):
            found = self._part(part, f"{field}.parts[{number}]")
            if found is not None:
                written.append(found)
        if self._signs:
            first = next((part for part in written if "functionCall" in part), None)
            if first is not None and "thoughtSignature" not in first:
                first["thoughtSignature"] = _UNSIGNED
        return written

    def _part(self, part: Part, field: str) -> dict[str, Any] | None:
        """Write one part; None for one that means nothing here."""
        if part.cache_hint is not None:
            raise unsupported(f"{field}.cache_hint", "this provider caches by itself")
        state = own_state(part.state, self._provider, _DIALECT)
        kept = raw_object(state, field)
        match part.content:
            case TextPart(text=text):
                return {"text": text} | kept
            case RefusalPart(text=text):
                return {"text": text}
            case ReasoningPart(text=text):
                return {"text": text, "thought": True} | kept if kept else None
            case ImagePart(source=source, detail=detail):
                if detail not in ("", "auto"):
                    raise unsupported(f"{field}.image.detail")
                return _media(source) | kept
            case AudioPart(source=source):
                return _media(source) | kept
            case FilePart(source=source, filename=filename):
                return _media(source, filename)
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                wire_id = kept.pop("id", None)
                self._calls[call_id] = name, wire_id
                call = {"name": name, "args": _arguments(arguments, field)}
                return {"functionCall": call | ({"id": wire_id} if wire_id is not None else {})} | kept
            case ToolResultPart() as result:
                return self._result(result, f"{field}.tool_result")
            case OpaquePart():
                return dict(kept) if kept else None

    def _result(self, result: ToolResultPart, field: str) -> dict[str, Any]:
        """Write a result under the name of its function, which the earlier call tells."""
        if result.tool_call_id not in self._calls:
            raise InvalidRequest([Violation(f"{field}.tool_call_id", "no earlier message has a call of this id")])
        name, wire_id = self._calls[result.tool_call_id]
        texts = tuple(part for part in result.parts if isinstance(part.content, TextPart))
        media = tuple(part for part in result.parts if not isinstance(part.content, TextPart))
        key = "error" if result.is_error else "output"
        written: dict[str, Any] = {"name": name, "response": {key: joined_text(texts, f"{field}.parts")}}
        if media:
            written["parts"] = [self._part(part, f"{field}.parts") for part in media]
        if wire_id is not None:
            written["id"] = wire_id
        return {"functionResponse": written}


def _media(source: MediaSource, name: str = "") -> dict[str, Any]:
    """Write media: inline, or by reference."""
    if isinstance(source, InlineMedia):
        inline = {"mimeType": source.media_type, "data": base64_text(source.data)}
        return {"inlineData": inline | ({"displayName": name} if name else {})}
    file = {"fileUri": source.url} | ({"mimeType": source.media_type} if source.media_type else {})
    return {"fileData": file | ({"displayName": name} if name else {})}


def _arguments(text: str, field: str) -> msgspec.Raw | dict[str, Any]:
    """Write a call's arguments, which have to be an object here."""
    if not text.strip():
        return {}
    raw_object(text.encode(), f"{field}.tool_call.arguments_json")
    return raw_json(text)


def _tools(tools: tuple[Tool, ...]) -> list[dict[str, Any]]:
    """Write the tools: all functions in one, then the provider's own."""
    functions: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    for number, tool in enumerate(tools):
        field = f"tools[{number}]"
        if tool.cache_hint is not None:
            raise unsupported(f"{field}.cache_hint")
        match tool:
            case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
                if strict:
                    raise unsupported(f"{field}.function.strict")
                function: dict[str, Any] = {"name": name}
                if description:
                    function["description"] = description
                if schema:
                    function["parametersJsonSchema"] = raw_json(schema)
                functions.append(function)
            case ProviderTool(type=kind, config_json=config):
                own.append({kind: raw_object(config.encode(), f"{field}.provider_tool.config_json")})
    return ([{"functionDeclarations": functions}] if functions else []) + own


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    """Write how tools may be used."""
    match choice:
        case ToolChoiceFunction(name=name):
            return {"mode": "ANY", "allowedFunctionNames": [name]}
        case word:
            return {"mode": _MODES[word]}


def _config(generation: Generation) -> dict[str, Any]:
    """Write the numbers that steer generation, and the form of the answer."""
    config = _sampling(generation.sampling)
    if generation.response_format is not None:
        config |= _format(generation.response_format)
    if generation.reasoning is not None:
        config["thinkingConfig"] = _thinking(generation.reasoning)
    if generation.top_logprobs is not None:
        config["responseLogprobs"] = True
        if generation.top_logprobs:
            config["logprobs"] = generation.top_logprobs
    return config


_NAMES = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_output_tokens": "maxOutputTokens",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
}


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Write the sampling numbers that were given."""
    if sampling.min_p is not None:
        raise unsupported("sampling.min_p")
    config = {wire: value for name, wire in _NAMES.items() if (value := getattr(sampling, name)) is not None}
    if sampling.stop_sequences:
        config["stopSequences"] = sampling.stop_sequences
    return config


def _format(form: ResponseFormat) -> dict[str, Any]:
    """Write the form of the answer. A schema is always kept to."""
    match form:
        case JsonFormat():
            return {"responseMimeType": "application/json"}
        case JsonSchemaFormat(json_schema=schema, strict=strict, description=description):
            if strict is False:
                raise unsupported("response_format.json_schema.strict", "a schema is always kept to here")
            if description:
                raise unsupported("response_format.json_schema.description")
            return {"responseMimeType": "application/json", "responseJsonSchema": raw_json(schema)}


def _thinking(reasoning: Reasoning) -> dict[str, Any]:
    """Write how the model thinks."""
    written: dict[str, Any] = {}
    if reasoning.budget_tokens is not None:
        written["thinkingBudget"] = reasoning.budget_tokens
    elif reasoning.effort is ReasoningEffort.NONE:
        written["thinkingBudget"] = 0
    elif reasoning.effort is not None:
        written["thinkingLevel"] = _LEVELS[reasoning.effort]
    if reasoning.include_text:
        written["includeThoughts"] = True
    return written
