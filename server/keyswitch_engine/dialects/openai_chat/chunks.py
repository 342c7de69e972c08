"""The wire types of chat completions: what a chunk or a whole completion holds, as far as it is read.

Types are as lenient as the field is diverse: what several providers send in several shapes is `Any` and looked at where
it is used.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "DECODER",
    "Annotation",
    "Choice",
    "Completion",
    "ContentPart",
    "Custom",
    "Delta",
    "Function",
    "Logprobs",
    "ToolCall",
    "UrlCitation",
    "WireTokenLogprob",
    "WireTopLogprob",
    "XGroq",
]


class Function(msgspec.Struct):
    """A function's name and arguments, or fragments of them."""

    name: str | None = None
    arguments: Any = None


class Custom(msgspec.Struct):
    """A call of a tool that takes free text."""

    name: str | None = None
    input: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call, or a fragment of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Custom | None = None


class ContentPart(msgspec.Struct):
    """A part of content that is an array."""

    type: str = "text"
    text: str | None = None
    thinking: Any = None
    refusal: str | None = None


class UrlCitation(msgspec.Struct):
    """A source on the web."""

    url: str = ""
    title: str | None = None
    content: str | None = None
    start_index: int | None = None
    end_index: int | None = None


class Annotation(msgspec.Struct):
    """What is attached to text."""

    url_citation: UrlCitation | None = None


class Delta(msgspec.Struct):
    """What a chunk adds, or a whole message."""

    content: str | list[ContentPart] | dict[str, Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_text: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    annotations: list[Annotation] | None = None
    images: Any = None  # OpenRouter
    audio: Any = None  # OpenAI


class WireTopLogprob(msgspec.Struct):
    """A token and its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class WireTokenLogprob(WireTopLogprob):
    """A token with its alternatives."""

    top_logprobs: list[WireTopLogprob] | None = None


class Logprobs(msgspec.Struct):
    """Log probabilities of a choice."""

    content: list[WireTokenLogprob] | None = None


class Choice(msgspec.Struct):
    """One of the answers; only the first was asked for."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    usage: msgspec.Raw = msgspec.Raw()  # Moonshot
    error: msgspec.Raw = msgspec.Raw()  # OpenRouter, of the one provider behind it


class XGroq(msgspec.Struct):
    """Groq's own object, which holds usage where it was not asked for."""

    usage: msgspec.Raw = msgspec.Raw()


class Completion(msgspec.Struct):
    """A chunk or a whole completion."""

    id: str | int | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    x_groq: XGroq | None = None
    base_resp: Any = None  # MiniMax, with a status that is 0 unless the call failed
    object: Any = None
    message: msgspec.Raw = msgspec.Raw()  # of a failure without an envelope (vLLM)
    search_results: Any = None  # Perplexity
    citations: Any = None  # likewise, and xAI


DECODER = msgspec.json.Decoder(Completion)
"""Decodes either."""
