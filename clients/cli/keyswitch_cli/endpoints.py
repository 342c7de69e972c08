"""Named endpoints: definitions in a file that people read, edit and share, and that refuses to hold a key.

::

    [endpoints.desk]
    base_url = "http://127.0.0.1:8080/v1"
    model = "qwen3"
    auth = "none"            # or where the key is: "keyring", "file"
    dialect = "openai-chat"  # if missing
    label = "Desk"           # if missing, the name

What is wrong with one definition concerns that one alone, and what is not understood is kept as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import click
from keyswitch_client import Endpoint
from keyswitch_engine.secret import holds_key

from keyswitch_cli.endpoint_file import path, read
from keyswitch_cli.output import print_line
from keyswitch_cli.stores import STORES, key_store

__all__ = [
    "DIALECTS",
    "Definition",
    "definitions",
    "kept",
    "problems_of",
    "selected",
    "usable_name",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages")
"""What an endpoint can speak."""

_REQUIRED, _OPTIONAL = ("base_url", "model", "auth"), ("dialect", "label")
_AUTH = ("none", *STORES)
_SECRET_NAME = re.compile(
    r"(?:^|[_-]|api)(?:key|secret|token|passw(?:or)?d|credential|authorization|bearer)$", re.IGNORECASE
)
_URL = re.compile(r"https?://[^/?#@\s]+(?:/[^?#@\s]*)?")
_URLS = re.compile(r"https?://[^\s\"']*")
_NEVER_CALLED = "base_url: its host is an address that is never called, as link-local and metadata addresses are"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An endpoint as the file has it, whether it can be used or not."""

    name: str
    """Its name; a place in the file where that is none that may be shown."""
    base_url: str = ""
    model: str = ""
    auth: str = ""
    """`none`, or the kind of store that has its key."""
    dialect: str = DIALECTS[0]
    label: str = ""
    id: str = ""
    """What servers call it in their logs; empty where it cannot be told."""
    problems: tuple[str, ...] = ()
    """Why it is not selectable; nothing of it is a value of the file's."""


def definitions(*, warn: bool = True) -> dict[str, Definition]:
    """Return the definitions by name, in the file's order; *warn* of keys, which hide no definition but their own.

    Raises:
        click.ClickException: the file cannot be read.
    """
    text, content = read()
    endpoints = content.pop("endpoints", {})
    for place in (*_secret_comments(text), *_secrets(content, "")) if warn else ():
        print_line(f"warning: {path()}: {_misplaced(place)}", err=True)
    if not isinstance(endpoints, dict):
        raise click.ClickException(f"{path()}: endpoints is no table of endpoints")
    found = (_definition(name, entry, position) for position, (name, entry) in enumerate(endpoints.items(), 1))
    return {definition.name: definition for definition in found}


def usable_name(name: str) -> bool:
    """Tell whether an endpoint can have a name, which is shown, and so cannot look like a key."""
    return _NAME.fullmatch(name) is not None and not holds_key(name)


