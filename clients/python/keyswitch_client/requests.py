"""Requests from plain Python values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from google.protobuf.duration_pb2 import Duration
from keyswitch.v1 import conversation_pb2, credential_pb2, dispatch_service_pb2, target_pb2

from keyswitch_client.endpoints import Endpoint

__all__ = [
    "ApiKey",
    "BearerToken",
    "Credentials",
    "GenerateArguments",
    "Key",
    "Messages",
    "build",
    "count_request",
    "credential_messages",
    "embed_request",
    "models_request",
    "user",
    "validate_request",
]


class _Hidden:
    """Shows nothing of what it holds."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}([secret])"

    __str__ = __repr__


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class ApiKey(_Hidden):
    """An API key, with the organization and project to bill and a label that tells several keys apart."""

    key: str
    organization: str = ""
    project: str = ""
    label: str = ""

    def message(self) -> credential_pb2.Credential:
        """Return the contract's message."""
        key = credential_pb2.ApiKey(key=self.key, organization=self.organization, project=self.project)
        return credential_pb2.Credential(api_key=key)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class BearerToken(_Hidden):
    """A short-lived access token."""

    token: str
    label: str = ""

    def message(self) -> credential_pb2.Credential:
        """Return the contract's message."""
        return credential_pb2.Credential(bearer_token=credential_pb2.BearerToken(token=self.token))


Key: TypeAlias = str | ApiKey | BearerToken | credential_pb2.Credential
Credentials: TypeAlias = Mapping[str, Key | Sequence[ApiKey | BearerToken]]
"""Keys by provider; a plain string is an API key."""
Messages: TypeAlias = str | Iterable[conversation_pb2.Message]
"""A conversation; a plain string is one message of the user's."""
_Request = TypeVar(
    "_Request",
    dispatch_service_pb2.GenerateRequest,
    dispatch_service_pb2.StreamGenerateRequest,
    dispatch_service_pb2.ExplainRouteRequest,
)


def user(text: str) -> conversation_pb2.Message:
    """Return a message of the user's."""
    part = conversation_pb2.Part(text=conversation_pb2.TextPart(text=text))
    return conversation_pb2.Message(role=conversation_pb2.ROLE_USER, parts=[part])


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """What `generate`, `stream` and `explain` take; everything is optional there except the messages.

    Anything rarer than these goes into *request*, a message of the contract that they are added to.
    """

    messages: Messages = ()
    system: str = ""
    provider: str = ""
    model: str = ""
    dialect: str = ""
    """Wire protocol, one that the provider's row offers; its first if empty."""
    region: str = ""
    """Region or location, for providers that have them; their default if empty."""
    endpoint: Endpoint | None = None
    """A model server of one's own, instead of provider, model, dialect, region and their keys."""
    credentials: Credentials = dataclasses.field(default_factory=dict, repr=False)
    allow_platform: bool = False
    """Consents to be served, and billed, by the operator's key where none of yours came for the provider."""
    tenant: str = ""
    """Whose menus apply; never sent to a provider."""
    tools: Sequence[conversation_pb2.Tool] = ()
    tool_choice: conversation_pb2.ToolChoice | None = None
    response_format: conversation_pb2.ResponseFormat | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    stop_sequences: Sequence[str] = ()
    reasoning_effort: str = ""
    """`none`, `minimal`, `low`, `medium`, `high` or `max`; the provider's default if empty."""
    routing: target_pb2.RoutingPreferences | None = None
    """How a router should choose among the hosts of a model; sent as it is."""
    options: Mapping[str, Any] | str = ""
    """Anything that the contract does not name, merged into the provider's request."""
    coalesce_window: float = 0.0
    """Seconds for which events are gathered before they are sent."""
    fallbacks: Sequence[str | target_pb2.Target] = ()
    """Where to go next, in order, if the target fails; a string is a model. Each uses its own provider's key."""
    max_attempts: int = 0
    """Tries at one target at most, 1 to 10, the first one and hedges included; the server's default if 0.

    No call makes more than 20, those at all its targets together.
    """
    hedge_after: float = 0.0
    """Seconds without an event after which a second try begins beside the first; both may be billed. 0 for never."""
    request: dispatch_service_pb2.GenerateRequest | None = dataclasses.field(default=None, repr=False)


def build(kind: type[_Request], arguments: GenerateArguments) -> _Request:
    """Return a request. `GenerateRequest` and its siblings are the same field by field.

    Raises:
        TypeError: the fallbacks are a string.
    """
    request = kind()
    if arguments.request is not None:
        request.MergeFromString(arguments.request.SerializeToString())
    if arguments.provider:
        request.target.provider = arguments.provider
    if arguments.model:
        request.target.model = arguments.model
    if arguments.dialect:
        request.target.dialect = arguments.dialect
    if arguments.region:
        request.target.region = arguments.region
    if arguments.endpoint is not None:
        request.target.custom_endpoint.CopyFrom(arguments.endpoint.message())
    if arguments.routing is not None:
        request.target.routing.CopyFrom(arguments.routing)
    if arguments.options:
        options = arguments.options
        request.target.options_json = options if isinstance(options, str) else json.dumps(options)
    request.credentials.extend(credential_messages(arguments.credentials))
    if arguments.allow_platform:
        consent = credential_pb2.Credential(platform=credential_pb2.Platform())
        request.credentials.add(credential=consent)
    if arguments.tenant:
        request.tenant = arguments.tenant
    if arguments.system:
        request.system.add().text.text = arguments.system
    messages = arguments.messages
    request.messages.extend([user(messages)] if isinstance(messages, str) else messages)
    request.tools.extend(arguments.tools)
    if arguments.tool_choice is not None:
        request.tool_choice.CopyFrom(arguments.tool_choice)
    if arguments.response_format is not None:
        request.response_format.CopyFrom(arguments.response_format)
    if arguments.temperature is not None:
        request.sampling.temperature = arguments.temperature
    if arguments.max_output_tokens is not None:
        request.sampling.max_output_tokens = arguments.max_output_tokens
    request.sampling.stop_sequences.extend(arguments.stop_sequences)
    if not request.sampling.ListFields():
        request.ClearField("sampling")
    if arguments.reasoning_effort:
        name = f"REASONING_EFFORT_{arguments.reasoning_effort.upper()}"
        request.reasoning.effort = conversation_pb2.ReasoningEffort.Value(name)
    if arguments.coalesce_window:
        request.limits.coalesce_window.CopyFrom(_duration(arguments.coalesce_window))
    _add_attempts(request, arguments.fallbacks, arguments.max_attempts, arguments.hedge_after)
    return request


