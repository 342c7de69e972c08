"""AWS Bedrock's Converse.

Request and answers follow docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
`ConverseStream`. A stream's usage comes after the message has stopped.

A conversation that comes from elsewhere loses its reasoning, which counts only with a signature, and its opaque items;
refusals become text, and ids of tool calls are made of the characters that are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyswitch_engine.dialects.aws import AWS_STREAM, read_aws_error
from keyswitch_engine.dialects.base import Decoder, Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.bedrock_converse.answer import StreamDecoder, WholeDecoder
from keyswitch_engine.dialects.bedrock_converse.flags import ConverseFlags
from keyswitch_engine.dialects.bedrock_converse.request import write_body
from keyswitch_engine.dialects.reading import read_count
from keyswitch_engine.dialects.writing import only
from keyswitch_engine.errors import ProviderError
from keyswitch_engine.generation import Generation

__all__ = ["BedrockConverse"]

_COUNTED = ("messages", "system", "toolConfig")


class BedrockConverse:
    """The dialect `bedrock-converse`."""

    name = "bedrock-converse"
    flags: type[Flags] = ConverseFlags

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request; see `Dialect.request`. Whether it streams is said by the path."""
        body = write_body(generation, model, profile, options_json)
        accept = AWS_STREAM if stream else "application/json"
        headers = {"content-type": "application/json", "accept": accept}
        return UpstreamRequest(profile.endpoint(model, stream=stream), headers, body)

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer; see `Dialect.decoder`."""
        return StreamDecoder(profile) if stream else WholeDecoder(profile)

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
        return read_aws_error(body, status, profile.error_rules, headers)

    def count_request(self, generation: Generation, model: str, profile: Profile) -> UpstreamRequest:
        """Write the request for a count; see `TokenCounter.count_request`."""
        body = write_body(generation, model, profile, "")
        counted = msgspec.json.encode({"input": {"converse": only(body, _COUNTED)}})
        return UpstreamRequest.json(profile.endpoint(model, stream=False), counted, stream=False)

    def read_count(self, body: bytes) -> int:
        """Read a count; see `TokenCounter.read_count`."""
        return read_count(body, "inputTokens")
