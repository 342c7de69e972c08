"""Requests of chat completions.

The body is written field by field in the order of the API reference. JSON of the caller's is put into it as text, since
parsing it would lose key order, which decides prompt-cache hits, and large integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.dialects.writing import (
    base64_text,
    encode_body,
    joined_text,
    media_url,
    own_state,
    raw_json,
    raw_object,
    short_id,
    unsupported,
)
from keyswitch_engine.errors import InvalidRequest, Violation
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
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["write_body"]

_EFFORTS = {
    ReasoningEffort.NONE: "none",
    ReasoningEffort.MINIMAL: "minimal",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.MAX: "xhigh",
}
_ON_AND_OFF = {ReasoningEffort.NONE: "disabled", ReasoningEffort.HIGH: "enabled"}
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def write_body(
    generation: Generation, model: str, provider: str, flags: ChatFlags, options_json: str, *, stream: bool
) -> bytes:
    """Write the request body; see `Dialect.request`."""
    body: dict[str, Any] = {"model": model, "messages": _messages(generation, provider, flags)}
    if stream:
        body["stream"] = True
        if flags.include_usage:
            body["stream_options"] = {"include_usage": True}
    if generation.tools:
        _write_tools(body, generation, flags)
    if generation.parallel_tool_calls is not None:
        if not flags.parallel_tool_calls:
            raise unsupported("parallel_tool_calls")
        body["parallel_tool_calls"] = generation.parallel_tool_calls
    match generation.response_format:
        case JsonFormat():
            body["response_format"] = {"type": "json_object"}
        case JsonSchemaFormat() as schema:
            body["response_format"] = _json_schema(schema, flags)
        case None:
            pass
    _write_sampling(body, generation.sampling, flags)
    if generation.reasoning is not None:
        _write_reasoning(body, generation.reasoning, flags)
    if generation.top_logprobs is not None:
        if not flags.logprobs:
            raise unsupported("logprobs")
        body["logprobs"] = True
        if generation.top_logprobs:
            body["top_logprobs"] = generation.top_logprobs
    if generation.end_user_id:
        if flags.user_field == "none":
            raise unsupported("end_user_id")
        body[flags.user_field] = generation.end_user_id
    return encode_body(body, options_json)


def _messages(generation: Generation, provider: str, flags: ChatFlags) -> list[dict[str, Any]]:
    """Write the conversation."""
    written: list[dict[str, Any]] = []
    if generation.system:
        written.append({"role": flags.system_role, "content": _system(generation.system, flags, "system")})
    for number, message in enumerate(generation.messages):
        field = f"messages[{number}]"
        match message.role:
            case Role.TOOL:
                named = {"name": message.name} if message.name else {}
                written.extend(result | named for result in _tool_results(message, flags, field))
            case Role.ASSISTANT:
                written.append(_assistant(message, provider, flags, field))
            case Role.SYSTEM:
                content = _system(message.parts, flags, f"{field}.parts")
                written.append({"role": flags.system_role, "content": content})
            case Role.USER:
                written.append({"role": "user", "content": _user_content(message.parts, flags, field)})
        if message.name and message.role is not Role.TOOL:
            written[-1]["name"] = message.name
    return written


def _system(parts: tuple[Part, ...], flags: ChatFlags, field: str) -> str | list[dict[str, Any]]:
    """Write system text: a plain string, as every provider understands, unless a part of it is to be cached."""
    if all(part.cache_hint is None for part in parts):
        return joined_text(parts, field)
    return [
        _hinted(_text(part, f"{field}[{n}]"), part.cache_hint, flags, f"{field}[{n}]") for n, part in enumerate(parts)
    ]


def _text(part: Part, field: str) -> dict[str, Any]:
    """Write a text part."""
    if not isinstance(part.content, TextPart):
        raise unsupported(field, "only text goes here")
    return {"type": "text", "text": part.content.text}


_TTL = {CacheRetention.DEFAULT: "", CacheRetention.SHORT: "5m", CacheRetention.LONG: "1h"}


def _hinted(written: dict[str, Any], hint: CacheHint | None, flags: ChatFlags, field: str) -> dict[str, Any]:
    """Mark a part as the end of what is to be cached, in the way that Anthropic's models have made common."""
    if hint is None:
        return written
    if not flags.cache_hints:
        raise unsupported(f"{field}.cache_hint")
    ttl = _TTL[hint.retention]
    return written | {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}


