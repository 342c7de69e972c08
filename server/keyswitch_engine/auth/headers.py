"""Keys and tokens as request headers; never as part of a URL."""

from __future__ import annotations

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
)
from keyswitch_engine.provider import Auth

__all__ = ["auth_headers"]


def auth_headers(auth: Auth, credential: Credential) -> dict[str, str] | None:
    """Return the headers that authenticate a call, None where more than the credential is needed to make them.

    Routing has checked that the provider accepts the credential.
    """
    match credential:
        case ApiKey(key=secret, organization=organization, project=project):
            headers = _key_header(auth, secret.reveal())
            if organization and auth.organization_header:
                headers[auth.organization_header] = organization
            if project and auth.project_header:
                headers[auth.project_header] = project
            return headers
        case AzureApiKey(key=secret):
            return _key_header(auth, secret.reveal())
        case (
            BearerToken(token=secret)
            | AwsBearerToken(token=secret)
            | GoogleAccessToken(token=secret)
            | AzureAccessToken(token=secret)
            | CloudflareToken(token=secret)
        ):
            return {"Authorization": f"Bearer {secret.reveal()}"}
        case AwsAccessKey() | GoogleServiceAccount():
            return None
        case NoCredential():
            return {}


def _key_header(auth: Auth, key: str) -> dict[str, str]:
    """Put a key where the provider wants it."""
    return {auth.header: key} if auth.style == "header" else {"Authorization": f"{auth.scheme} {key}"}
