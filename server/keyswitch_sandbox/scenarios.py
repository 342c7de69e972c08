"""What the sandbox says, whatever the dialect: the behaviours that model names choose.

A scenario is a list of things said and at most one thing going wrong. How either is spelt is the dialect's business.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

__all__ = [
    "SCENARIOS",
    "SIGNATURE",
    "Conversation",
    "Failure",
    "Reasoning",
    "Refusal",
    "Said",
    "Script",
    "Signature",
    "Text",
    "Tool",
    "ToolCall",
    "Tuning",
    "Wire",
    "script",
]


class Failure(enum.Enum):
    """An error that the provider reports before it answers."""

    BAD_KEY = "bad-key"
    NOT_PERMITTED = "not-permitted"
    OUT_OF_CREDIT = "out-of-credit"
    PAYMENT_REQUIRED = "payment-required"
    RATE_LIMITED = "rate-limited"
    MODEL_NOT_FOUND = "model-not-found"
    BAD_REQUEST = "bad-request"
    CONTEXT_OVERFLOW = "context-overflow"
    CONTENT_REFUSED = "content-refused"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    ERROR_IN_200 = "error-in-200"


class Wire(enum.Enum):
    """Something that goes wrong below the dialect, or in the middle of it."""

    HTML = "html"
    BAD_JSON = "bad-json"
    TRUNCATED = "truncated"
    RESET = "reset"
    ERROR_MID_STREAM = "error-mid-stream"
    STALL = "stall"
    STALL_MID_STREAM = "stall-mid-stream"
    DRIP = "drip"
    ENDLESS = "endless"
    HUGE_LINE = "huge-line"
    REDIRECT = "redirect"
    GZIP_BOMB = "gzip-bomb"
    MANY_HEADERS = "many-headers"


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The field `sandbox` of a request body, which tunes a scenario."""

    tokens: int = 0
    """Says this many words, ` tok0 tok1 …`, instead."""
    interval_ms: float = 0.0
    """Milliseconds before each piece."""
    first_ms: float = 0.0
    """Milliseconds before the headers."""
    after: int = 3
    """Pieces that are said before something goes wrong."""
    times: int = 0
    """How often a model goes wrong for one key before it echoes instead; 0 for always."""
    retry_after: float = 0.0
    """Seconds that a failure asks to wait; 0 for what it asks by itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    schema: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """What a request says, as its dialect's renderer read it."""

    text: str
    """The last thing that the user said."""
    tools: tuple[Tool, ...]
    tool_result: str | None
    """The last tool result, if the conversation ends with one."""
    schema: Mapping[str, Any] | None
    """The JSON Schema that the answer has to fit."""
    body: bytes
    """The request as it came."""
    input_tokens: int
    results: int = 0
    """How many tool results it has."""
    signs: bool = False
    """Whether the dialect has signatures that have to come back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of reasoning."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A piece of a refusal."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCall:
    """A piece of a tool call: the first of an index names it, all add to its arguments."""

    index: int
    name: str
    fragment: str
    number: int = 0
    """Counts the calls of the whole conversation, whose ids differ by it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """What a provider attaches to the reasoning before, and wants back with it."""

    text: str


Said: TypeAlias = Text | Reasoning | Refusal | ToolCall | Signature

SIGNATURE = "c2FuZGJveC1zaWduYXR1cmU="
"""The signature of every signed reasoning."""


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """What happens."""

    said: tuple[Said, ...] = ()
    stop: str = "stop"
    """`stop`, `length`, `tool_calls` or `content_filter`."""
    failure: Failure | None = None
    wire: Wire | None = None
    interval_ms: float = 0.0


def _words(text: str) -> tuple[Said, ...]:
    """Cut text into words, each with the white space before it."""
    return tuple(Text(word) for word in re.findall(r"\s*\S+|\s+$", text))


def _echo(conversation: Conversation) -> Script:
    return Script(_words(conversation.text))


