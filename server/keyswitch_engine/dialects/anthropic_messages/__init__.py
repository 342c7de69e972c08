"""Anthropic's Messages, at Anthropic, at its re-implementers, and through Vertex and Bedrock.

Request and answers follow docs.claude.com/en/api/messages. Vertex (`rawPredict`) and Bedrock (`invoke`) carry the same
body without the model, which is in their path, and with a version of their own; Bedrock frames its streams in AWS's
binary event stream.

A conversation that comes from elsewhere loses its reasoning, which counts only with Anthropic's signature, and its
opaque items; refusals become text, and ids of tool calls are made of the characters that are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyswitch_engine.dialects.anthropic_messages.answer import StreamDecoder, WholeDecoder
from keyswitch_engine.dialects.anthropic_messages.flags import MessagesFlags
from keyswitch_engine.dialects.anthropic_messages.frames import InvokeFrames
from keyswitch_engine.dialects.anthropic_messages.request import write_body
from keyswitch_engine.dialects.aws import AWS_STREAM, read_aws_error
from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.reading import read_count
from keyswitch_engine.dialects.writing import only
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation
from keyswitch_engine.wire.sse import SSEDecoder

__all__ = ["AnthropicMessages", "BedrockInvoke", "VertexRawPredict"]

_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking")


class AnthropicMessages:
    """The dialect `anthropic-messages`."""

    name = "anthropic-messages"
    flags: type[Flags] = MessagesFlags
    version: str | None = None
    """What stands in the body for the API's version, and in place of the model; None where a header has it."""

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`."""
        head = {"model": model} if self.version is None else {"anthropic_version": self.version}
        body = write_body(generation, head, profile, self.name, options_json, stream=stream)
        return UpstreamRequest.json(profile.endpoint(model, stream=stream), body, stream=stream)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        return StreamDecoder(profile, self.name, SSEDecoder()) if stream else WholeDecoder(profile, self.name)

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_error(body, status, profile.error_rules, headers)

    def count_request(self, generation: Generation, model: str, profile: Profile) -> UpstreamRequest:
        """Write the request for a count; see `TokenCounter.count_request`."""
        body = write_body(generation, {"model": model}, profile, self.name, "", stream=False)
        counted = msgspec.json.encode(only(body, _COUNTED))
        return UpstreamRequest.json(profile.endpoint(model, stream=False), counted, stream=False)

    def read_count(self, body: bytes) -> int:
        """Read a count; see `TokenCounter.read_count`."""
        return read_count(body, "input_tokens")


class VertexRawPredict(AnthropicMessages):
    """The dialect `vertex-rawpredict`: Messages through Google Vertex."""

    name = "vertex-rawpredict"
    version: str = "vertex-2023-10-16"


class BedrockInvoke(AnthropicMessages):
    """The dialect `bedrock-invoke`: Messages through AWS Bedrock's InvokeModel."""

    name = "bedrock-invoke"
    version: str = "bedrock-2023-05-31"

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`. That it streams is said by its path alone."""
        head = {"anthropic_version": self.version}
        body = write_body(generation, head, profile, self.name, options_json, stream=False)
        accept = AWS_STREAM if stream else "application/json"
        headers = {"content-type": "application/json", "accept": accept}
        return UpstreamRequest(profile.endpoint(model, stream=stream), headers, body)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        if not stream:
            return WholeDecoder(profile, self.name)
        return StreamDecoder(profile, self.name, InvokeFrames(profile))

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_aws_error(body, status, profile.error_rules, headers)