def _user_content(parts: tuple[Part, ...], flags: ChatFlags, field: str) -> str | list[dict[str, Any]]:
    """Write what the user says: a plain string where it is one text, as every provider understands."""
    if len(parts) == 1 and isinstance(parts[0].content, TextPart) and parts[0].cache_hint is None:
        return parts[0].content.text
    paths = [f"{field}.parts[{number}]" for number in range(len(parts))]
    return [
        _hinted(_user_part(part, path), part.cache_hint, flags, path) for part, path in zip(parts, paths, strict=True)
    ]


def _user_part(part: Part, field: str) -> dict[str, Any]:
    """Write one content part."""
    match part.content:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ImagePart(source=source, detail=detail):
            image = {"url": media_url(source)}
            if detail:
                image["detail"] = detail
            return {"type": "image_url", "image_url": image}
        case AudioPart(source=InlineMedia(data=data, media_type=media_type)) if media_type in _AUDIO_FORMATS:
            audio = {"data": base64_text(data), "format": _AUDIO_FORMATS[media_type]}
            return {"type": "input_audio", "input_audio": audio}
        case AudioPart():
            raise unsupported(f"{field}.audio", "only inline audio/wav and audio/mpeg")
        case FilePart(source=InlineMedia() as source, filename=filename):
            return {"type": "file", "file": {"filename": filename or "file", "file_data": media_url(source)}}
        case FilePart():
            raise unsupported(f"{field}.file", "only inline files")
        case ToolCallPart() | ToolResultPart() | ReasoningPart() | RefusalPart() | OpaquePart():
            raise unsupported(field, "not in a user's message")


def _tool_results(message: Message, flags: ChatFlags, field: str) -> Iterable[dict[str, Any]]:
    """Write results, a message each. The dialect has no mark for a failed tool, so its text says so."""
    for number, part in enumerate(message.parts):
        if not isinstance(part.content, ToolResultPart):
            raise unsupported(f"{field}.parts[{number}]", "only tool results go here")
        if part.cache_hint is not None:
            raise unsupported(f"{field}.parts[{number}].cache_hint")
        text = joined_text(part.content.parts, f"{field}.parts[{number}].tool_result.parts")
        yield {
            "role": "tool",
            "tool_call_id": _call_id(part.content.tool_call_id, flags),
            "content": f"Error: {text}" if part.content.is_error else text,
        }


def _assistant(message: Message, provider: str, flags: ChatFlags, field: str) -> dict[str, Any]:
    """Write what the model said earlier, with the state that its provider wants back."""
    texts: list[str] = []
    refusals: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    details: list[bytes] = []
    images: list[dict[str, Any]] = []
    audio: dict[str, msgspec.Raw] = {}
    for number, part in enumerate(message.parts):
        if part.cache_hint is not None:
            raise unsupported(f"{field}.parts[{number}].cache_hint")
        match part.content:
            case TextPart(text=text):
                texts.append(text)
            case RefusalPart(text=text):
                refusals.append(text)
            case ReasoningPart(text=text):
                reasoning.append(text)
                if state := own_state(part.state, provider, "openai-chat"):
                    details.append(state)
            case ToolCallPart(id=call_id, name=name, arguments_json=arguments):
                function = {"name": name, "arguments": arguments or "{}"}
                calls.append({"id": _call_id(call_id, flags), "type": "function", "function": function})
            case OpaquePart():
                pass  # of another dialect, since this one has none
            case ImagePart(source=source) if flags.assistant_images:
                images.append({"type": "image_url", "image_url": {"url": media_url(source)}})
            case AudioPart() if state := own_state(part.state, provider, "openai-chat"):
                audio = raw_object(state, f"{field}.parts[{number}].provider_state")
            case ImagePart() | AudioPart() | FilePart() | ToolResultPart():
                raise unsupported(f"{field}.parts[{number}]", "not in an assistant's message")
    written: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if refusals:
        written["refusal"] = "".join(refusals)
    if details:
        written["reasoning_details"] = _joined_arrays(details, field)
    elif reasoning and flags.reasoning_echo != "none":
        written[flags.reasoning_echo] = "".join(reasoning)
    if images:
        written["images"] = images
    if audio:
        written["audio"] = audio
    if calls:
        written["tool_calls"] = calls
    return written