def _tools(conversation: Conversation) -> Script:
    if conversation.tool_result is not None:
        return Script(_words(f"The tool said: {conversation.tool_result}"))
    said: list[Said] = []
    for index, tool in enumerate(conversation.tools):
        arguments = msgspec.json.encode(_instance(tool.schema)).decode()
        half = len(arguments) // 2
        number = conversation.results + index
        said += (ToolCall(index, tool.name, "", number), ToolCall(index, "", arguments[:half], number))
        said.append(ToolCall(index, "", arguments[half:], number))
    return Script(tuple(said), "tool_calls") if said else Script(_words("There is no tool to call."))


def _reasoning(conversation: Conversation) -> Script:
    thoughts = tuple(Reasoning(piece) for piece in ("The user", " says", " something."))
    return Script((*thoughts, *_words(f"You said: {conversation.text}")))


def _json(conversation: Conversation) -> Script:
    return Script(tuple(Text(piece) for piece in re.findall(r".{1,8}", _instance_text(conversation.schema or {}))))


def _instance_text(schema: Mapping[str, Any] | bool) -> str:  # noqa: FBT001 - JSON Schema's own
    return msgspec.json.encode(_instance(schema)).decode()


def _instance(schema: Mapping[str, Any] | bool) -> Any:  # noqa: FBT001 - likewise
    """Return a small value that fits a schema, as far as the usual keywords go; `true` is one that all values fit."""
    if isinstance(schema, bool):
        return "text"
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            return {name: _instance(inner) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [_instance(schema.get("items", {"type": "string"}))]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "text"


def _signed(conversation: Conversation) -> Script:
    """Reason, sign it and call a tool; refuse the result where the signature does not come back with it."""
    if conversation.tool_result is not None:
        if conversation.signs and SIGNATURE.encode() not in conversation.body:
            return Script(failure=Failure.BAD_REQUEST)
        return Script(_words(f"The tool said: {conversation.tool_result}"))
    calls = _tools(conversation)
    return dataclasses.replace(
        calls, said=(Reasoning("Let me"), Reasoning(" think."), Signature(SIGNATURE), *calls.said)
    )


def _wire(wire: Wire) -> Callable[[Conversation], Script]:
    return lambda conversation: Script(_words(conversation.text or "one two three four five six"), wire=wire)


def _fails(failure: Failure) -> Callable[[Conversation], Script]:
    return lambda _: Script(failure=failure)


SCENARIOS: Mapping[str, Callable[[Conversation], Script]] = {
    "echo": _echo,
    "slow": lambda conversation: dataclasses.replace(_echo(conversation), interval_ms=50.0),
    "tools": _tools,
    "reasoning": _reasoning,
    "json": _json,
    "signed": _signed,
    "length": lambda conversation: dataclasses.replace(_echo(conversation), stop="length"),
    "content-filter": lambda conversation: dataclasses.replace(_echo(conversation), stop="content_filter"),
    "refusal": lambda _: Script((Refusal("I cannot"), Refusal(" help with that."))),
    "empty": lambda _: Script(),
    "echo-request": lambda conversation: Script((Text(conversation.body.decode("utf-8", "replace")),)),
    **{failure.value: _fails(failure) for failure in Failure},
    **{wire.value: _wire(wire) for wire in Wire},
}
"""Every behaviour by its name behind `sandbox/`."""


def script(name: str, conversation: Conversation, tuning: Tuning) -> Script | None:
    """Return what happens for a model; None if there is no such scenario."""
    scenario = SCENARIOS.get(name)
    if scenario is None:
        return None
    made = scenario(conversation)
    if tuning.tokens:
        made = dataclasses.replace(made, said=tuple(_numbered(tuning.tokens)))
    if tuning.interval_ms:
        made = dataclasses.replace(made, interval_ms=tuning.interval_ms)
    return made


def _numbered(count: int) -> Iterator[Text]:
    return (Text(f" tok{number}") for number in range(count))
