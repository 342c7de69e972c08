"""How Bedrock's model families differ behind Converse."""

from __future__ import annotations

import msgspec

__all__ = ["ConverseFlags"]


class ConverseFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of `bedrock-converse`: what each family of models calls that Converse has no field for.

    They are regular expressions for model ids; ids of inference profiles have a region before the family's name.
    """

    anthropic_models: str = r"(^|[./])anthropic\.|claude"
    """Models with Anthropic's `thinking` and `top_k`."""
    nova_models: str = r"(^|[./])amazon\.nova"
    """Models with Nova's `reasoningConfig` and `topK`."""
    openai_models: str = r"(^|[./])openai\."
    """Models with OpenAI's `reasoning_effort`."""
