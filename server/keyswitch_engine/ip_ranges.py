"""Which IP addresses are public: a table of its own, since `ipaddress.is_global` is wrong for several.

What the table does not know to be public is refused. An IPv6 address that carries an IPv4 address is judged by that one
too, wherever in it the address stands: some gateway may unwrap it on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TypeAlias

__all__ = ["Address", "Network", "is_allowed"]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_NEVER = _networks(
    "0.0.0.0/8",  # this host
    "169.254.0.0/16",  # link-local, where most metadata services are
    "100.100.100.200/32",  # metadata of Alibaba Cloud
    "168.63.129.16/32",  # the host below a machine at Azure
    "192.0.0.192/32",  # metadata of Oracle Cloud
    "224.0.0.0/4",  # multicast
    "255.255.255.255/32",  # broadcast
    "::/128",  # this host
    "fe80::/10",  # link-local
    "fd00:ec2::/32",  # metadata and other services of AWS below a machine
    "fd20:ce::254/128",  # metadata of Google Cloud
    "fd00:c1::a9fe:a9fe/128",  # metadata of Oracle Cloud
    "fd00:42::42/128",  # metadata of Scaleway
    "ff00::/8",  # multicast
)
"""Refused even where an operator allows the network around them."""

_PUBLIC = _networks(
    "0.0.0.0/0",
    "2000::/3",  # all that was ever handed out
    "64:ff9b::/96",  # how networks without IPv4 reach it (NAT64)
)
_NOT_PUBLIC = _networks(
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared behind a carrier's NAT
    "127.0.0.0/8",  # loopback
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "240.0.0.0/4",  # reserved
    "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "3ffe::/16",  # handed back: once the 6bone
    "3fff::/20",  # documentation
)
"""What is not public of `_PUBLIC`, beside `_NEVER`."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_ENDS_IN_IPV4 = (
    IPv6Network("::/96"),  # compatible
    _MAPPED,
    IPv6Network("::ffff:0:0:0/96"),  # translated (SIIT)
    IPv6Network("64:ff9b::/96"),  # NAT64
)
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")  # within one network
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_LOOPBACK = IPv6Address("::1")


def is_allowed(address: Address, private: Iterable[Network]) -> bool:
    """Tell whether an address may be called where, beside public ones, those in the networks *private* may."""
    if isinstance(address, IPv6Address) and address in _MAPPED:
        address = IPv4Address(int(address) & 0xFFFFFFFF)  # what the system's own sockets make of it
    if any(_among(part, _NEVER) for part in (address, *_embedded(address))):
        return False
    return _is_public(address) or _among(address, private)


def _is_public(address: Address) -> bool:
    """Tell whether an address, and any that it embeds, is one of the internet's."""
    return all(
        _among(part, _PUBLIC) and not _among(part, _NOT_PUBLIC) and not _among(part, _NEVER)
        for part in (address, *_embedded(address))
    )


def _among(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _embedded(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address may carry."""
    if isinstance(address, IPv4Address) or address == _LOOPBACK:
        return []
    bits = int(address)
    found = []
    if _among(address, _ENDS_IN_IPV4) or (bits >> 32) & 0xFDFFFFFF == 0x5EFE:  # noqa: PLR2004 - ISATAP, RFC 5214
        found.append(bits)
    if address in _NAT64_LOCAL:  # RFC 6052: at the end, or around bits 64 to 71, and zeros in the other place
        found += [place for place in (bits & 0xFFFFFFFF, (bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF) if place]
    if address in _6TO4:
        found.append(bits >> 80)
    if address in _TEREDO:  # server, and client inverted
        found += [bits >> 64, ~bits]
    return [IPv4Address(value & 0xFFFFFFFF) for value in found]
