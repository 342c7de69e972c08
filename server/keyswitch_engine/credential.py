"""Credentials that a caller brings, and what a provider accepts."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from keyswitch_engine.secret import Secret

__all__ = ["ApiKey", "BearerToken", "Credential", "NoCredential", "ProviderCredential", "kind_of", "secrets_of"]


class ApiKey(msgspec.Struct, frozen=True):
    """A provider's API key, with the organization and project to bill where a provider knows them; empty if not."""

    key: Secret
    organization: str = ""
    project: str = ""


class BearerToken(msgspec.Struct, frozen=True):
    """A short-lived access token."""

    token: Secret


class NoCredential(msgspec.Struct, frozen=True):
    """None, for providers that need none."""


Credential: TypeAlias = ApiKey | BearerToken | NoCredential


class ProviderCredential(msgspec.Struct, frozen=True):
    """A credential for one provider, named as the caller named it; the label is empty if it has none."""

    provider: str
    credential: Credential
    label: str = ""


def kind_of(credential: Credential) -> str:
    """Return the credential's kind as the contract's `Credential` names its fields."""
    match credential:
        case ApiKey():
            return "api_key"
        case BearerToken():
            return "bearer_token"
        case NoCredential():
            return "none"


def secrets_of(credential: Credential) -> tuple[Secret, ...]:
    """Return every secret in a credential, for scrubbing."""
    match credential:
        case ApiKey(key=key):
            return (key,)
        case BearerToken(token=token):
            return (token,)
        case NoCredential():
            return ()
