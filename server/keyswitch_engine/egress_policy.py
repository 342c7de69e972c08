"""Where calls may go: one policy, asked for the text of every URL before a look-up and for every address at its socket.

What a host may be is decided by its text: names that mean this machine or this network, and numbers written so that
they look like something else, never reach a resolver. What an address may be is decided by the table in `ip_ranges`. A
URL is taken apart by a grammar that leaves nothing for the transport to understand differently.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
from typing import Final, NamedTuple

import msgspec
from yarl import URL

from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.ip_ranges import Network, is_allowed

__all__ = ["EgressPolicy", "Origin", "blocked", "canonical_host"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_EVERYWHERE: Final[tuple[Network, ...]] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_LOCAL_NAMES: Final = frozenset({"localhost", "localdomain", "local", "internal", "home.arpa"})
"""Domains that mean this machine or this network (RFC 6761, 6762, 8375; ICANN's .internal), with all below them."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_ORIGIN = re.compile(r"(https?)://([^/?#\\]*)", re.IGNORECASE | re.ASCII)  # else a long s would be one
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_REST = re.compile(r"(?:/[!$-.0-;=@-Z_a-z~%/]*)?(?:\?[!$-;=@-Z_a-z~%/?]*)?")
_DOTS = re.compile(r"(?:/|%2f|%5c)(?:\.|%(?:25)*2e){1,2}(?=/|%2f|%5c|\?|$)", re.IGNORECASE)
_MAX_PORT: Final = 65_535


class Origin(NamedTuple):
    """Scheme, host and port: what a credential is bound to."""

    scheme: str
    host: str
    """In lower case and ASCII, without a trailing dot; an IPv6 address in brackets."""
    port: int

    def __str__(self) -> str:
        """Return it as the beginning of a URL."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


class EgressPolicy(msgspec.Struct, frozen=True):
    """Where calls may go beside public addresses over https at port 443; by default nowhere."""

    private_networks: tuple[Network, ...] = ()
    """Networks that are not public but allowed all the same; metadata services in them are not."""
    plain_http_hosts: frozenset[str] = frozenset()
    """Hosts that may be called without TLS, and by local names: `HOST` at any port, or `HOST:PORT`."""
    ports: frozenset[int] = frozenset()
    """Ports beside 443 at which any host may be called over https."""
    sole_origin: Origin | None = None
    """The one origin that may be called, whatever else is allowed; see `only`."""

    def __post_init__(self) -> None:
        """Bring the hosts into the form that URLs are compared in.

        Raises:
            ValueError: one of them is no host, or its port is none.
        """
        msgspec.structs.force_setattr(self, "plain_http_hosts", frozenset(map(_named, self.plain_http_hosts)))

    @classmethod
    def only(cls, url: str) -> EgressPolicy:
        """Return the policy that allows the origin of *url* and nothing else, wherever its host resolves to.

        Private and loopback addresses are allowed, link-local addresses and metadata services are not.

        Raises:
            DispatchError: INVALID_ENDPOINT, the URL is none that could be called.
        """
        return cls(private_networks=_EVERYWHERE, sole_origin=_taken_apart(url)[0])

    def admit(self, url: str) -> str:
        """Return *url* as it is to be called, with its host in canonical form. Nothing is looked up.

        Raises:
            DispatchError: INVALID_ENDPOINT, it is no URL of an endpoint; BLOCKED_ENDPOINT, it may not be called.
        """
        origin, rest = _taken_apart(url)
        if self.sole_origin is None:
            self._check(origin)
        elif origin != self.sole_origin:
            raise blocked("another origin would be called than the one that was selected")
        return f"{origin}{rest}"

    def allows_address(self, address: str) -> bool:
        """Tell whether a socket may be opened to an IP address, which may have a zone."""
        return is_allowed(ipaddress.ip_address(address.partition("%")[0]), self.private_networks)

    def _check(self, origin: Origin) -> None:
        """Refuse an origin that is not allowed."""
        scheme, host, port = origin
        named = host in self.plain_http_hosts or f"{host}:{port}" in self.plain_http_hosts
        if named:
            return
        if scheme != "https":
            raise blocked("it would be called without TLS, which this server does not allow")
        if _is_local(host):
            raise blocked("its host is a local name")
        if port != _DEFAULT_PORTS["https"] and port not in self.ports:
            raise blocked("its port is not 443, nor one that the server's operator allows")


def blocked(why: str) -> DispatchError:
    """Return the refusal of an endpoint that is well-formed; *why* never quotes it."""
    return DispatchError(Reason.BLOCKED_ENDPOINT, f"this endpoint may not be called from here: {why}")


def canonical_host(written: str) -> str:
    """Return a host in lower case and ASCII, without the dot that may end it.

    A host is a name, an IPv4 address of four decimal numbers, or an IPv6 address in brackets without a zone.

    Raises:
        ValueError: it is none of these, or one of them in disguise.
    """
    if written.startswith("["):
        return f"[{ipaddress.IPv6Address(_unzoned(written[1:-1]))}]"
    host = (written if written.isascii() else _to_ascii(written)).lower().removesuffix(".")
    if not _NAME.fullmatch(host):
        raise ValueError("no host")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):  # the resolvers of some systems read far more as an address
        return str(ipaddress.IPv4Address(host))
    return host


def _unzoned(address: str) -> str:
    """Return an address that has no zone; the name of an interface is nothing that a URL can know here."""
    if "%" in address:
        raise ValueError("zone")
    return address


def _to_ascii(host: str) -> str:
    """Encode a name (IDNA). What only looks different, like digits in circles or letters in full width, is refused."""
    encoded = URL.build(scheme="https", host=host).raw_host or ""
    if any(
        after != before.lower() if before.isascii() else before.isnumeric() or not after.startswith("xn--")
        for before, after in zip(host.split("."), encoded.split("."), strict=True)
    ):
        raise ValueError("disguised")
    return encoded


def _named(text: str) -> str:
    """Return `HOST` or `HOST:PORT` with the host in canonical form; an IPv6 address may lack its brackets."""
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    found = _AUTHORITY.fullmatch(text)
    if found is not None and 0 < int(found[2] or 1) <= _MAX_PORT:
        with contextlib.suppress(ValueError):  # it would not say what an operator has to write
            return canonical_host(found[1]) + (f":{int(found[2])}" if found[2] else "")
    raise ValueError("neither HOST nor HOST:PORT")


def _is_local(host: str) -> bool:
    """Tell whether a host is a name that means something else in every network."""
    if host.startswith("[") or host.rpartition(".")[2].isdigit():
        return False  # an address, which is judged at its socket
    labels = host.split(".")
    return len(labels) == 1 or labels[-1] in _LOCAL_NAMES or ".".join(labels[-2:]) in _LOCAL_NAMES


def _invalid(why: str) -> DispatchError:
    """Return the refusal of what is no URL of an endpoint."""
    return DispatchError(Reason.INVALID_ENDPOINT, f"the endpoint's URL cannot be called: {why}")


def _taken_apart(url: str) -> tuple[Origin, str]:
    """Return the origin of a URL, and its path and query."""
    found = _ORIGIN.match(url)
    if found is None:
        raise _invalid("it must begin with https://")
    rest = url[found.end() :]
    if not _REST.fullmatch(rest):
        raise _invalid("behind its host may only stand a path and a query, in ASCII")
    if _DOTS.search(rest.partition("?")[0]):
        raise _invalid("its path has a segment that leads elsewhere")
    return _origin(found[1].lower(), found[2]), rest


@functools.lru_cache(maxsize=1024)
def _origin(scheme: str, authority: str) -> Origin:
    """Read the part between scheme and path. Refusals are not kept."""
    if "@" in authority:
        raise _invalid("no user and password can be in it")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise _invalid("its host or its port is none")
    try:
        host = canonical_host(found[1])
    except ValueError:
        raise _invalid("its host is no name and no address in plain form") from None
    port = int(found[2]) if found[2] else _DEFAULT_PORTS[scheme]
    if not 0 < port <= _MAX_PORT:
        raise _invalid("no service has its port")
    return Origin(scheme, host, port)
