"""Credentials that a caller brings, and what a provider accepts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from keyswitch_engine.secret import Secret

__all__ = [
    "ApiKey",
    "AwsAccessKey",
    "AwsBearerToken",
    "AzureAccessToken",
    "AzureApiKey",
    "BearerToken",
    "CloudflareToken",
    "Credential",
    "GoogleAccessToken",
    "GoogleServiceAccount",
    "NoCredential",
    "PlatformConsent",
    "ProviderCredential",
    "fields_of",
    "in_words",
    "kind_of",
    "secrets_of",
]


class ApiKey(msgspec.Struct, frozen=True):
    """A provider's API key, with the organization and project to bill where a provider knows them; empty if not."""

    key: Secret
    organization: str = ""
    project: str = ""


class BearerToken(msgspec.Struct, frozen=True):
    """A short-lived access token."""

    token: Secret


class AwsAccessKey(msgspec.Struct, frozen=True):
    """An AWS access key pair; the session token is that of temporary ones."""

    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | None = None


class AwsBearerToken(msgspec.Struct, frozen=True):
    """A Bedrock API key."""

    token: Secret


class GoogleServiceAccount(msgspec.Struct, frozen=True):
    """The parts of a Google service account key that are used; its addresses are not among them."""

    client_email: str
    private_key: Secret
    private_key_id: str
    project: str


class GoogleAccessToken(msgspec.Struct, frozen=True):
    """A Google access token."""

    token: Secret
    project: str


class AzureApiKey(msgspec.Struct, frozen=True):
    """The key of an Azure resource; the API version is empty for the current one."""

    key: Secret
    resource: str
    api_version: str = ""


class AzureAccessToken(msgspec.Struct, frozen=True):
    """A Microsoft Entra access token for an Azure resource."""

    token: Secret
    resource: str
    api_version: str = ""


class CloudflareToken(msgspec.Struct, frozen=True):
    """An API token of a Cloudflare account; without a gateway, Workers AI is called directly."""

    token: Secret
    account_id: str
    gateway_id: str = ""


class NoCredential(msgspec.Struct, frozen=True):
    """None, for providers that need none."""


Credential: TypeAlias = (
    ApiKey
    | BearerToken
    | AwsAccessKey
    | AwsBearerToken
    | GoogleServiceAccount
    | GoogleAccessToken
    | AzureApiKey
    | AzureAccessToken
    | CloudflareToken
    | NoCredential
)


class PlatformConsent(msgspec.Struct, frozen=True):
    """Consent to be served, and billed, by the operator's credential. Nothing else is such consent."""


class ProviderCredential(msgspec.Struct, frozen=True):
    """A credential for one provider, named as the caller named it; the label is empty if it has none."""

    provider: str
    """Empty in a consent to every model that the operator offers."""
    credential: Credential | PlatformConsent
    label: str = ""


def kind_of(credential: Credential) -> str:
    """Return the credential's kind as the contract's `Credential` names its fields."""
    match credential:
        case ApiKey():
            return "api_key"
        case BearerToken():
            return "bearer_token"
        case AwsAccessKey() | AwsBearerToken():
            return "aws"
        case GoogleServiceAccount() | GoogleAccessToken():
            return "google"
        case AzureApiKey() | AzureAccessToken():
            return "azure"
        case CloudflareToken():
            return "cloudflare"
        case NoCredential():
            return "none"


_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "api_key": "an API key",
        "bearer_token": "an access token",
        "aws": "an AWS access key or Bedrock API key",
        "google": "a Google service account or access token",
        "azure": "an Azure API key or access token with its resource",
        "cloudflare": "a Cloudflare API token with its account",
        "none": "nothing",
    }
)


def in_words(kind: str) -> str:
    """Return a kind of credential for people, with the contract's name behind it."""
    return f"{_WORDS[kind]} ({kind})"


def secrets_of(credential: Credential) -> tuple[Secret, ...]:
    """Return every secret in a credential, for scrubbing."""
    values = (getattr(credential, name) for name in credential.__struct_fields__)
    return tuple(value for value in values if isinstance(value, Secret))


def fields_of(credential: Credential) -> dict[str, str]:
    """Return what in a credential is no secret, by the names that provider files use in URLs."""
    values = {name: getattr(credential, name) for name in credential.__struct_fields__}
    return {name: value for name, value in values.items() if isinstance(value, str)}
