"""The one way out: every byte to a provider leaves through here.

What an address may be is checked on the final socket address, at the moment of connecting: a check of the name alone
misses literals and names whose answer changes. No proxy is taken from the environment, no redirect is followed, no
cookie kept, and TLS is always verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from keyswitch_engine.dialects.reading import bound
from keyswitch_engine.egress_policy import EgressPolicy, blocked
from keyswitch_engine.errors import DispatchError, LimitExceeded, ProtocolError, ProviderError, Reason, StreamTruncated

__all__ = ["FOREIGN_ERRORS", "Answer", "BlockedAddressError", "Egress", "Timing", "tls_context", "translate"]

_READ_BUFFER = 64 * 1024
_MAX_HEADER = 64 * 1024
_DRAIN_SECONDS = 0.025
_LOOK_UP_SECONDS, _LOOK_UP_TRIES = 2.0, 2
"""How long a name server has, and how often it is asked."""


class BlockedAddressError(OSError):
    """A socket address is not allowed."""


FOREIGN_ERRORS: Mapping[type[Exception], Reason] = {
    aiohttp.ConnectionTimeoutError: Reason.FIRST_TOKEN_TIMEOUT,
    aiohttp.SocketTimeoutError: Reason.IDLE_TIMEOUT,
    aiohttp.ServerTimeoutError: Reason.IDLE_TIMEOUT,
    aiohttp.ClientConnectorCertificateError: Reason.PROVIDER_UNAVAILABLE,
    aiohttp.ClientSSLError: Reason.PROVIDER_UNAVAILABLE,
    aiohttp.ClientConnectorError: Reason.PROVIDER_UNAVAILABLE,
    aiohttp.ServerDisconnectedError: Reason.PROVIDER_UNAVAILABLE,
    aiohttp.ClientResponseError: Reason.PROVIDER_PROTOCOL_ERROR,
    aiohttp.ClientPayloadError: Reason.STREAM_TRUNCATED,
    aiohttp.InvalidURL: Reason.INTERNAL,
    aiohttp.ClientError: Reason.PROVIDER_UNAVAILABLE,
    OSError: Reason.PROVIDER_UNAVAILABLE,
}
"""What the transport's exceptions mean; the most specific class decides."""

_WORDS = {
    Reason.FIRST_TOKEN_TIMEOUT: "no connection within the connect limit",
    Reason.IDLE_TIMEOUT: "the provider went silent",
    Reason.PROVIDER_UNAVAILABLE: "the provider cannot be reached",
    Reason.PROVIDER_PROTOCOL_ERROR: "the provider's answer is not HTTP",
    Reason.STREAM_TRUNCATED: "the provider's answer broke off",
    Reason.INTERNAL: "the provider's URL is not valid",
}


def translate(error: Exception) -> DispatchError:
    """Return what an exception of the transport means. Its text is not passed on: it may hold addresses and headers."""
    if isinstance(error.__cause__ or error.__context__, BlockedAddressError) or _blocked(error):
        return blocked("its address is not public")
    reason = next(FOREIGN_ERRORS[kind] for kind in type(error).__mro__ if kind in FOREIGN_ERRORS)
    message = _WORDS[reason]
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        message = "the provider's TLS certificate cannot be verified"
    match reason:
        case Reason.STREAM_TRUNCATED:
            return StreamTruncated(message)
        case Reason.PROVIDER_PROTOCOL_ERROR:
            return ProtocolError(message)
        case Reason.FIRST_TOKEN_TIMEOUT | Reason.IDLE_TIMEOUT:
            return LimitExceeded(reason, message)
        case _:
            return ProviderError(reason, message)


def _blocked(error: Exception) -> bool:
    """Tell whether a connection failed because every address of the host is refused."""
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, BlockedAddressError)


