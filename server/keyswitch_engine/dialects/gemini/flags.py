"""How the providers that speak Gemini's generateContent differ."""

from __future__ import annotations

import msgspec

__all__ = ["GeminiFlags"]


class GeminiFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of `gemini`. The defaults are what the Gemini API does."""

    signature_models: str = r"gemini-[3-9]"
    """Regular expression for models that refuse calls in a conversation's last turn that have no signature. Calls that
    come from elsewhere get the mark that Google documents for that. Empty: there are none."""
    count_wraps: bool = True
    """Whether tokens are counted of a whole request inside another object; Vertex wants its fields themselves."""
