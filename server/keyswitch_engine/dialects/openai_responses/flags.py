"""How the providers that speak Responses differ."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ResponsesFlags"]


class ResponsesFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of `openai-responses`. The defaults are what OpenAI does."""

    store: Literal["false", "omit"] = "false"
    """Whether it is said that the answer shall not be kept, which by default it is; some know no such field."""
    reasoning_models: str = r"(^|/)(o\d|gpt-5(?!.*-chat)|gpt-oss|codex|computer-use)"
    """Regular expression for models that reason without being asked to. Reasoning that is not stored can only go on if
    it is handed out encrypted, which has to be asked for, and only of models that reason. Empty: never ask."""
    system_role: Literal["system", "developer"] = "system"
    """Role of system text within the conversation."""
    reasoning_effort: bool = True
    """Whether an effort can be asked for."""
    json_schema: bool = True
    """Whether a JSON Schema can be asked for."""
    parallel_tool_calls: bool = True
    """Whether parallel tool calls can be switched on and off."""
    user_field: Literal["user", "safety_identifier", "none"] = "user"
    """Body field for the end user's id."""
    logprobs: bool = True
    """Whether log probabilities can be asked for."""
    output_includes_reasoning: Literal["yes", "no", "unknown"] = "yes"
    """Whether `output_tokens` counts reasoning tokens."""
    input_includes_cache: Literal["yes", "no", "unknown"] = "yes"
    """Whether `input_tokens` counts cached tokens."""
