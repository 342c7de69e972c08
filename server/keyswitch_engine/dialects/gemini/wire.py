"""The wire types of generateContent: what a response holds, as far as it is read."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["RESPONSE", "Candidate", "FunctionCall", "Grounding", "InlineData", "Part", "Response", "Usage"]


class FunctionCall(msgspec.Struct):
    """A call of one of the client's functions."""

    name: str | None = None
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw()


class InlineData(msgspec.Struct, rename="camel"):
    """Media."""

    mime_type: str | None = None
    data: str | None = None


class Part(msgspec.Struct, rename="camel"):
    """A part of a content. What the provider's own tools did and said stays as it is."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None
    executable_code: msgspec.Raw = msgspec.Raw()
    code_execution_result: msgspec.Raw = msgspec.Raw()
    tool_call: msgspec.Raw = msgspec.Raw()
    tool_response: msgspec.Raw = msgspec.Raw()
    file_data: msgspec.Raw = msgspec.Raw()


class _Content(msgspec.Struct):
    parts: list[Part] | None = None


class _Web(msgspec.Struct):
    uri: str | None = None
    title: str | None = None


class _Chunk(msgspec.Struct, rename="camel"):
    web: _Web | None = None
    retrieved_context: _Web | None = None


class _Segment(msgspec.Struct):
    text: str | None = None


class _Support(msgspec.Struct, rename="camel"):
    segment: _Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class Grounding(msgspec.Struct, rename="camel"):
    """Sources that the answer rests on."""

    grounding_chunks: list[_Chunk] | None = None
    grounding_supports: list[_Support] | None = None


class _Citation(msgspec.Struct):
    uri: str | None = None
    title: str | None = None


class _Citations(msgspec.Struct, rename="camel"):
    citation_sources: list[_Citation] | None = None
    citations: list[_Citation] | None = None


class _Token(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _Alternatives(msgspec.Struct):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Alternatives] | None = None


class Candidate(msgspec.Struct, rename="camel"):
    """One of the answers; only the first was asked for."""

    index: int | None = None
    content: _Content | None = None
    finish_reason: str | int | None = None
    citation_metadata: _Citations | None = None
    grounding_metadata: Grounding | None = None
    logprobs_result: _Logprobs | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | int | None = None


class Response(msgspec.Struct, rename="camel"):
    """A response, or a piece of one."""

    candidates: list[Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: dict[str, Any] | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class Usage(msgspec.Struct, rename="camel"):
    """Token counts; zeros are left out by Google's JSON."""

    prompt_token_count: float | None = None
    candidates_token_count: float | None = None
    thoughts_token_count: float | None = None
    cached_content_token_count: float | None = None
    tool_use_prompt_token_count: float | None = None
    total_token_count: float | None = None


RESPONSE = msgspec.json.Decoder(Response)
"""Decodes a response."""
