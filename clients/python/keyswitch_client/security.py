"""How a client proves who calls, and knows whom it talks to."""

from __future__ import annotations

import ipaddress
import pathlib
import re
from typing import Any

import grpc

__all__ = ["authorization", "check_unencrypted", "hidden_token", "is_this_machine", "tls_credentials"]

_TOKEN = re.compile(r"[!-+\--~]{1,7000}")
"""What metadata can hold: visible ASCII, and no comma, which would make two of one."""


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
    return None if token is None else _HiddenText("" + token)  # which takes no bytes


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


def check_unencrypted(target: str) -> None:
    """Check that a channel without TLS leads to this machine: requests hold providers' keys, and calls the token.

    Raises:
        ValueError: it does not, or may not.
    """
    if not is_this_machine(target):
        raise ValueError(
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
        return all(map(_is_loopback, target[len("ipv4:") :].split(",")))
    return _is_loopback(re.sub(r"^dns:(//[^/]*/)?", "", target))


def _is_loopback(address: str) -> bool:
    """Tell whether a host, with or without a port, is this machine's own."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
