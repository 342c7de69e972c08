"""Recorded bodies as requests of the contract; what is left of a body afterwards is what the contract cannot say.

Each reader takes a copy of a body, removes what it understood, and returns the fields of a `GenerateRequest` as JSON.
"""

from __future__ import annotations

from collections.abc import Callable

from contract import Json

from readers import chat, cohere, converse, google, messages, ollama, responses
from readers.common import Unreadable

__all__ = ["READERS", "Unreadable"]

READERS: dict[str, Callable[[Json, str], Json]] = {
    "openai-chat": chat.read,
    "openai-responses": responses.read,
    "anthropic-messages": messages.reader("anthropic-messages"),
    "vertex-rawpredict": messages.reader("vertex-rawpredict"),
    "bedrock-invoke": messages.reader("bedrock-invoke"),
    "gemini": google.read,
    "bedrock-converse": converse.read,
    "cohere-v2": cohere.read,
    "ollama": ollama.read,
}
"""A reader for each dialect."""
