"""How the providers that speak chat completions differ."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ChatFlags"]


class ChatFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of `openai-chat`. The defaults are what most re-implementers do."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Body field for the output limit. OpenAI's reasoning models refuse `max_tokens`."""
    system_role: Literal["system", "developer"] = "system"
    """Role that system text is sent in."""
    include_usage: bool = True
    """Whether usage has to be asked for in streams, by `stream_options.include_usage`."""
    reasoning_control: Literal["none", "effort", "object", "thinking"] = "none"
    """How reasoning is asked for: `reasoning_effort`, a `reasoning` object, a `thinking` object, or not at all."""
    reasoning_echo: Literal["none", "reasoning_content", "reasoning"] = "none"
    """Field in which the reasoning text of earlier turns is sent back; it is left out where no field is named."""
    json_schema: bool = True
    """Whether a JSON Schema can be asked for."""
    tools: bool = True
    """Whether functions can be given."""
    strict_tools: bool = True
    """Whether a function may ask for its schema to be kept to."""
    tool_choice_required: Literal["required", "any", "none"] = "required"
    """Word for "call at least one tool"; `none` where there is no way to say it."""
    short_tool_ids: bool = False
    """Whether ids of tool calls have to be nine letters or digits; others are replaced by such ones."""
    parallel_tool_calls: bool = True
    """Whether parallel tool calls can be switched on and off."""
    seed_field: Literal["seed", "random_seed", "none"] = "seed"
    """Body field for the seed."""
    user_field: Literal["user", "safety_identifier", "none"] = "user"
    """Body field for the end user's id."""
    logprobs: bool = True
    """Whether log probabilities can be asked for."""
    extra_sampling: tuple[Literal["top_k", "min_p"], ...] = ()
    """Sampling parameters understood beyond OpenAI's."""
    assistant_images: bool = False
    """Whether images that the model made can be sent back."""
    cache_hints: bool = False
    """Whether parts can be marked as the end of what is to be cached, by `cache_control`."""
    think_tags: bool = False
    """Whether reasoning comes inside the text, between `<think>` tags, and has to be split off."""
    split_choices: bool = False
    """Whether one answer may come in several choices, such as tool calls in a second one."""
    terminal: Literal["done", "finish"] = "done"
    """What completes a stream: the `[DONE]` marker alone, or a finish reason too, where a provider sends no marker.

    Some send the marker without a reason (Snowflake, OpenAI's audio models); a reason without it may be cut off before
    usage, a second call or the error that follows (OpenRouter).
    """
    output_includes_reasoning: Literal["yes", "no", "unknown"] = "unknown"
    """Whether `completion_tokens` counts reasoning tokens."""
    input_includes_cache: Literal["yes", "no", "unknown"] = "unknown"
    """Whether `prompt_tokens` counts cached tokens."""
