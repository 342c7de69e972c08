"""Endpoints of the caller's own: a URL, a protocol, and a credential that goes there and nowhere else.

To the rest of the engine such an endpoint is a provider without a file, with the id `custom`, which no file can have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from keyswitch_engine.credential import Credential
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Profile
from keyswitch_engine.egress_policy import canonical_host
from keyswitch_engine.errors import InvalidRequest, Reason, Violation
from keyswitch_engine.provider import Auth, Provider, Surface

__all__ = ["FIELD", "PROVIDER_ID", "CustomEndpoint", "endpoint_id", "provider_at"]

PROVIDER_ID: Final = "custom"
"""What receipts and errors call the provider."""
FIELD: Final = "target.custom_endpoint"
"""Where a request names its endpoint."""

_ACCEPTS: Final = ("api_key", "bearer_token", "none")


class CustomEndpoint(msgspec.Struct, frozen=True):
    """A model server of the caller's own."""

    base_url: str
    """Absolute URL up to the dialect's own path; that path may follow, and a version may be missing."""
    model: str
    credential: Credential
    label: str = "custom"
    """What people call it."""
    dialect: str = "openai-chat"
    compatibility: Mapping[str, Any] = {}
    """Flags that override the dialect's defaults, by name."""


class _Form(NamedTuple):
    """How servers of a dialect are addressed."""

    path: str
    always_versioned: bool
    """Whether `/v1` stands before the path whatever the base URL is; else only behind a host alone."""
    auth: Auth
    headers: Mapping[str, str] = {}


_BEARER = Auth(accepts=_ACCEPTS)
_FORMS: Mapping[str, _Form] = MappingProxyType(
    {
        "openai-chat": _Form("/chat/completions", always_versioned=False, auth=_BEARER),
        "openai-responses": _Form("/responses", always_versioned=False, auth=_BEARER),
        "anthropic-messages": _Form(
            "/messages",
            always_versioned=True,
            auth=Auth(style="header", header="x-api-key", accepts=_ACCEPTS),
            headers={"anthropic-version": "2023-06-01"},
        ),
    }
)


def provider_at(endpoint: CustomEndpoint) -> Provider:
    """Return the provider that stands for an endpoint.

    Raises:
        InvalidRequest: its URL or its dialect is none that can be called.
    """
    form = _FORMS.get(endpoint.dialect)
    if form is None:
        raise InvalidRequest([Violation(f"{FIELD}.dialect", f"one of {', '.join(sorted(_FORMS))}")])
    base_url = _base_url(endpoint.base_url, form)
    spoken = DIALECTS[endpoint.dialect]
    surface = Surface(spoken, Profile(PROVIDER_ID, form.path, spoken.flags()), base_url, dict(form.headers))
    return Provider(PROVIDER_ID, endpoint.label, base_url, (surface,), form.auth)


def endpoint_id(base_url: str, model: str) -> str:
    """Return what an endpoint and a model are known by where neither is to be shown: 16 hexadecimal digits.

    *base_url* is that of the surface, which is the same however the caller wrote it. Each part is preceded by its
    length, so that no two pairs are ever hashed as the same text.
    """
    parts = (part.encode() for part in (base_url, model))
    hashed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(b"keyswitch endpoint 1" + hashed).hexdigest()[:16]


_SEGMENTS = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_VERSION = re.compile(r"v\d+[a-z0-9]*", re.IGNORECASE)
_LONGEST = 2048
_PORTS = {"http": 80, "https": 443}


def _base_url(url: str, form: _Form) -> str:
    """Return everything before the dialect's path, which is joined on once however much of it the caller wrote."""
    url = url.strip()
    if not url.isprintable() or " " in url or len(url) > _LONGEST:  # urlsplit would drop some of them in silence
        raise _invalid(f"1 to {_LONGEST} visible characters, without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port out of range, or brackets around no address
        raise _invalid("it is no URL") from None
    if parts.scheme not in ("http", "https"):
        raise _invalid("it must begin with https://")
    if "@" in parts.netloc:
        raise _invalid("no user and password in it; the key has a field of its own")
    if "?" in url or "#" in url:
        raise _invalid("no query and no fragment")
    if port == 0:
        raise _invalid("no service has the port 0")
    host = _host(parts.netloc.removesuffix(f":{port}") if port is not None else parts.netloc)
    whole = parts.path.rstrip("/")
    path = whole.removesuffix(form.path)
    for name, other in _FORMS.items():
        if path.lower().endswith(other.path):  # behind which the dialect's own would be there twice, or lead nowhere
            if other is form:
                raise _invalid(f"its path may end in {form.path}, once and written so")
            raise _invalid(f"its path is that of the dialect {name}, and another one was asked for")
    if not _SEGMENTS.fullmatch(path):
        raise _invalid("its path holds what no path of an endpoint does")
    versioned = path != whole or _VERSION.fullmatch(path.rpartition("/")[2]) is not None
    if not versioned and (form.always_versioned or not path):
        path += "/v1"
    return f"{parts.scheme}://{host}{'' if port in (None, _PORTS[parts.scheme]) else f':{port}'}{path}"


def _host(written: str) -> str:
    """Return a host in the one form that there is of it."""
    try:
        return canonical_host(written)
    except ValueError:  # its words may hold a part of the URL
        raise _invalid("its host is none that could be called") from None


def _invalid(rule: str) -> InvalidRequest:
    """Return the refusal of a URL, which is not shown: it may hold a key."""
    return InvalidRequest([Violation(f"{FIELD}.base_url", rule)], Reason.INVALID_ENDPOINT)
