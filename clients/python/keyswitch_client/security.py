"""How a client proves who calls, and knows whom it talks to."""

from __future__ import annotations

import ipaddress
import pathlib
import re
from collections.abc import Callable
from typing import Any

import grpc

__all__ = [
    "UnencryptedError", "UnusableChannel", "authorization", "hidden_token", "is_loopback", "is_this_machine",
    "may_send", "tls_credentials",
]  # fmt: skip

_TOKEN = re.compile(r"[!-+\--~]{1,7000}")
"""What metadata can hold: visible ASCII, and no comma, which would make two of one."""
_ADDRESS = re.compile(r"(?:\[([^\[\]%]*)\]|([^:\[\]%]*))(?::[0-9A-Za-z-]*)?")
"""A host, in brackets if it has colons, and perhaps a port. gRPC reads more behind a percent sign: other addresses."""


class UnencryptedError(ValueError):
    """Keys or a token would leave this machine without TLS."""


class _HiddenText(str):
    """Text that gRPC takes as the string that it is, and whose `repr`, which is what tracebacks show, hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[secret]"

    def __getitem__(self, index: Any) -> str:
        """Hide a part of it likewise: tools that cut long strings show those."""
        return type(self)(super().__getitem__(index))


def hidden_token(token: str | None) -> str | None:
    """Return a token that shows nothing of itself; None without one."""
    return None if token is None else _HiddenText(token)


def tls_credentials(
    ca: str | pathlib.Path | None = None,
    *,
    certificate: str | pathlib.Path | None = None,
    key: str | pathlib.Path | None = None,
) -> grpc.ChannelCredentials:
    """Return what `tls` takes, from PEM files.

    *ca* holds the authorities that the server's certificate may come from, by default those that gRPC ships;
    *certificate* and *key* are the client's own, for servers that want one.

    Raises:
        ValueError: of certificate and key only one is given.
        OSError: a file cannot be read.
    """
    if (certificate is None) != (key is None):
        raise ValueError("a client's certificate and its key are needed together")
    authorities, chain, private = (
        None if path is None else pathlib.Path(path).read_bytes() for path in (ca, certificate, key)
    )
    return grpc.ssl_channel_credentials(authorities, private, chain)


def may_send(target: str, *, safe: bool, calls_here: bool) -> bool:
    """Tell whether calls may be sent to *target*: requests hold providers' keys, and calls the token.

    They may to this machine, and elsewhere where TLS, or the caller's word, makes that *safe*.

    Raises:
        UnencryptedError: they may not, and no call is made from this process either.
    """
    allowed = safe or is_this_machine(target)
    if not (allowed or calls_here):
        raise _unencrypted()
    return allowed


class UnusableChannel:
    """Stands where a channel would that nothing may be sent through, and refuses every call."""

    def unary_unary(self, *_: Any, **__: Any) -> Callable[..., Any]:
        """Return what takes the place of an rpc."""
        return self._refuse

    unary_stream = unary_unary

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise _unencrypted()


def _unencrypted() -> UnencryptedError:
    return UnencryptedError(
        "without TLS, keys and tokens are sent to this machine and nowhere else; give tls=tls_credentials(...), or "
        "insecure=True to send them unencrypted"
    )


def authorization(token: str | None) -> tuple[tuple[str, str], ...] | None:
    """Return the metadata that every call carries a *token* of `hidden_token` in; None without one.

    Raises:
        ValueError: it is no token; the message does not repeat it.
    """
    if token is None:
        return None
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token has 1 to 7000 visible ASCII characters, without spaces, commas and line ends")
    return (("authorization", _HiddenText(f"Bearer {token}")),)


def is_this_machine(target: str) -> bool:
    """Tell whether a target is surely on this machine: Unix sockets, `localhost`, or loopback addresses."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    if target.startswith(("ipv4:", "ipv6:")):
        return all(is_loopback(_host(address)) for address in target[len("ipv4:") :].split(","))
    return is_loopback(_host(re.sub(r"^dns:(//[^/]*/)?", "", target)))


def _host(address: str) -> str:
    """Return the host of an address as gRPC takes it apart: of several colons without brackets none begins a port."""
    found = _ADDRESS.fullmatch(address)
    return (found[1] or found[2] or "") if found else address


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its text: `localhost`, or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback and "%" not in host
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"
