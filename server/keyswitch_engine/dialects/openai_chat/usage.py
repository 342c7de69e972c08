"""Token counts of chat completions, in the spellings that are in use."""

from __future__ import annotations

import msgspec

from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.dialects.reading import first_count, including, usage_json
from keyswitch_engine.errors import ProtocolError
from keyswitch_engine.events import ReportedUsage, Usage
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["read_usage"]


class _InputDetails(msgspec.Struct):
    cached_tokens: float | None = None
    cache_write_tokens: float | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: float | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    total_tokens: float | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: float | None = None  # DeepSeek
    cached_tokens: float | None = None  # Moonshot
    reasoning_tokens: float | None = None  # Perplexity


_DECODER = msgspec.json.Decoder(_Usage)


def read_usage(raw: bytes, flags: ChatFlags) -> Usage:
    """Read a `usage` object.

    The normalised counts include cached input and reasoning; where the row does not say how the provider counts and a
    part of unknown relation was reported, they stay absent rather than be guessed.
    """
    try:
        usage = _DECODER.decode(raw)
    except MALFORMED_JSON as error:
        raise ProtocolError("the provider sent a usage object that is not in its dialect") from error
    cached, cache_write = first_count(usage.prompt_cache_hit_tokens, usage.cached_tokens), None
    if usage.prompt_tokens_details is not None:
        cached = first_count(usage.prompt_tokens_details.cached_tokens, cached)
        cache_write = first_count(usage.prompt_tokens_details.cache_write_tokens)
    reasoning = first_count(usage.reasoning_tokens)
    if usage.completion_tokens_details is not None:
        reasoning = first_count(usage.completion_tokens_details.reasoning_tokens, reasoning)
    reported = ReportedUsage(
        input_tokens=first_count(usage.prompt_tokens),
        output_tokens=first_count(usage.completion_tokens),
        cache_read_tokens=cached,
        cache_write_tokens=cache_write,
        reasoning_tokens=reasoning,
        total_tokens=first_count(usage.total_tokens),
        json=usage_json(raw),
    )
    return Usage(
        input_tokens=including(reported.input_tokens, flags.input_includes_cache, (cached or 0) + (cache_write or 0)),
        output_tokens=including(reported.output_tokens, flags.output_includes_reasoning, reasoning),
        cache_read_tokens=cached,
        cache_write_tokens=cache_write,
        reasoning_tokens=reasoning,
        reported=reported,
    )
