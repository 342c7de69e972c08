"""What an embeddings protocol is: pure functions from texts to a request, and from an answer to vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from keyswitch_engine.dialects.base import Flags, Profile, UpstreamRequest
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.events import Usage

__all__ = ["EmbeddingDialect", "EmbeddingInput", "Embeddings", "NoFlags"]


class NoFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of a protocol that everyone speaks alike."""


class EmbeddingInput(msgspec.Struct, frozen=True):
    """Texts to embed."""

    texts: tuple[str, ...]
    dimensions: int | None = None
    """Length of the vectors; None for the model's own."""
    purpose: str = ""
    """What the vectors are for, in the provider's word; empty for its default."""
    end_user_id: str = ""


class Embeddings(msgspec.Struct, frozen=True):
    """Vectors in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None
    answering_model: str = ""


class EmbeddingDialect(Protocol):
    """One embeddings protocol. Instances hold no state."""

    name: str
    flags: type[Flags]

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write the requests, more than one only where the protocol takes one text each.

        Raises `Unavailable` with `UNSUPPORTED_FEATURE` for what the protocol cannot express.
        """

    def read(self, body: bytes) -> Embeddings:
        """Read an answer. Raises `ProtocolError` if it is not one."""

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more. Header names are lower-case."""
