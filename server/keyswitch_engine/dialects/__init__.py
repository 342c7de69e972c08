"""Wire protocols, one module each; they never import each other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from keyswitch_engine.dialects.anthropic_messages import AnthropicMessages, BedrockInvoke, VertexRawPredict
from keyswitch_engine.dialects.base import Dialect, TokenCounter
from keyswitch_engine.dialects.bedrock_converse import BedrockConverse
from keyswitch_engine.dialects.cohere_v2 import CohereV2
from keyswitch_engine.dialects.gemini import Gemini
from keyswitch_engine.dialects.ollama import Ollama
from keyswitch_engine.dialects.openai_chat import OpenAIChat
from keyswitch_engine.dialects.openai_responses import OpenAIResponses

__all__ = ["DIALECTS", "TOKEN_COUNTERS"]

_ALL: tuple[Dialect, ...] = (
    OpenAIChat(),
    OpenAIResponses(),
    AnthropicMessages(),
    VertexRawPredict(),
    BedrockInvoke(),
    Gemini(),
    BedrockConverse(),
    CohereV2(),
    Ollama(),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in _ALL})
"""Every dialect by name."""

_COUNTERS: tuple[TokenCounter, ...] = (
    OpenAIChat(),
    OpenAIResponses(),
    AnthropicMessages(),
    Gemini(),
    BedrockConverse(),
)

TOKEN_COUNTERS: Mapping[str, TokenCounter] = MappingProxyType({counter.name: counter for counter in _COUNTERS})
"""The dialects that count tokens, by name."""
