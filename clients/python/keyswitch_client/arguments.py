"""The keyword arguments of `generate`, `stream` and `explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, target_pb2

from keyswitch_client.endpoints import Endpoint
from keyswitch_client.requests import Credentials, Messages

__all__ = ["Arguments"]


class Arguments(TypedDict, total=False):
    """As `GenerateArguments` describes them."""

    messages: Messages
    system: str
    provider: str
    model: str
    dialect: str
    region: str
    endpoint: Endpoint
    credentials: Credentials
    allow_platform: bool
    tenant: str
    tools: Sequence[conversation_pb2.Tool]
    tool_choice: conversation_pb2.ToolChoice
    response_format: conversation_pb2.ResponseFormat
    temperature: float
    max_output_tokens: int
    stop_sequences: Sequence[str]
    reasoning_effort: str
    routing: target_pb2.RoutingPreferences
    options: Mapping[str, Any] | str
    coalesce_window: float
    fallbacks: Sequence[str | target_pb2.Target]
    max_attempts: int
    hedge_after: float
    request: dispatch_service_pb2.GenerateRequest