def _call_id(call_id: str, flags: ChatFlags) -> str:
    """Return a tool call's id as the provider takes it."""
    return short_id(call_id) if flags.short_tool_ids else call_id


def _joined_arrays(arrays: list[bytes], field: str) -> list[msgspec.Raw]:
    """Join the JSON arrays of several states, each entry verbatim."""
    entries: list[msgspec.Raw] = []
    for array in arrays:
        try:
            entries += msgspec.json.decode(array, type=list[msgspec.Raw])
        except MALFORMED_JSON as error:
            raise InvalidRequest(
                [Violation(f"{field}.parts", "a provider_state is not what this provider handed out")]
            ) from error
    return entries


def _write_tools(body: dict[str, Any], generation: Generation, flags: ChatFlags) -> None:
    """Write tools and how they may be used."""
    if not flags.tools:
        raise unsupported("tools")
    body["tools"] = [_tool(tool, flags, f"tools[{number}]") for number, tool in enumerate(generation.tools)]
    match generation.tool_choice:
        case None:
            pass
        case ToolChoiceFunction(name=name):
            body["tool_choice"] = {"type": "function", "function": {"name": name}}
        case "required":
            if flags.tool_choice_required == "none":
                raise unsupported("tool_choice.required")
            body["tool_choice"] = flags.tool_choice_required
        case choice:
            body["tool_choice"] = choice


def _tool(tool: Tool, flags: ChatFlags, field: str) -> dict[str, Any]:
    """Write one tool."""
    if tool.cache_hint is not None:
        raise unsupported(f"{field}.cache_hint")
    match tool:
        case FunctionTool(name=name, description=description, parameters_json_schema=schema, strict=strict):
            function: dict[str, Any] = {"name": name}
            if description:
                function["description"] = description
            if schema:
                function["parameters"] = raw_json(schema)
            if strict is not None:
                if not flags.strict_tools:
                    raise unsupported(f"{field}.function.strict")
                function["strict"] = strict
            return {"type": "function", "function": function}
        case ProviderTool():
            raise unsupported(f"{field}.provider_tool")


def _json_schema(schema: JsonSchemaFormat, flags: ChatFlags) -> dict[str, Any]:
    """Write the form of a structured answer."""
    if not flags.json_schema:
        raise unsupported("response_format.json_schema")
    inner: dict[str, Any] = {"name": schema.name}
    if schema.description:
        inner["description"] = schema.description
    inner["schema"] = raw_json(schema.json_schema)
    if schema.strict is not None:
        inner["strict"] = schema.strict
    return {"type": "json_schema", "json_schema": inner}


def _write_sampling(body: dict[str, Any], sampling: Sampling, flags: ChatFlags) -> None:
    """Write the sampling numbers that were given."""
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        if value is not None:
            body[name] = value
    extra: tuple[str, ...] = flags.extra_sampling
    for name in ("top_k", "min_p"):
        value = getattr(sampling, name)
        if value is not None:
            if name not in extra:
                raise unsupported(f"sampling.{name}")
            body[name] = value
    if sampling.seed is not None:
        if flags.seed_field == "none":
            raise unsupported("sampling.seed")
        body[flags.seed_field] = sampling.seed
    if sampling.max_output_tokens is not None:
        body[flags.max_tokens_field] = sampling.max_output_tokens
    if sampling.stop_sequences:
        body["stop"] = list(sampling.stop_sequences)


def _write_reasoning(body: dict[str, Any], reasoning: Reasoning, flags: ChatFlags) -> None:
    """Write how long the model thinks, in the provider's form."""
    effort, budget = reasoning.effort, reasoning.budget_tokens
    match flags.reasoning_control:
        case "effort" if budget is None and effort is not None:
            body["reasoning_effort"] = _EFFORTS[effort]
        case "object" if budget is not None:
            body["reasoning"] = {"max_tokens": budget}
        case "object" if effort is not None:
            body["reasoning"] = {"effort": _EFFORTS[effort]}
        case "thinking" if budget is None and effort in _ON_AND_OFF:
            body["thinking"] = {"type": _ON_AND_OFF[effort]}
        case "thinking" if budget is None and effort is not None:
            raise unsupported("reasoning.effort", "thinking is on, by high, or off, by none")
        case _ if effort is None and budget is None:
            pass
        case _:
            raise unsupported("reasoning.effort" if budget is None else "reasoning.budget_tokens")
