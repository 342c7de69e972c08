"""Requests of the contract, validated and turned into the engine's model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import msgspec
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import target_pb2
from keyswitch_engine.credential import ProviderCredential
from keyswitch_engine.custom_endpoint import CustomEndpoint
from keyswitch_engine.generation import Generation, Sampling
from keyswitch_engine.route import Target

from keyswitch_bridge import conversation
from keyswitch_bridge.credentials import read_credentials, read_own
from keyswitch_bridge.not_yet import refuse_fields
from keyswitch_bridge.preferences import read_preferences
from keyswitch_bridge.violations import Violations

__all__ = [
    "REGION",
    "ExplainCall",
    "GenerateCall",
    "GenerateMessage",
    "RequestedLimits",
    "read_explain",
    "read_fallbacks",
    "read_generate",
    "read_limits",
    "read_target",
    "read_tenant",
    "refuse_unknown",
]

GenerateMessage: TypeAlias = pb.GenerateRequest | pb.StreamGenerateRequest
"""Two messages that are the same field by field, which a test holds them to."""

_NO_SAMPLING = Sampling()
REGION = re.compile(r"[a-z0-9-]{1,64}")
_MAX_COALESCE, _MAX_TOP_LOGPROBS, _MAX_FALLBACKS, _MAX_ATTEMPTS = 1.0, 20, 8, 10


class RequestedLimits(msgspec.Struct, frozen=True):
    """Limits that a request asks for, times in seconds; None means the server's default, and no hedging."""

    connect: float | None = None
    first_token: float | None = None
    idle: float | None = None
    total: float | None = None
    max_attempts: int | None = None
    hedge_after: float | None = None


class GenerateCall(msgspec.Struct, frozen=True):
    """A request for one generation, valid in itself; routing has not been asked yet."""

    target: Target
    credentials: tuple[ProviderCredential, ...]
    generation: Generation
    limits: RequestedLimits
    coalesce_window: float = 0.0
    """Seconds."""
    tenant: str = ""
    fallbacks: tuple[Target, ...] = ()


class ExplainCall(msgspec.Struct, frozen=True):
    """A request to explain a route."""

    target: Target
    credentials: tuple[ProviderCredential, ...]
    generation: Generation
    include_body: bool
    tenant: str = ""
    fallbacks: tuple[Target, ...] = ()
    limits: RequestedLimits = RequestedLimits()


def read_generate(message: GenerateMessage) -> GenerateCall:
    """Validate and read a request for one generation.

    Raises:
        InvalidRequest: it is malformed, or has fields or values that this build does not know.
        Unavailable: it asks for something that is not built yet.
    """
    refuse_unknown(message)
    found = Violations()
    if not message.messages:
        found.add("messages", "at least one message is needed")
    generation = _generation(message, found)
    limits, window = RequestedLimits(), 0.0
    if message.HasField("limits"):
        limits, window = read_limits(message.limits, found, streamed=isinstance(message, pb.StreamGenerateRequest))
    call = GenerateCall(
        read_target(message.target, found),
        read_credentials(message.credentials, found),
        generation,
        limits,
        window,
        read_tenant(message.tenant, found),
        read_fallbacks(message.fallbacks, found),
    )
    found.check()
    return call


def read_explain(message: pb.ExplainRouteRequest) -> ExplainCall:
    """Validate and read a request to explain a route. The generation in it is checked too, but may be missing.

    Raises:
        InvalidRequest: it is malformed, or has fields or values that this build does not know.
        Unavailable: it asks for something that is not built yet.
    """
    refuse_unknown(message)
    found = Violations()
    generation = _generation(message, found)
    limits = RequestedLimits()
    if message.HasField("limits"):
        limits, _ = read_limits(message.limits, found, streamed=True)
    call = ExplainCall(
        read_target(message.target, found),
        read_credentials(message.credentials, found),
        generation,
        message.include_body,
        read_tenant(message.tenant, found),
        read_fallbacks(message.fallbacks, found),
        limits,
    )
    found.check()
    return call


_M = TypeVar("_M", bound=Message)


