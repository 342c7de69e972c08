"""A request without what was said: its shape, its numbers, and the words that belong to the protocol.

For people who want to see how a request is told to a provider, in a terminal or a ticket. What the caller wrote is
replaced before a dialect writes it, never looked for in what was written: by then a word of the protocol and a word of
the caller's look the same. What is shown is listed field by field, so that a field that is added is hidden.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from keyswitch_engine.dialects.writing import raw_object
from keyswitch_engine.events import ProviderState
from keyswitch_engine.generation import (
    FunctionTool,
    Generation,
    ImagePart,
    InlineMedia,
    JsonSchemaFormat,
    MediaUrl,
    ProviderTool,
    ToolCallPart,
    ToolResultPart,
)
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["HIDDEN", "HIDDEN_OBJECT", "outlined", "outlined_options"]

S = TypeVar("S", bound=msgspec.Struct)

HIDDEN: Final = "…"
"""What stands in place of a text; in place of bytes its own, which are `4oCm` in base64."""
HIDDEN_OBJECT: Final = '{"…":"…"}'
"""What stands in place of a JSON object."""

_SHOWN = frozenset(
    {
        (Generation, "tool_choice"),
        (ImagePart, "detail"),
        (InlineMedia, "media_type"),
        (MediaUrl, "media_type"),
        (ProviderTool, "type"),
    }
)
"""Fields whose texts are words of a protocol."""
_OBJECTS = frozenset(
    {
        (FunctionTool, "parameters_json_schema"),
        (JsonSchemaFormat, "json_schema"),
        (ToolCallPart, "arguments_json"),
    }
)
"""Fields whose texts are JSON objects, as the bridge or the dialects hold them to."""
_IDS = frozenset({(ToolCallPart, "id"), (ToolResultPart, "tool_call_id")})
"""Fields by which parts refer to each other."""

_NAMES = frozenset(
    {
        "action", "allowed_domains", "blocked_domains", "cache_control", "call_id", "caller", "carrier", "citations",
        "codeExecutionResult", "container", "content", "data", "encrypted_content", "executableCode", "fileData",
        "filters", "functionCall", "functionResponse", "headers", "id", "inlineData", "input", "is_error", "max_uses",
        "name", "output", "phase", "redactedContent", "result", "role", "server_label", "server_url", "signature",
        "status", "strict", "summary", "text", "thinking", "thought", "thoughtSignature", "toolCall", "toolResponse",
        "toolResult", "toolUse", "tool_use_id", "type", "user_location", "vector_store_ids",
    }
)  # fmt: skip
"""Names of fields that states and configurations add to a dialect's own objects, which are told by some of them."""
_WORDS = frozenset({b'"commentary"', b'"custom_tool_call"', b'"final_answer"', b'"thinking"', b'"tool_plan"'})
"""Values of them that are words of a protocol, of which dialects read Cohere's carriers."""

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw])


def outlined(generation: Generation) -> Generation:
    """Return what is written to the same fields as *generation*, and has nothing in it that anybody said.

    Its texts and media are hidden, its calls are numbered, and of JSON only that there is some is left. A *generation*
    that a dialect can write stays one.
    """
    return _Outliner().struct(generation)


def outlined_options(options_json: str) -> str:
    """Return options with their names, without their values.

    Raises:
        InvalidRequest: they are no JSON object.
    """
    options = raw_object(options_json, "target.options_json")
    shown = {name: _outlined_option(bytes(value)) for name, value in options.items()}
    return msgspec.json.encode(shown).decode() if shown else ""


def _outlined_option(value: bytes) -> msgspec.Raw:
    """Return what stands for an option; an object for an object, since a dialect merges those into its own."""
    return msgspec.Raw(_hidden_object(value.decode()) if value.lstrip().startswith(b"{") else f'"{HIDDEN}"')


def _hidden_object(text: str) -> str:
    """Return what stands for a JSON object; none at all, or an empty one, stays what it is."""
    return text if text.strip() in ("", "{}") else HIDDEN_OBJECT


class _Outliner:
    """Outlines one generation."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._others: dict[bytes, int] = {}

    def struct(self, value: S) -> S:
        """Return the outline of a value."""
        kind = type(value)
        return kind(**{name: self._field((kind, name), getattr(value, name)) for name in kind.__struct_fields__})

    def _field(self, field: tuple[type, str], value: Any) -> Any:
        """Return the outline of what is in a field; numbers, switches and enumerations are no words."""
        match value:
            case ProviderState(provider=provider, dialect=dialect, data=data):
                return ProviderState(provider, dialect, self._fields(data))
            case msgspec.Struct():
                return self.struct(value)
            case tuple():
                return tuple([self._field(field, inner) for inner in value])
            case bytes():
                return value and HIDDEN.encode()
            case str() if value and field not in _SHOWN:
                return self._text(field, value)
            case _:
                return value

    def _text(self, field: tuple[type, str], text: str) -> str:
        """Return what stands for a text."""
        if field == (ProviderTool, "config_json"):
            return self._fields(text.encode()).decode()
        if field in _OBJECTS:
            return _hidden_object(text)
        if field in _IDS:
            return f"call_{self._calls.setdefault(text, len(self._calls) + 1)}"
        return HIDDEN

    def _fields(self, data: bytes) -> bytes:
        """Return what stands for JSON whose fields go into a dialect's own object: as many, and as different."""
        try:
            fields = _FIELDS.decode(data)
        except MALFORMED_JSON:
            return b""  # nothing at all, which every dialect takes; what it can write itself is sound
        if isinstance(fields, list):
            return msgspec.json.encode([HIDDEN] * len(fields))
        return msgspec.json.encode({self._name(name): self._value(bytes(value)) for name, value in fields.items()})

    def _name(self, name: str) -> str:
        """Return what stands for a field's name."""
        return name if name in _NAMES else self._numbered(name.encode())

    def _value(self, value: bytes) -> msgspec.Raw | str:
        """Return what stands for a field's value."""
        return msgspec.Raw(value) if value in _WORDS else self._numbered(value)

    def _numbered(self, data: bytes) -> str:
        """Return the same text for the same data, and another for other data."""
        return f"{HIDDEN}{self._others.setdefault(data, len(self._others) + 1)}"
