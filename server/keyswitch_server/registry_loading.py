"""The registry that a server decides by: provider files, and what its settings lay down beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from keyswitch.v1 import credential_pb2 as pb
from keyswitch_bridge.credentials import read_own
from keyswitch_bridge.violations import Violations
from keyswitch_engine import registry
from keyswitch_engine.credential import Credential
from keyswitch_engine.errors import RequestError
from keyswitch_engine.operator_tables import govern, quoted, setting_of_key
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry, RegistryError

from keyswitch_server.settings import PlatformKey, Settings

__all__ = ["load_registry"]


def load_registry(settings: Settings, *, without_keys: Callable[[str], None] | None = None) -> Registry:
    """Load the provider files, and check what the settings say of routing against them.

    *without_keys* is for those who only want to know what a server would decide: where a key of the operator's is not
    to be had, it is told of it, and a stand-in takes its place.

    Raises:
        RegistryError: something is invalid, or a key cannot be read; the message names file or setting, never a key.
    """
    rows = registry.load(settings.providers, settings.base_urls())
    return govern(rows, settings.operator_tables(), dict(_platform_keys(rows, settings, without_keys)))


_STAND_IN = "stand-in"


def _platform_keys(
    rows: Registry, settings: Settings, without_keys: Callable[[str], None] | None
) -> Iterator[tuple[str, Credential]]:
    """Read the operator's keys."""
    for name, place in settings.platform_keys.items():
        setting = setting_of_key(name)
        provider = rows.find(name)
        if provider is None:
            raise RegistryError(f"{setting}: {quoted(name)} is no provider")
        try:
            secret = _secret(setting, place)
        except RegistryError as error:
            if without_keys is None:
                raise
            without_keys(str(error))
            secret = _STAND_IN
        found = Violations()
        _check_fields(setting, provider, place)
        try:
            credential = read_own(_message(provider, place, secret), setting, found)
            found.check()
        except RequestError as error:
            raise RegistryError(error.message) from error
        yield name, credential


def _secret(setting: str, place: PlatformKey) -> str:
    """Read a key from where it is."""
    if place.file is None:
        secret = os.environ.get(place.env, "")
        if not secret.strip():
            raise RegistryError(f"{setting}: the environment variable {_shown(place)} is not set")
    else:
        if place.file.exists() and not place.file.is_file():  # a pipe would be waited for
            raise RegistryError(f"{setting}: {_shown(place)} is no regular file")
        try:
            secret = place.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise RegistryError(f"{setting}: {_shown(place)} cannot be read: {reason}") from None
        if not secret.strip():
            raise RegistryError(f"{setting}: {_shown(place)} is empty")
    return secret.strip()


_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


def _shown(place: PlatformKey) -> str:
    """Return the place of a key for messages, unless it could be a key that somebody pasted there."""
    if place.file is not None:
        return str(place.file) if place.file.is_absolute() else "the file that it names"
    return place.env if _VARIABLE.fullmatch(place.env) else "that it names"


_FIELDS = {
    "api_key": ("organization", "project"),
    "azure": ("resource", "api_version"),
    "cloudflare": ("account_id", "gateway_id"),
    "google": ("project",),
}
"""What stands beside the secret, by the kind of credential."""


def _check_fields(setting: str, provider: Provider, place: PlatformKey) -> None:
    """Refuse what the provider's kind of credential has no place for."""
    given = [name for name, value in place if value and name not in ("env", "file")]
    for name in given:
        if name not in _FIELDS.get(provider.auth.accepts[0], ()):
            raise RegistryError(f"{setting}.{name}: {provider.id} takes none")


def _message(provider: Provider, place: PlatformKey, secret: str) -> pb.Credential:
    """Return a key as the contract's credential of the first kind that its provider takes."""
    token = pb.BearerToken(token=secret)
    key = pb.ApiKey(key=secret, organization=place.organization, project=place.project)
    match provider.auth.accepts[0]:
        case "aws":
            return pb.Credential(aws=pb.AwsCredential(bearer_token=token))
        case "azure":
            azure = pb.AzureCredential(api_key=key, resource=place.resource, api_version=place.api_version)
            return pb.Credential(azure=azure)
        case "cloudflare":
            cloudflare = pb.CloudflareCredential(token=secret, account_id=place.account_id, gateway_id=place.gateway_id)
            return pb.Credential(cloudflare=cloudflare)
        case "google" if secret.startswith("{"):
            account = pb.ServiceAccountKey(json=secret)
            return pb.Credential(google=pb.GoogleCredential(service_account=account, project=place.project))
        case "google":
            return pb.Credential(google=pb.GoogleCredential(access_token=token, project=place.project))
        case "bearer_token":
            return pb.Credential(bearer_token=token)
        case _:
            return pb.Credential(api_key=key)
