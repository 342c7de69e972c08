"""Credentials of the contract, validated and turned into the engine's."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from keyswitch.v1 import credential_pb2 as pb
from keyswitch_engine.credential import (
    ApiKey,
    AwsAccessKey,
    AwsBearerToken,
    AzureAccessToken,
    AzureApiKey,
    BearerToken,
    CloudflareToken,
    Credential,
    GoogleAccessToken,
    GoogleServiceAccount,
    NoCredential,
    PlatformConsent,
    ProviderCredential,
)
from keyswitch_engine.secret import Secret
from keyswitch_engine.wire import MALFORMED_JSON

from keyswitch_bridge.not_yet import refuse_fields
from keyswitch_bridge.violations import Violations

__all__ = ["read_credential", "read_credentials", "read_own", "read_own_credential"]

_MAX_CREDENTIALS = 64
_MAX_KEY_FILE = 16 * 1024


def read_credentials(credentials: Iterable[pb.ProviderCredential], found: Violations) -> tuple[ProviderCredential, ...]:
    """Read the keys that came. Which provider a name means, and whether one came twice, routing finds out."""
    read = []
    for number, entry in enumerate(credentials):
        if number >= _MAX_CREDENTIALS:
            found.add("credentials", f"at most {_MAX_CREDENTIALS}")
            break
        read.append(read_credential(entry, f"credentials[{number}]", found))
    return tuple(read)


def read_credential(entry: pb.ProviderCredential, path: str, found: Violations) -> ProviderCredential:
    """Read one provider's credential, which stands at *path*."""
    provider = entry.provider.strip()
    label = found.name(entry.label, f"{path}.label", 64) if entry.label else ""
    found.name(provider, f"{path}.provider", 64)
    if entry.credential.WhichOneof("kind") == "platform":
        return ProviderCredential(provider, PlatformConsent(), label)
    if not provider:
        found.add(f"{path}.provider", "is required")
    return ProviderCredential(provider, read_own(entry.credential, f"{path}.credential", found), label)


def read_own_credential(entry: pb.ProviderCredential, path: str, found: Violations) -> ProviderCredential:
    """Read one provider's credential where a consent to the operator's would mean nothing."""
    if entry.credential.WhichOneof("kind") == "platform":
        found.add(f"{path}.credential.platform", "only a credential of the caller's own can be used here")
    return read_credential(entry, path, found)


def read_own(credential: pb.Credential, path: str, found: Violations) -> Credential:
    """Read a credential that can authenticate a call, which stands at *path*."""
    refuse_fields(credential, f"{path}.")
    match credential.WhichOneof("kind"):
        case "api_key":
            key = credential.api_key
            return ApiKey(
                Secret(found.secret(key.key, f"{path}.api_key.key")),
                found.header_text(key.organization, f"{path}.api_key.organization"),
                found.header_text(key.project, f"{path}.api_key.project"),
            )
        case "bearer_token":
            return BearerToken(_token(credential.bearer_token, f"{path}.bearer_token", found))
        case "aws":
            return _aws(credential.aws, f"{path}.aws", found)
        case "google":
            return _google(credential.google, f"{path}.google", found)
        case "azure":
            return _azure(credential.azure, f"{path}.azure", found)
        case "cloudflare":
            inner = credential.cloudflare
            return CloudflareToken(
                Secret(found.secret(inner.token, f"{path}.cloudflare.token")),
                _required(inner.account_id, f"{path}.cloudflare.account_id", found),
                found.header_text(inner.gateway_id, f"{path}.cloudflare.gateway_id"),
            )
        case "none":
            return NoCredential()
        case "platform":
            found.add(f"{path}.platform", "the operator's key goes to providers that it is for alone")
            return NoCredential()
        case _:
            found.add(path, "its kind is required")
            return NoCredential()


def _token(token: pb.BearerToken, path: str, found: Violations) -> Secret:
    """Read a token."""
    return Secret(found.secret(token.token, f"{path}.token"))


def _required(text: str, path: str, found: Violations) -> str:
    """Read text that becomes part of a URL."""
    if not text:
        found.add(path, "is required")
    return found.header_text(text, path)


def _aws(aws: pb.AwsCredential, path: str, found: Violations) -> Credential:
    """Read an AWS credential."""
    match aws.WhichOneof("kind"):
        case "access_key":
            key, inner = aws.access_key, f"{path}.access_key"
            session = Secret(found.secret(key.session_token, f"{inner}.session_token")) if key.session_token else None
            return AwsAccessKey(
                Secret(found.secret(key.access_key_id, f"{inner}.access_key_id")),
                Secret(found.secret(key.secret_access_key, f"{inner}.secret_access_key")),
                session,
            )
        case "bearer_token":
            return AwsBearerToken(_token(aws.bearer_token, f"{path}.bearer_token", found))
        case None:
            found.add(path, "its kind is required")
            return NoCredential()


def _azure(azure: pb.AzureCredential, path: str, found: Violations) -> Credential:
    """Read an Azure credential."""
    resource = _required(azure.resource, f"{path}.resource", found)
    version = found.header_text(azure.api_version, f"{path}.api_version")
    match azure.WhichOneof("kind"):
        case "api_key":
            for name in ("organization", "project"):
                if getattr(azure.api_key, name):
                    found.add(f"{path}.api_key.{name}", "Azure knows no such thing")
            return AzureApiKey(Secret(found.secret(azure.api_key.key, f"{path}.api_key.key")), resource, version)
        case "access_token":
            return AzureAccessToken(_token(azure.access_token, f"{path}.access_token", found), resource, version)
        case None:
            found.add(path, "its kind is required")
            return NoCredential()


class _KeyFile(msgspec.Struct):
    """What is used of a service account key file. Its addresses are not: they would say where secrets go."""

    type: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    project_id: str = ""


def _google(google: pb.GoogleCredential, path: str, found: Violations) -> Credential:
    """Read a Google credential."""
    project = found.header_text(google.project, f"{path}.project")
    match google.WhichOneof("kind"):
        case "access_token":
            return GoogleAccessToken(_token(google.access_token, f"{path}.access_token", found), project)
        case "service_account":
            text, inner = google.service_account.json, f"{path}.service_account.json"
            try:
                file = msgspec.json.decode(text[: _MAX_KEY_FILE + 1], type=_KeyFile)
            except (ValueError, *MALFORMED_JSON):  # not chained to anything that could show the file
                found.add(inner, "must be the JSON of a service account key, at most 16 KiB")
                return NoCredential()
            if file.type != "service_account":
                found.add(inner, "only keys of the type service_account are accepted")
            return GoogleServiceAccount(
                file.client_email, Secret(file.private_key), file.private_key_id, project or file.project_id
            )
        case None:
            found.add(path, "its kind is required")
            return NoCredential()
