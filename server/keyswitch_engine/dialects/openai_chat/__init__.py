"""OpenAI's chat completions, and what its many re-implementers made of it.

Request and answers follow the API reference at platform.openai.com/docs/api-reference/chat; where providers differ, a
flag of the provider's row says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.openai_chat.answer import StreamDecoder, WholeDecoder
from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.dialects.openai_chat.request import write_body
from keyswitch_engine.dialects.reading import read_count
from keyswitch_engine.dialects.writing import only, unsupported
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation

__all__ = ["OpenAIChat"]


class OpenAIChat:
    """The dialect `openai-chat`."""

    name = "openai-chat"
    flags: type[Flags] = ChatFlags

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`."""
        flags = cast("ChatFlags", profile.flags)
        body = write_body(generation, model, profile.provider, flags, options_json, stream=stream)
        return UpstreamRequest.json(profile.endpoint(model, stream=stream), body, stream=stream)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        return StreamDecoder(profile) if stream else WholeDecoder(profile)

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_error(body, status, profile.error_rules, headers)

    def count_request(self, generation: Generation, model: str, profile: Profile) -> UpstreamRequest:
        """Write the request for a count, as Moonshot takes it; see `TokenCounter.count_request`."""
        if generation.tools:
            raise unsupported("tools", "they are not counted here")
        body = write_body(generation, model, profile.provider, cast("ChatFlags", profile.flags), "", stream=False)
        counted = msgspec.json.encode(only(body, ("model", "messages")))
        return UpstreamRequest.json(profile.endpoint(model, stream=False), counted, stream=False)

    def read_count(self, body: bytes) -> int:
        """Read a count; see `TokenCounter.read_count`."""
        return read_count(body, "data", "total_tokens")