def problems_of(name: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """Return why a definition with these values would not be selectable."""
    return _definition(name, values, 1).problems


def kept(base_url: str, key: str) -> str:
    """Return what is stored: a key with the address that it is for.

    Whoever changes where a definition leads, by hand or in a file that is shared, does not send its key there.
    """
    return f"{_address(base_url)} {key}"


def _address(base_url: str) -> str:
    """Return scheme, host and port of a URL that was found good."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").removesuffix(".")
    if ":" in host:  # or its end would be read as a port
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"


def selected(name: str) -> Endpoint:
    """Return an endpoint with its key.

    Raises:
        click.UsageError: there is none of that name, which is not repeated; or it is not selectable.
        click.ClickException: its key cannot be had.
    """
    known = definitions()
    definition = known.get(name)
    if definition is None:
        there_are = f"there are {', '.join(known)}" if known else "there is none yet, see `keyswitch endpoints add`"
        raise click.UsageError(f"--endpoint: no endpoint has that name; {there_are}")
    if definition.problems:
        raise click.UsageError(f"--endpoint: {name} is not selectable: {'; '.join(definition.problems)}")
    key = ""
    if definition.auth != "none":
        address, _, key = (key_store(definition.auth).get(name) or "").partition(" ")
        if not key or address != _address(definition.base_url):
            raise click.ClickException(
                f"there is no key for {name} at this address ({definition.auth}); "
                f'`keyswitch endpoints add {name} --replace` takes one, or auth = "none" says that it needs none'
            )
    return Endpoint(definition.base_url, definition.model, key, definition.dialect, definition.label or definition.name)


def _definition(name: str, entry: Any, position: int) -> Definition:
    """Read one definition, and say what is wrong with it."""
    shown = name if usable_name(name) else f"(number {position})"
    problems = [] if shown == name else ["its name is none: small letters, digits, dots and hyphens"]
    if not isinstance(entry, dict):
        return Definition(name=shown, problems=(*problems, "it is no table"))
    held = sorted(_secrets(entry, ""))
    problems += map(_misplaced, held)
    unknown = sorted(entry.keys() - {*_REQUIRED, *_OPTIONAL} - {place.partition(".")[0] for place in held})
    problems += [f"{field if _NAME.fullmatch(field) else 'a field'} is not known to this version" for field in unknown]
    fields: dict[str, str] = {}
    for field in (*_REQUIRED, *_OPTIONAL):
        value = entry.get(field, "")
        if field in held:
            continue
        if not isinstance(value, str):
            problems.append(f"{field} is no text")
        elif value.strip():
            fields[field] = value.strip()
        elif field in _REQUIRED:
            problems.append(f"{field} is missing")
    for field, allowed in (("auth", _AUTH), ("dialect", DIALECTS)):
        if field in fields and fields[field] not in allowed:
            problems.append(f"{field} is one of {', '.join(allowed)}")
            del fields[field]
    if "base_url" in fields and not _is_url(fields["base_url"]):
        problems.append("base_url begins with https:// or http:// and has no user, password, query or fragment")
        del fields["base_url"]
    definition = Definition(name=shown, problems=tuple(problems), **fields)
    return _judged(definition) if definition.base_url else definition


def _judged(definition: Definition) -> Definition:
    """Return a definition with its id, or why no call can be made to it; as it is where the engine is not installed."""
    try:
        from keyswitch_engine.credential import NoCredential  # noqa: PLC0415 - costs more than all else here
        from keyswitch_engine.custom_endpoint import FIELD, CustomEndpoint, endpoint_id, provider_at  # noqa: PLC0415
        from keyswitch_engine.egress_policy import EgressPolicy  # noqa: PLC0415
        from keyswitch_engine.errors import InvalidRequest  # noqa: PLC0415
    except ModuleNotFoundError:
        return definition
    wanted = CustomEndpoint(definition.base_url, definition.model, NoCredential(), dialect=definition.dialect)
    try:
        base_url = provider_at(wanted).base_url
    except InvalidRequest as error:
        why = [f"{each.field.removeprefix(f'{FIELD}.')}: {each.description}" for each in error.violations]
        return dataclasses.replace(definition, problems=(*definition.problems, *why))
    policy = EgressPolicy.only(base_url)
    with contextlib.suppress(ValueError):  # a name, whose addresses are judged when it is called
        if not policy.allows_address(urlsplit(base_url).hostname or ""):
            return dataclasses.replace(definition, problems=(*definition.problems, _NEVER_CALLED))
    return dataclasses.replace(definition, id=endpoint_id(base_url, definition.model) if definition.model else "")


def _is_url(text: str) -> bool:
    """Tell whether a text is a URL of an endpoint, as far as that can be told without the engine."""
    try:
        port = urlsplit(text).port  # which may be too large
    except ValueError:
        return False
    return _URL.fullmatch(text) is not None and port != 0


def _secrets(value: Any, place: str) -> Iterator[str]:
    """Yield the places of what looks like a key, by its name or by its value."""
    if isinstance(value, dict):
        for number, (name, inner) in enumerate(value.items(), 1):
            shown = f"field {number}" if holds_key(name) else name
            where = f"{place}.{shown}" if place else shown
            if shown != name or (_SECRET_NAME.search(name) and not isinstance(inner, int | float)):
                yield where
            else:
                yield from _secrets(inner, where)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _secrets(inner, f"{place}[{number}]")
    elif isinstance(value, str) and holds_key(value, in_url=place == "base_url"):
        yield place


def _secret_comments(text: str) -> Iterator[str]:
    """Yield the lines of a file with what looks like a key in a comment, or in a text that has the sign of one."""
    for number, line in enumerate(text.split("\n"), 1):
        comment = line.partition("#")[2]
        if holds_key(comment, in_url=True) or holds_key(_URLS.sub("", comment)):
            yield f"line {number}"


def _misplaced(place: str) -> str:
    """Return what is said of a place with a key."""
    return f"{place} looks like a key, which has no place in this file; take it out"
