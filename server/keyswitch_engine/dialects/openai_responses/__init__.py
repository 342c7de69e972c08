"""OpenAI's Responses, stateless: nothing is kept at the provider, what has to go back travels with the conversation.

Request and answers follow platform.openai.com/docs/api-reference/responses. Reasoning goes back as the item that came,
if it came encrypted. A conversation that comes from elsewhere loses its reasoning and its opaque items.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.openai_responses.answer import StreamDecoder, WholeDecoder
from keyswitch_engine.dialects.openai_responses.flags import ResponsesFlags
from keyswitch_engine.dialects.openai_responses.request import write_body
from keyswitch_engine.dialects.reading import read_count
from keyswitch_engine.dialects.writing import only
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation

__all__ = ["OpenAIResponses"]

_COUNTED = ("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning")


class OpenAIResponses:
    """The dialect `openai-responses`."""

    name = "openai-responses"
    flags: type[Flags] = ResponsesFlags

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

    def count_request(self, generation: Generation, model: str, profile: Profile) -> UpstreamRequest:
        """Write the request for a count; see `TokenCounter.count_request`."""
        body = write_body(generation, model, profile, "", stream=False)
        counted = msgspec.json.encode(only(body, _COUNTED))
        return UpstreamRequest.json(profile.endpoint(model, stream=False), counted, stream=False)

    def read_count(self, body: bytes) -> int:
        """Read a count; see `TokenCounter.read_count`."""
        return read_count(body, "input_tokens")
