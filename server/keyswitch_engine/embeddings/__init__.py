"""Embeddings protocols."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from keyswitch_engine.embeddings.base import EmbeddingDialect, EmbeddingInput, Embeddings
from keyswitch_engine.embeddings.protocols import (
    BedrockEmbeddings,
    CohereEmbeddings,
    GeminiEmbeddings,
    OllamaEmbeddings,
    OpenAIEmbeddings,
    VertexEmbeddings,
)

__all__ = ["EMBEDDINGS", "EmbeddingDialect", "EmbeddingInput", "Embeddings"]

_ALL: tuple[EmbeddingDialect, ...] = (
    OpenAIEmbeddings(),
    GeminiEmbeddings(),
    VertexEmbeddings(),
    CohereEmbeddings(),
    BedrockEmbeddings(),
    OllamaEmbeddings(),
)

EMBEDDINGS: Mapping[str, EmbeddingDialect] = MappingProxyType({dialect.name: dialect for dialect in _ALL})
"""Every protocol by name."""
