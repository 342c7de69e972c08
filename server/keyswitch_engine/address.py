"""Where a surface is for one call: its URLs with their parameters filled in.

Parameters come from the target (`region`) and from the credential that the call uses (a resource, a project, an
account). A value never widens where a call may go: in a host it is labels, or a part of one, below the provider's own
domain; elsewhere it is one segment, quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

import msgspec

from keyswitch_engine.credential import Credential, fields_of
from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.provider import D, Provider, Surface

__all__ = ["at_address", "parameters", "placed"]

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_IN_HOST = {"organization": re.compile(rf"{_LABEL}(\.{_LABEL}){{0,3}}")}  # account.region.cloud at Snowflake
_ONE_LABEL = re.compile(_LABEL)
_SEGMENT = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f/\\%?#]+")


def parameters(provider: Provider, credential: Credential, region: str) -> Mapping[str, str]:
    """Return the values of a provider's parameters; one that nobody gave is missing.

    Raises:
        InvalidRequest: *region* is given, and the provider has none.
    """
    if region and "region" not in provider.parameters:
        raise InvalidRequest([Violation("target.region", f"{provider.id} has no regions")])
    if not provider.parameters:
        return {}
    given = fields_of(credential) | {"region": region}
    values = {name: given.get(name) or default for name, default in provider.parameters.items()}
    return {name: value for name, value in values.items() if value}


def placed(surfaces: Sequence[Surface[D]], values: Mapping[str, str]) -> Surface[D]:
    """Return the first of *surfaces*, which speak the same dialect, whose needs are met; the last if none are."""
    return next((surface for surface in surfaces if all(name in values for name in surface.needs)), surfaces[-1])


def at_address(provider: Provider, surface: Surface[D], values: Mapping[str, str]) -> Surface[D]:
    """Return *surface* with its URLs filled in.

    Raises:
        InvalidRequest: a parameter is missing, or its value cannot stand in a URL.
    """
    if not provider.parameters:
        return surface
    base_url = surface.base_url
    if base_url == provider.base_url:
        base_url = provider.regional_base_urls.get(values.get("region", ""), base_url)
    profile = msgspec.structs.replace(
        surface.profile,
        path=_fill(provider, surface.profile.path, values),
        stream_path=_fill(provider, surface.profile.stream_path, values),
    )
    return msgspec.structs.replace(surface, base_url=_fill(provider, base_url, values), profile=profile)


def _fill(provider: Provider, template: str, values: Mapping[str, str]) -> str:
    """Fill one template; `{model}` is the dialect's to fill."""
    for name in provider.parameters:
        holder = f"{{{name}}}"
        if holder not in template:
            continue
        value = values.get(name, "")
        field = "target.region" if name == "region" else "credentials"
        if not value:
            raise InvalidRequest([Violation(field, f"{provider.id} needs its {name}")])
        in_host = holder in urlsplit(template).netloc
        if in_host and not _IN_HOST.get(name, _ONE_LABEL).fullmatch(value):
            raise InvalidRequest([Violation(field, f"the {name} can only hold letters, digits and inner hyphens")])
        if not _SEGMENT.fullmatch(value):
            raise InvalidRequest([Violation(field, f"the {name} is no single segment of a path")])
        if in_host:
            scheme, _, rest = template.partition("://")
            host, slash, path = rest.partition("/")
            template = f"{scheme}://{host.replace(holder, value.lower())}{slash}{path}"
        template = template.replace(holder, quote(value, safe=""))
    return template
