"""How the providers that speak Anthropic's Messages differ."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["MessagesFlags"]


class MessagesFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of the Messages dialects. The defaults are what Anthropic itself does."""

    default_max_tokens: int = 8192
    """Output limit where the request gives none, since the API demands one. A budget for thinking is added to it."""
    reasoning_effort: Literal["adaptive", "none"] = "adaptive"
    """How an effort is asked for: adaptive thinking with `output_config.effort`, or not at all."""
    json_schema: bool = True
    """Whether the answer can be held to a JSON Schema."""
    strict_tools: bool = True
    """Whether a function may ask for its schema to be kept to."""
    terminal: Literal["done", "finish"] = "done"
    """What completes a stream: `message_stop`, or a stop reason too, where that is all that can be relied on."""
    cache_hints: bool = True
    """Whether `cache_control` is understood."""
