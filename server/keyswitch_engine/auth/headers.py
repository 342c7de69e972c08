"""Keys and tokens as request headers; never as part of a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.provider import Auth
from keyswitch_engine.secret import HiddenText, Secret

__all__ = ["auth_headers", "bearer", "check_values"]

_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,8190}[\x21-\x7e])?")


def auth_headers(auth: Auth, credential: Credential) -> dict[str, str] | None:
    """Return the headers that authenticate a call, None where more than the credential is needed to make them.

    Routing has checked that the provider accepts the credential.
    """
    match credential:
        case ApiKey(key=secret, organization=organization, project=project):
            headers = _key_header(auth, secret)
            if organization and auth.organization_header:
                headers[auth.organization_header] = organization
            if project and auth.project_header:
                headers[auth.project_header] = project
            return headers
        case AzureApiKey(key=secret):
            return _key_header(auth, secret)
        case (
            BearerToken(token=secret)
            | AwsBearerToken(token=secret)
            | GoogleAccessToken(token=secret)
            | AzureAccessToken(token=secret)
            | CloudflareToken(token=secret)
        ):
            return bearer(secret)
        case AwsAccessKey() | GoogleServiceAccount():
            return None
        case NoCredential():
            return {}


def bearer(token: Secret) -> dict[str, str]:
    """Return the header that a token travels in."""
    return {"Authorization": HiddenText(f"Bearer {token.reveal()}")}


def check_values(headers: Mapping[str, str]) -> None:
    """Check that headers are just what they say: no line end begins another one, and no key is missing.

    The bridge has refused what its callers send; this holds whoever makes a credential.

    Raises:
        InvalidRequest: a value is empty, too long, or not of visible ASCII; the message does not show it.
    """
    if not all(map(_VALUE.fullmatch, headers.values())):
        rule = "what becomes a header has 1 to 8192 visible ASCII characters, without line ends"
        raise InvalidRequest([Violation("credentials", rule)])


def _key_header(auth: Auth, key: Secret) -> dict[str, str]:
    """Put a key where the provider wants it."""
    if auth.style == "header":
        return {auth.header: HiddenText(key.reveal())}
    return {"Authorization": HiddenText(f"{auth.scheme} {key.reveal()}")}