class Answer:
    """An answer whose status and headers are here and whose body is still on its way."""

    __slots__ = ("_compressed", "_content", "_read_bytes", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        """Wrap *response*."""
        self._response = response
        self._content = response.content
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._compressed = "content-encoding" in self.headers
        self._read_bytes = 0

    async def read(self) -> bytes:
        """Return everything that has arrived, waiting for at least one byte; empty at the end of the body.

        The transport stops reading from the socket while more than 128 KiB wait here, which is how a slow reader slows
        the provider down.

        Raises:
            DispatchError: the transport failed, as `translate` says.
            ProtocolError: the answer was compressed, which nobody asked for, and is larger than a whole answer may be.
        """
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            failure = translate(error)
            if failure.reason is Reason.PROVIDER_UNAVAILABLE:  # it was there: its answer had begun
                failure = StreamTruncated(_WORDS[Reason.STREAM_TRUNCATED])
        else:
            if self._compressed:  # a stream may be long, but one that costs its sender nothing is an attack
                self._read_bytes += len(data)
                bound(self._read_bytes)
            return data
        raise failure  # out here, with nothing of the transport's behind it: texts and frames hold what was sent

    async def drain(self) -> None:
        """Read what is left of an answer that is complete, so that its connection can serve another call.

        Where nothing more comes soon, or something goes wrong, the connection is closed instead: the answer was
        complete, and this cannot change it.
        """
        if self._content.at_eof():
            return
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self._content.readany():
                    pass


class Timing:
    """When the stages of one attempt passed, on the loop's clock."""

    __slots__ = ("connected", "first_event", "started")

    def __init__(self, started: float) -> None:
        """Begin an attempt."""
        self.started = started
        self.connected: float | None = None
        self.first_event: float | None = None


_timing: contextvars.ContextVar[Timing] = contextvars.ContextVar("timing")
"""That of the attempt which the task sends; aiohttp's tracing would tell the same for three times the CPU."""


class _Connector(aiohttp.TCPConnector):
    """Reuses no connection on which something came after its last answer: it would be taken for the next caller's.

    Notes when a new one became usable.
    """

    async def _create_connection(self, *arguments: Any) -> aiohttp.client_proto.ResponseHandler:
        connection = await super()._create_connection(*arguments)
        _timing.get().connected = asyncio.get_running_loop().time()
        return connection

    async def _get(self, *arguments: Any) -> aiohttp.connector.Connection | None:
        while (connection := await super()._get(*arguments)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class Egress:
    """The session that all calls share; an async context manager that owns its sockets."""

    def __init__(self, policy: EgressPolicy, tls: ssl.SSLContext | None = None, *, system_names: bool = False) -> None:
        """Prepare; sockets are opened in the context.

        *tls* is what `tls_context` returns, to be shared where there are several; its own by default.

        With *system_names* names are looked up as the system does it: with all of its ways, mDNS among them, but in few
        threads, which no limit ends. That is for the calls of one user; where many call, names whose servers are silent
        would hold up everybody's.
        """
        self._policy = policy
        self._tls = tls
        self._system_names = system_names
        self._resolver: aiohttp.abc.AbstractResolver | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._resolver = _resolver(system=self._system_names)
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0,
                ssl=self._tls or tls_context(),
                resolver=self._resolver,
                socket_factory=self._socket,
                ttl_dns_cache=30,
                keepalive_timeout=30,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=True,
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            skip_auto_headers=("User-Agent",),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, connect_limit: float, timing: Timing
    ) -> AsyncIterator[Answer]:
        """Send a request; the answer is open inside the context, and its connection closed after it unless it was read.

        Raises:
            DispatchError: the URL or its address is not allowed, or the transport failed, as `translate` says.
        """
        if self._session is None:
            raise RuntimeError("egress is used outside its context")
        target = URL(self._policy.admit(url), encoded=True)
        _timing.set(timing)
        response = await _answered(
            self._session.request(
                method,
                target,
                data=body or None,
                headers={"User-Agent": "keyswitch", "Accept-Encoding": "identity", **headers},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_limit),
            )
        )
        try:
            yield Answer(response)
        finally:
            response.close()  # does nothing where the answer was read to its end and its connection went back

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Open a socket for one address, if that is allowed; aiohttp calls this for every candidate."""
        family, kind, protocol, _, sockaddr = address
        if not self._policy.allows_address(str(sockaddr[0])):
            raise BlockedAddressError("address not allowed")
        return socket.socket(family=family, type=kind, proto=protocol)


async def _answered(sending: Awaitable[aiohttp.ClientResponse]) -> aiohttp.ClientResponse:
    """Wait for the answer to what is sent.

    Raises:
        DispatchError: the transport failed.
    """
    try:
        return await sending
    except (aiohttp.ClientError, OSError) as error:
        failure = translate(error)
    raise failure  # likewise


def tls_context() -> ssl.SSLContext:
    """Return a context that verifies servers by the system's authorities, of which it holds all."""
    context = ssl.create_default_context()
    context.keylog_filename = None  # type: ignore[assignment] # which SSLKEYLOGFILE sets, and which tells every key
    return context


def _resolver(*, system: bool) -> aiohttp.abc.AbstractResolver:
    """Return what looks names up: the system, or its name servers in a way that can be given up."""
    if system:
        return aiohttp.ThreadedResolver()
    return aiohttp.AsyncResolver(timeout=_LOOK_UP_SECONDS, tries=_LOOK_UP_TRIES)
