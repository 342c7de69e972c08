"""Cohere's chat, version 2.

Request and answers follow docs.cohere.com/reference/chat and `chat-stream`. A model's plan before it calls tools is
reasoning here, and goes back as the plan that it was.

A conversation that comes from elsewhere loses its reasoning and its opaque items; refusals become text.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.cohere_v2.answer import StreamDecoder, WholeDecoder
from keyswitch_engine.dialects.cohere_v2.request import write_body
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation

__all__ = ["CohereFlags", "CohereV2"]


class CohereFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of `cohere-v2`: none, since one provider speaks it."""


class CohereV2:
    """The dialect `cohere-v2`."""

    name = "cohere-v2"
    flags: type[Flags] = CohereFlags

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`."""
        body = write_body(generation, model, profile, options_json, stream=stream)
        return UpstreamRequest.json(profile.endpoint(model, stream=stream), body, stream=stream)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        return StreamDecoder(profile) if stream else WholeDecoder(profile)

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_error(body, status, profile.error_rules, headers)
