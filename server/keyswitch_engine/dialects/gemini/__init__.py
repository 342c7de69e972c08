"""Google's generateContent, in the Gemini API and in Vertex.

Request and answers follow ai.google.dev/api/generate-content. A stream is a series of whole responses without a
terminal marker: it is complete once a finish reason came and the body ended.

A conversation that comes from elsewhere loses its reasoning and its opaque items; refusals become text. Tool calls have
no ids in most of Google's models; those that this dialect makes up are taken away again on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.gemini.answer import StreamDecoder, WholeDecoder
from keyswitch_engine.dialects.gemini.flags import GeminiFlags
from keyswitch_engine.dialects.gemini.request import write_body
from keyswitch_engine.dialects.reading import read_count
from keyswitch_engine.dialects.writing import only
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation

__all__ = ["Gemini"]

_COUNTED = ("contents", "systemInstruction", "tools")


class Gemini:
    """The dialect `gemini`."""

    name = "gemini"
    flags: type[Flags] = GeminiFlags

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`. Ids may be given as Google lists them, with `models/` before."""
        body = write_body(generation, model, profile, options_json)
        return UpstreamRequest.json(profile.endpoint(model.removeprefix("models/"), stream=stream), body, stream=stream)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        return StreamDecoder(profile) if stream else WholeDecoder(profile)

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_error(body, status, profile.error_rules, headers)

    def count_request(self, generation: Generation, model: str, profile: Profile) -> UpstreamRequest:
        """Write the request for a count; see `TokenCounter.count_request`."""
        name = model.removeprefix("models/")
        body = write_body(generation, model, profile, "")
        if cast("GeminiFlags", profile.flags).count_wraps:
            inner = {"model": msgspec.Raw(msgspec.json.encode(f"models/{name}"))} | only(body, _COUNTED)
            counted: dict[str, object] = {"generateContentRequest": inner}
        else:
            counted = dict(only(body, _COUNTED))
        return UpstreamRequest.json(profile.endpoint(name, stream=False), msgspec.json.encode(counted), stream=False)

    def read_count(self, body: bytes) -> int:
        """Read a count; see `TokenCounter.read_count`."""
        return read_count(body, "totalTokens")
