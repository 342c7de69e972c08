"""Embeddings, token counts and lists of models: requests read, answers written."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.message import Message
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_engine.credential import ProviderCredential
from keyswitch_engine.credential_check import Verdict
from keyswitch_engine.embeddings import EmbeddingInput
from keyswitch_engine.generation import Generation
from keyswitch_engine.model_listing import ProviderModel
from keyswitch_engine.operations import Embedded
from keyswitch_engine.route import Target

from keyswitch_bridge import conversation
from keyswitch_bridge.credentials import read_credentials, read_own_credential
from keyswitch_bridge.requests import (
    REGION,
    RequestedLimits,
    read_fallbacks,
    read_limits,
    read_target,
    read_tenant,
    refuse_unknown,
)
from keyswitch_bridge.responses import finished_message, started_message
from keyswitch_bridge.violations import Violations

__all__ = [
    "CheckCall",
    "CountCall",
    "EmbedCall",
    "ListModelsCall",
    "embed_response",
    "models_response",
    "read_count_tokens",
    "read_embed",
    "read_list_models",
    "read_validate_credential",
    "verdict_response",
]

_MAX_INPUTS = 2048


class EmbedCall(msgspec.Struct, frozen=True):
    """A request for embeddings, valid in itself."""

    target: Target
    credentials: tuple[ProviderCredential, ...]
    given: EmbeddingInput
    limits: RequestedLimits
    tenant: str = ""
    fallbacks: tuple[Target, ...] = ()


class CountCall(msgspec.Struct, frozen=True):
    """A request for a token count, valid in itself."""

    target: Target
    credentials: tuple[ProviderCredential, ...]
    generation: Generation
    tenant: str = ""
    fallbacks: tuple[Target, ...] = ()


class ListModelsCall(msgspec.Struct, frozen=True):
    """A request for a provider's models, valid in itself."""

    target: Target
    credential: ProviderCredential | None


def _begin(message: Message) -> Violations:
    """Refuse what is unknown, and begin to collect what is wrong."""
    refuse_unknown(message)
    return Violations()


def read_embed(message: pb.EmbedRequest) -> EmbedCall:
    """Validate and read a request for embeddings.

    Raises:
        InvalidRequest: it is malformed, or has fields or values that this build does not know.
        Unavailable: it asks for something that is not built yet.
    """
    found = _begin(message)
    if not 1 <= len(message.inputs) <= _MAX_INPUTS:
        found.add("inputs", f"1 to {_MAX_INPUTS} texts")
    for number, text in enumerate(message.inputs):
        if not text:
            found.add(f"inputs[{number}]", "must not be empty")
    dimensions = message.dimensions if message.HasField("dimensions") else None
    if dimensions == 0:
        found.add("dimensions", "at least 1")
    limits = RequestedLimits()
    if message.HasField("limits"):
        limits, _ = read_limits(message.limits, found, streamed=False)
    call = EmbedCall(
        read_target(message.target, found),
        read_credentials(message.credentials, found),
        EmbeddingInput(
            tuple(message.inputs),
            dimensions,
            found.name(message.purpose, "purpose", 64),
            found.name(message.end_user_id, "end_user_id", 256),
        ),
        limits,
        read_tenant(message.tenant, found),
        read_fallbacks(message.fallbacks, found),
    )
    found.check()
    return call


def read_count_tokens(message: pb.CountTokensRequest) -> CountCall:
    """Validate and read a request for a token count.

    Raises:
        InvalidRequest: it is malformed, or has fields or values that this build does not know.
        Unavailable: it asks for something that is not built yet.
    """
    found = _begin(message)
    if not message.messages:
        found.add("messages", "at least one message is needed")
    generation = Generation(
        messages=conversation.read_messages(message.messages, found),
        system=conversation.read_parts(message.system, "system", found) if message.system else (),
        tools=conversation.read_tools(message.tools, found),
    )
    call = CountCall(
        read_target(message.target, found),
        read_credentials(message.credentials, found),
        generation,
        read_tenant(message.tenant, found),
        read_fallbacks(message.fallbacks, found),
    )
    found.check()
    return call


def read_list_models(message: pb.ListProviderModelsRequest) -> ListModelsCall:
    """Validate and read a request for a provider's models.

    Raises:
        InvalidRequest: it is malformed, or has fields or values that this build does not know.
        Unavailable: it asks for something that is not built yet.
    """
    found = _begin(message)
    read_tenant(message.tenant, found)
    provider = message.provider.strip()
    if not provider:
        found.add("provider", "is required")
    region = found.pattern(message.region, REGION, "region") if message.region else ""
    credential = None
    if message.HasField("credential"):
        entry = message.credential
        if not entry.provider:  # said already
            entry.provider = provider
        credential = read_own_credential(entry, "credential", found)
    call = ListModelsCall(Target(provider=found.name(provider, "provider", 64), region=region), credential)
    found.check()
    return call


class CheckCall(msgspec.Struct, frozen=True):
    """A request to check a credential, valid in itself."""

    credential: ProviderCredential
    model: str
    region: str


def read_validate_credential(message: pb.ValidateCredentialRequest) -> CheckCall:
    """Validate and read a request to check a credential.

    Raises:
        InvalidRequest: it is malformed, or has fields or values that this build does not know.
        Unavailable: it asks for something that is not built yet.
    """
    found = _begin(message)
    read_tenant(message.tenant, found)
    region = found.pattern(message.region, REGION, "region") if message.region else ""
    call = CheckCall(read_own_credential(message.credential, "credential", found), message.model.strip(), region)
    found.check()
    return call


_VERDICTS = {
    Verdict.VALID: pb.CREDENTIAL_VERDICT_VALID,
    Verdict.INVALID: pb.CREDENTIAL_VERDICT_INVALID,
    Verdict.OUT_OF_CREDIT: pb.CREDENTIAL_VERDICT_OUT_OF_CREDIT,
    Verdict.NOT_PERMITTED: pb.CREDENTIAL_VERDICT_NOT_PERMITTED,
    Verdict.UNKNOWN: pb.CREDENTIAL_VERDICT_UNKNOWN,
}


def verdict_response(verdict: Verdict, message: str) -> pb.ValidateCredentialResponse:
    """Turn a verdict into its message."""
    return pb.ValidateCredentialResponse(verdict=_VERDICTS[verdict], message=message)


def embed_response(embedded: Embedded) -> pb.EmbedResponse:
    """Turn vectors into their message."""
    rows: Any = [pb.Embedding(values=vector) for vector in embedded.vectors]
    return pb.EmbedResponse(
        embeddings=rows, started=started_message(embedded.started), finished=finished_message(embedded.finished)
    )


def models_response(models: list[ProviderModel]) -> pb.ListProviderModelsResponse:
    """Turn a list of models into its message."""
    return pb.ListProviderModelsResponse(
        models=[
            pb.ProviderModel(id=model.id, display_name=model.display_name, context_tokens=model.context_tokens)
            for model in models
        ]
    )