def _add_attempts(
    request: _Request | dispatch_service_pb2.EmbedRequest,
    fallbacks: Sequence[str | target_pb2.Target],
    max_attempts: int,
    hedge_after: float,
) -> None:
    """Say where to go next, and how often to try.

    Raises:
        TypeError: the fallbacks are a string, which would be taken letter by letter.
    """
    if isinstance(fallbacks, str):
        raise TypeError("fallbacks are a sequence of models or targets; put a single one into a list")
    for fallback in fallbacks:
        request.fallbacks.append(target_pb2.Target(model=fallback) if isinstance(fallback, str) else fallback)
    if max_attempts:
        request.limits.max_attempts = max_attempts
    if hedge_after:
        request.limits.hedge_after.CopyFrom(_duration(hedge_after))


def _duration(seconds: float) -> Duration:
    """Return seconds as the contract's duration."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def embed_request(
    inputs: Sequence[str],
    *,
    model: str,
    provider: str,
    region: str,
    credentials: Credentials,
    dimensions: int | None,
    purpose: str,
    options: Mapping[str, Any] | str,
    fallbacks: Sequence[str | target_pb2.Target] = (),
    max_attempts: int = 0,
    hedge_after: float = 0.0,
) -> dispatch_service_pb2.EmbedRequest:
    """Return a request for embeddings.

    Raises:
        TypeError: the fallbacks are a string.
    """
    request = dispatch_service_pb2.EmbedRequest(
        target=target_pb2.Target(provider=provider, model=model, region=region),
        credentials=credential_messages(credentials),
        inputs=inputs,
        dimensions=dimensions,
        purpose=purpose,
    )
    if options:
        request.target.options_json = options if isinstance(options, str) else json.dumps(options)
    _add_attempts(request, fallbacks, max_attempts, hedge_after)
    return request


def count_request(arguments: GenerateArguments) -> dispatch_service_pb2.CountTokensRequest:
    """Return a request for a token count, of the parts of a generation that can be counted.

    Raises:
        TypeError: there are limits, which such a request does not have, or the fallbacks are a string.
    """
    whole = build(dispatch_service_pb2.GenerateRequest, arguments)
    if whole.HasField("limits"):
        raise TypeError("counting tokens takes no limits: leave out max_attempts, hedge_after and coalesce_window")
    return dispatch_service_pb2.CountTokensRequest(
        target=whole.target,
        fallbacks=whole.fallbacks,
        credentials=whole.credentials,
        tenant=whole.tenant,
        system=whole.system,
        messages=whole.messages,
        tools=whole.tools,
    )


def models_request(
    provider: str, *, region: str, credentials: Credentials
) -> dispatch_service_pb2.ListProviderModelsRequest:
    """Return a request for a provider's models, with its first key.

    Raises:
        ValueError: there are keys of several providers, and none of this one.
    """
    request = dispatch_service_pb2.ListProviderModelsRequest(provider=provider, region=region)
    for credential in _of_provider(provider, credentials):
        request.credential.CopyFrom(credential)
    return request


def validate_request(
    provider: str, *, model: str, region: str, credentials: Credentials
) -> dispatch_service_pb2.ValidateCredentialRequest:
    """Return a request to check a provider's first key.

    Raises:
        ValueError: there are keys of several providers, and none of this one.
    """
    request = dispatch_service_pb2.ValidateCredentialRequest(model=model, region=region)
    for credential in _of_provider(provider, credentials):
        request.credential.CopyFrom(credential)
    return request


def _of_provider(provider: str, credentials: Credentials) -> list[credential_pb2.ProviderCredential]:
    """Return a provider's first key, if there is one."""
    named = {name: key for name, key in credentials.items() if name.lower() == provider.lower()}
    if not named and len(credentials) > 1:
        raise ValueError(f"there are keys of several providers, but none under {provider!r}")
    # a single one under another name may be under an alias, which the server knows
    return credential_messages(named or credentials)[:1]


def credential_messages(credentials: Credentials) -> list[credential_pb2.ProviderCredential]:
    """Return the contract's messages for keys."""
    messages = []
    for provider, value in credentials.items():
        keys: Iterable[Key] = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        for key in keys:
            label = ""
            if isinstance(key, str):
                credential = ApiKey(key).message()
            elif isinstance(key, credential_pb2.Credential):
                credential = key
            else:
                credential, label = key.message(), key.label
            messages.append(credential_pb2.ProviderCredential(provider=provider, label=label, credential=credential))
    return messages