def refuse_unknown(message: _M) -> None:
    """Refuse a message with fields, at any depth, that this build does not know.

    Comparing sizes costs a few microseconds; only a message that has some is searched for them.

    Raises:
        InvalidRequest: there are some; the reason is `UNKNOWN_FIELD`.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        found = Violations()
        _find_unknown(message, "", found)
        found.check()


def _find_unknown(message: Message, path: str, found: Violations) -> None:
    """Note the numbers of unknown fields, depth first."""
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined] # iterable, its stubs do not say so
        found.unknown(path.rstrip(".") or "request", f"field number {field.field_number} is not known to this server")
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        if descriptor.is_repeated:
            for number, item in enumerate(value):
                _find_unknown(item, f"{path}{descriptor.name}[{number}].", found)
        else:
            _find_unknown(value, f"{path}{descriptor.name}.", found)


def _generation(message: GenerateMessage | pb.ExplainRouteRequest, found: Violations) -> Generation:
    """Read everything that is said to the model."""
    tools = conversation.read_tools(message.tools, found)
    top_logprobs = None
    if message.HasField("logprobs"):
        top_logprobs = message.logprobs.top
        found.number(top_logprobs, "logprobs.top", 0, _MAX_TOP_LOGPROBS)
    return Generation(
        messages=conversation.read_messages(message.messages, found),
        system=conversation.read_parts(message.system, "system", found) if message.system else (),
        tools=tools,
        tool_choice=(
            conversation.read_tool_choice(message.tool_choice, tools, found)
            if message.HasField("tool_choice")
            else None
        ),
        parallel_tool_calls=message.parallel_tool_calls if message.HasField("parallel_tool_calls") else None,
        response_format=(
            conversation.read_response_format(message.response_format, found)
            if message.HasField("response_format")
            else None
        ),
        sampling=(
            conversation.read_sampling(message.sampling, found) if message.HasField("sampling") else _NO_SAMPLING
        ),
        reasoning=conversation.read_reasoning(message.reasoning, found) if message.HasField("reasoning") else None,
        top_logprobs=top_logprobs,
        end_user_id=found.name(message.end_user_id, "end_user_id", 256) if message.end_user_id else "",
    )


def read_limits(limits: pb.Limits, found: Violations, *, streamed: bool) -> tuple[RequestedLimits, float]:
    """Read the limits and the coalescing window, which means something for streams only."""
    window = found.duration(limits.coalesce_window, "limits.coalesce_window") or 0.0
    if window and not streamed:
        found.add("limits.coalesce_window", "only streams can be gathered")
    elif window > _MAX_COALESCE:
        found.add("limits.coalesce_window", "at most 1 second")
    return (
        RequestedLimits(
            found.duration(limits.connect_timeout, "limits.connect_timeout"),
            found.duration(limits.first_token_timeout, "limits.first_token_timeout"),
            found.duration(limits.idle_timeout, "limits.idle_timeout"),
            found.duration(limits.total_timeout, "limits.total_timeout"),
            int(found.number(limits.max_attempts, "limits.max_attempts", 0, _MAX_ATTEMPTS)) or None,
            found.duration(limits.hedge_after, "limits.hedge_after"),
        ),
        window,
    )


def read_tenant(tenant: str, found: Violations) -> str:
    """Read for whom a call is made."""
    return found.name(tenant, "tenant", 128) if tenant else ""


def read_fallbacks(fallbacks: Sequence[target_pb2.Target], found: Violations) -> tuple[Target, ...]:
    """Read where to go next, at most 8 times."""
    if len(fallbacks) > _MAX_FALLBACKS:
        found.add("fallbacks", f"at most {_MAX_FALLBACKS}")
    places = ((target, f"fallbacks[{number}]") for number, target in enumerate(fallbacks[:_MAX_FALLBACKS]))
    return tuple(read_target(target, found, path) for target, path in places)


def read_target(target: target_pb2.Target, found: Violations, path: str = "target") -> Target:
    """Read where to go, which stands at *path*."""
    return Target(
        provider=found.name(target.provider.strip(), f"{path}.provider", 64),
        model=target.model.strip(),  # routing checks ids, wherever they come from
        dialect=found.name(target.dialect, f"{path}.dialect", 64),
        region=found.pattern(target.region, REGION, f"{path}.region") if target.region else "",
        credential_label=found.name(target.credential_label, f"{path}.credential_label", 64),
        options_json=found.json_object(target.options_json, f"{path}.options_json"),
        compatibility=_flags(target.compatibility) if target.HasField("compatibility") else {},
        routing=read_preferences(target.routing, found, f"{path}.routing") if target.HasField("routing") else {},
        custom_endpoint=(
            _read_endpoint(target.custom_endpoint, found, f"{path}.custom_endpoint")
            if target.HasField("custom_endpoint")
            else None
        ),
    )


def _flags(compatibility: target_pb2.Compatibility) -> dict[str, str | bool]:
    """Return the flags that were given, by name."""
    return {field.name: value for field, value in compatibility.ListFields()}


def _read_endpoint(endpoint: target_pb2.CustomEndpoint, found: Violations, path: str) -> CustomEndpoint:
    """Read an endpoint of the caller's own, which stands at *path*; routing checks its URL and its model."""
    refuse_fields(endpoint, f"{path}.")
    return CustomEndpoint(
        base_url=endpoint.base_url,
        model=endpoint.model,
        credential=read_own(endpoint.credential, f"{path}.credential", found),
        label=found.name(endpoint.label.strip(), f"{path}.label", 64) or "custom",
        dialect=found.name(endpoint.dialect, f"{path}.dialect", 64) or "openai-chat",
        compatibility=_flags(endpoint.compatibility) if endpoint.HasField("compatibility") else {},
    )
