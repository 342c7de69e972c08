"""Which calls this machine makes itself: the rule, without a network and without the engine.

Model servers on the own machine or network are none of a server's business: seen from there, `localhost` is somebody
else. With `local="auto"`, in this order:

1. Every target of a request, fallbacks included, is a custom endpoint whose URL says that it is local (`is_local`): the
   call is made here, and no server hears of it.
2. Some of them are, and others are not: the request is refused, since no one place can serve it.
3. Anything else is asked of the server. Only if it answers `BLOCKED_ENDPOINT`, or nobody is there to answer, and only
   if every target turns out to be local, is the call made here: custom endpoints whose names have private addresses
   alone, and models that this installation's own rows resolve to a local origin, like `ollama/llama3`. The server comes
   first since it may have a provider of that name of its own; if what it refused is another origin than the row's, the
   refusal stands, since key and conversation were meant for there.

With `local="never"` no call is made here, and with `local="always"` every one is.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from keyswitch.v1 import target_pb2

__all__ = ["LocalMode", "LocalOptions", "Place", "are_private", "is_local", "place", "read_options"]

LocalMode: TypeAlias = Literal["auto", "never", "always"]
"""Which calls are made from this process."""

_MODES = ("auto", "never", "always")
_LOCAL_DOMAINS = (".localhost", ".localdomain", ".local", ".internal", ".home.arpa")
"""Domains that mean this machine or this network (RFC 6761, 6762 and 8375, and ICANN's `.internal`)."""
_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""Neither private nor public: behind a provider's translation (RFC 6598), and in overlay networks."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """How calls are made from this process."""

    mode: LocalMode = "auto"
    providers: tuple[pathlib.Path, ...] = ()
    """Directories of provider files, of an operator's form, which add to this installation's rows or replace them."""
    notify: Callable[[str], None] | None = None
    """Told in a line of each call that was the server's to make and is made here instead.

    By default that is a warning of the logger `keyswitch_client`.
    """


class Place(enum.Enum):
    """Where a call is made."""

    HERE = enum.auto()
    SERVER = enum.auto()
    """Or here after all, as the server's answer says."""
    NOWHERE = enum.auto()
    """Its targets are at places that no single one can reach."""


def read_options(local: LocalMode | LocalOptions) -> LocalOptions:
    """Return the options that *local* stands for.

    Raises:
        ValueError: it is no mode.
    """
    options = local if isinstance(local, LocalOptions) else LocalOptions(mode=local)
    if options.mode not in _MODES:
        raise ValueError(f"local is one of {', '.join(_MODES)}")
    return options


def place(request: Any, mode: LocalMode) -> Place:
    """Return where the call is made that a *request* of the contract asks for."""
    if mode != "auto":
        return Place.HERE if mode == "always" else Place.SERVER
    if not hasattr(request, "fallbacks"):  # it names a provider, which the server may have
        return Place.SERVER
    local = [_names_local(target) for target in (request.target, *request.fallbacks)]
    if all(local):
        return Place.HERE
    return Place.NOWHERE if any(local) else Place.SERVER


def _names_local(target: target_pb2.Target) -> bool:
    return target.HasField("custom_endpoint") and is_local(target.custom_endpoint.base_url)


def is_local(base_url: str) -> bool:
    """Tell from the text of a URL alone that no server would call it, as its defaults are.

    So its host is a name without a dot, one of a local domain, or an address that is not public. What is no URL of an
    endpoint is not local either, nor a public host without TLS: the server says what is wrong with it.
    """
    try:
        parts = urlsplit(base_url.strip())
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.scheme not in ("http", "https"):
        return False
    host = host.removesuffix(".")
    try:
        return are_private([host])
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_DOMAINS)


def are_private(addresses: Iterable[str]) -> bool:
    """Tell whether there are IP addresses, and none of them is public.

    Raises:
        ValueError: one of them is no address.
    """
    judged = [_is_private(ipaddress.ip_address(address)) for address in addresses]
    return bool(judged) and all(judged)


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is this machine's, or one of some network's own."""
    address = getattr(address, "ipv4_mapped", None) or address
    shared = address.version == 4 and address in _SHARED  # noqa: PLR2004 - the version of the protocol
    return address.is_loopback or address.is_private or address.is_link_local or shared
