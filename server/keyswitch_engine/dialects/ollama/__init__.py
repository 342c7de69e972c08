"""Ollama's own chat API.

Request and answers follow github.com/ollama/ollama/blob/main/docs/api.md, "Generate a chat completion". Streams are
newline-delimited JSON, and the default.

A conversation that comes from elsewhere loses its opaque items; reasoning stays, since it is plain text here, and
refusals become text.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.ollama.answer import OllamaDecoder
from keyswitch_engine.dialects.ollama.request import write_body
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation

__all__ = ["Ollama", "OllamaFlags"]


class OllamaFlags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compatibility flags of `ollama`: none, since one server speaks it."""


class Ollama:
    """The dialect `ollama`."""

    name = "ollama"
    flags: type[Flags] = OllamaFlags

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`."""
        body = write_body(generation, model, options_json, stream=stream)
        accept = "application/x-ndjson" if stream else "application/json"
        headers = {"content-type": "application/json", "accept": accept}
        return UpstreamRequest(profile.endpoint(model, stream=stream), headers, body)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        return OllamaDecoder(profile, stream=stream)

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_error(body, status, profile.error_rules, headers)
