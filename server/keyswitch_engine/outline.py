"""A request body without what was said: its shape, its numbers, and the words that belong to the protocol.

For people who want to see how a request is told to a provider, in a terminal or a ticket. Whatever could be content, a
key or personal is replaced: every text but those of a few fields, and all that a caller's own JSON holds.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = ["HIDDEN", "outline"]

HIDDEN: Final = "…"
"""What stands in place of a text."""

_SHOWN = frozenset(
    {
        "model", "type", "role", "effort", "tool_choice", "mode", "display", "detail", "status", "format", "truncation",
        "anthropic_version", "media_type", "mimeType", "responseMimeType", "reasoning_effort", "thinkingLevel",
        "maxReasoningEffort", "service_tier", "sort", "data_collection", "include", "order", "only", "ignore",
        "quantizations", "ttl",
    }
)  # fmt: skip
"""Fields whose texts are words of a protocol."""
_FOREIGN = frozenset(
    {
        "parameters", "parametersJsonSchema", "input_schema", "schema", "responseJsonSchema", "json", "jsonSchema",
        "arguments", "args", "response", "metadata",
    }
)  # fmt: skip
"""Fields whose values are the caller's own JSON, or the model's."""
_FORMATS = frozenset({"text", "json_object", "json_schema"})
"""What the type of a format can be in Responses; Ollama's `format` is a schema itself."""


def outline(body: bytes) -> str:
    """Return the outline of a body as JSON, its fields in their order."""
    return msgspec.json.encode(_outlined(msgspec.json.decode(body), shown=False)).decode()


def _outlined(value: Any, *, shown: bool) -> Any:
    """Return a value without texts, unless they are *shown*."""
    match value:
        case str():
            return value if shown else HIDDEN
        case dict():
            return {name: _field(name, inner) for name, inner in value.items()}
        case list():
            return [_outlined(inner, shown=shown) for inner in value]
        case _:
            return value


def _field(name: str, value: Any) -> Any:
    """Return the value of a field."""
    return HIDDEN if _is_foreign(name, value) else _outlined(value, shown=name in _SHOWN)


def _is_foreign(name: str, value: Any) -> bool:
    """Say whether a value is somebody's own JSON; where a name has two meanings, by its dialect's other fields."""
    match name:
        case "input":
            return not isinstance(value, list)  # the conversation in Responses, arguments in Messages
        case "format":
            return isinstance(value, dict) and value.get("type") not in _FORMATS  # a wrapper in Responses
        case "json_schema":
            return isinstance(value, dict) and "schema" not in value  # a wrapper in chat completions
        case _:
            return name in _FOREIGN
