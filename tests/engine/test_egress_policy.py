from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from egress_targets import ADDRESSES, ALLOWED, REDIRECTED, REFUSED
from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine.egress import Egress, Timing
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, Reason
from listening import Listeners
from support import http_provider
from yarl import URL

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.fixture(scope="module")
def listeners() -> Iterator[Listeners]:
    running = Listeners()
    yield running
    running.close()


class Resolver(AbstractResolver):
    """Answers look-ups with what it was given, one answer a look-up, over and over."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self._answers = itertools.cycle(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in next(self._answers)
        ]

    async def close(self) -> None:
        pass


class Attempts:
    """Stands behind the policy: notes the addresses that it hands out sockets for, and lets nothing leave for them."""

    def __init__(self, factory: Callable[[Any], socket.socket]) -> None:
        self._factory = factory
        self.addresses: list[str] = []

    def __call__(self, address: Any) -> socket.socket:
        opened = self._factory(address)  # the policy itself, which raises where it refuses
        self.addresses.append(address[4][0])
        opened.close()
        raise ConnectionRefusedError


@contextlib.asynccontextmanager
async def opened(policy: EgressPolicy, resolver: Resolver) -> AsyncIterator[tuple[Egress, Attempts]]:
    """A real egress whose names are resolved by *resolver*, every time, and whose permitted connects go nowhere."""
    async with Egress(policy) as egress:
        assert egress._session is not None
        connector = egress._session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert connector._socket_factory is not None
        attempts = Attempts(connector._socket_factory)
        connector._resolver, connector._use_dns_cache, connector._socket_factory = resolver, False, attempts
        yield egress, attempts


async def call(egress: Egress, url: str) -> None:
    """Send a request and read nothing of its answer."""
    timing = Timing(asyncio.get_running_loop().time())
    async with egress.request("POST", url, {"x-api-key": "k"}, b"{}", connect_limit=5.0, timing=timing):
        pass


async def refusal(egress: Egress, url: str) -> DispatchError:
    """Return the error that a call ends in."""
    with pytest.raises(DispatchError) as raised:
        await call(egress, url)
    return raised.value


@pytest.mark.parametrize(("target", "reason", "words"), REFUSED)
async def test_a_target_of_the_table_is_refused_without_a_connection(
    listeners: Listeners, target: str, reason: str, words: str
) -> None:
    """Each way of naming what may not be called gets its typed error, and no socket is connected."""
    async with Egress(EgressPolicy(ports=frozenset({listeners.port}))) as egress:
        error = await refusal(egress, target.replace("{port}", str(listeners.port)))
    assert (error.reason, words in error.message) == (reason, True), error.message
    assert not {"127", "::1", "localhost", "openai", "example"} & set(re.findall(r"[\w:]+", error.message))
    assert listeners.connections() == 0


def test_the_table_is_as_long_as_it_has_to_be() -> None:
    """No target is there twice, and there are more than 120."""
    assert len({target for target, _, _ in REFUSED}) == len(REFUSED) > 120


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "127.0.0.2", "LOCALHOST."])
async def test_the_listeners_would_have_seen_a_connection(listeners: Listeners, host: str) -> None:
    """The same hosts are connected to where an operator opens them, so that the table proves something."""
    policy = EgressPolicy(LOOPBACK, frozenset({host}))
    async with Egress(policy) as egress:
        calling = asyncio.ensure_future(call(egress, f"http://{host}:{listeners.port}/"))
        async with asyncio.timeout(5):
            while not listeners.connections():
                await asyncio.sleep(0.005)
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError, DispatchError):
            await calling


@pytest.mark.parametrize(
    "address", [host.strip("[]").rstrip(".") for hosts in ADDRESSES.values() for host in hosts if "%" not in host]
)
async def test_a_name_for_an_address_that_may_not_be_called_is_refused(listeners: Listeners, address: str) -> None:
    """A public name whose answer is loopback, private, special or embeds such an address gets no socket."""
    resolver = Resolver((address,))
    async with opened(EgressPolicy(ports=frozenset({listeners.port})), resolver) as (egress, attempts):
        error = await refusal(egress, f"https://rebinding.example:{listeners.port}/")
    assert (error.reason, attempts.addresses, resolver.asked) == (Reason.BLOCKED_ENDPOINT, [], ["rebinding.example"])
    assert listeners.connections() == 0


FLIPS = (
    ("1.1.1.1",), ("127.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("::1",), ("::1", "127.0.0.1", "169.254.169.254"),
    ("2606:4700:4700::1111",), ("::ffff:127.0.0.1",), ("127.0.0.2", "2606:4700:4700::1111"), ("0.0.0.0",),
)  # fmt: skip


async def test_a_name_whose_answer_flips_never_reaches_a_private_address(listeners: Listeners) -> None:
    """Whatever a resolver says from one look-up to the next, alone or mixed, only its public addresses are connected."""
    resolver = Resolver(*FLIPS)
    async with opened(EgressPolicy(ports=frozenset({listeners.port})), resolver) as (egress, attempts):
        for _ in range(200):
            error = await refusal(egress, f"https://rebinding.example:{listeners.port}/")
            assert error.reason in (Reason.BLOCKED_ENDPOINT, Reason.PROVIDER_UNAVAILABLE)
    assert len(resolver.asked) == 200
    assert set(attempts.addresses) == {"1.1.1.1", "8.8.8.8", "2606:4700:4700::1111"}
    assert listeners.connections() == 0


async def test_a_pooled_name_is_checked_again_when_it_is_connected_again(listeners: Listeners) -> None:
    """An answer that was good for the first connection is worth nothing for the second."""
    resolver = Resolver(("1.1.1.1",), ("127.0.0.1",))
    async with opened(EgressPolicy(ports=frozenset({listeners.port})), resolver) as (egress, attempts):
        url = f"https://rebinding.example:{listeners.port}/"
        errors = [(await refusal(egress, url)).reason for _ in range(4)]
    assert errors == [Reason.PROVIDER_UNAVAILABLE, Reason.BLOCKED_ENDPOINT] * 2
    assert (attempts.addresses, listeners.connections()) == (["1.1.1.1"] * 2, 0)


@pytest.mark.parametrize(("target", "called"), ALLOWED.items())
async def test_what_is_public_is_connected_to(target: str, called: str) -> None:
    """A public endpoint over https passes: its name is looked up in canonical form, and its address gets a socket."""
    policy = EgressPolicy(ports=frozenset({4443}))
    resolver = Resolver(("1.1.1.1",))
    target, called = (url.replace("{port}", "4443") for url in (target, called))
    async with opened(policy, resolver) as (egress, attempts):
        error = await refusal(egress, target)
    assert error.reason is Reason.PROVIDER_UNAVAILABLE
    host = URL(called, encoded=True).raw_host
    literal = host == attempts.addresses[0]
    assert (attempts.addresses, resolver.asked) == (([host], []) if literal else (["1.1.1.1"], [host]))
    assert policy.admit(target) == called


@given(st.text(alphabet="aA1.:-_@/\\?#%[]2e0xü①。é\u212a\u017f \t", max_size=24))
def test_what_was_judged_is_what_the_transport_calls(rest: str) -> None:
    """Whatever is admitted, the transport reads the same scheme, host and port out of it that the policy judged."""
    policy = EgressPolicy(ports=frozenset(range(1, 65536)))
    for url in (f"https://{rest}", f"https://api.example{rest}", f"https://{rest}.example/"):
        with contextlib.suppress(DispatchError):
            admitted = policy.admit(url)
            parsed = URL(admitted, encoded=True)
            assert (parsed.scheme, parsed.user, parsed.password, parsed.raw_fragment) == ("https", None, None, "")
            assert parsed.raw_host is not None
            assert parsed.raw_host.isascii()
            assert EgressPolicy.only(url).admit(admitted) == admitted
            assert policy.admit(admitted) == admitted


@pytest.mark.parametrize("location", REDIRECTED)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
async def test_no_redirect_is_followed(listeners: Listeners, status: int, location: str) -> None:
    """An allowed endpoint that points elsewhere, or to itself, is asked once; where it points is never connected to."""
    asked: list[str] = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        asked.append(request.path)
        return aiohttp.web.Response(
            status=status, headers={"location": location.replace("{port}", str(listeners.port))}
        )

    async with http_provider(answer) as url, Egress(EgressPolicy.only(url)) as egress:
        timing = Timing(0.0)
        async with egress.request("POST", f"{url}/v1", {}, b"{}", connect_limit=5.0, timing=timing) as redirected:
            assert redirected.status == status
    assert asked == ["/v1"]
    assert listeners.connections() == 0


@pytest.mark.parametrize(
    ("named", "url", "allowed"),
    [
        ("gateway.internal", "http://gateway.internal/v1", True),
        ("gateway.internal", "http://gateway.internal:8080/v1", True),
        ("gateway.internal", "https://gateway.internal:8443/v1", True),
        ("gateway.internal", "https://other.internal/v1", False),
        ("gateway.internal", "http://x.gateway.internal/v1", False),
        ("GateWay.Internal.", "http://gateway.internal/v1", True),
        ("gateway.internal:8080", "http://gateway.internal:8080/v1", True),
        ("gateway.internal:8080", "http://gateway.internal/v1", False),
        ("gateway.internal:8080", "https://gateway.internal/v1", False),
        ("gateway.internal:443", "https://gateway.internal/v1", True),
        ("gateway.internal:443", "http://gateway.internal/v1", False),
        ("gateway.example:8080", "https://gateway.example/v1", True),
        ("gateway.example:8080", "https://gateway.example:8081/v1", False),
        ("::1", "http://[0:0::1]:9/", True),
        ("[::1]", "http://[::1]:9/", True),
        ("[::1]:9", "http://[::1]:9/", True),
        ("[::1]:9", "http://[::1]:10/", False),
        ("localhost", "http://127.0.0.1/", False),
        ("ollama", "http://ollama:11434/v1", True),
        ("bücher.example", "http://xn--bcher-kva.example/", True),
    ],
)
def test_a_host_is_opened_by_its_name_and_port(named: str, url: str, allowed: bool) -> None:
    """A host that is named may be called by plain http and under a local name: at any port, or at the one it names."""
    with contextlib.nullcontext() if allowed else pytest.raises(DispatchError) as raised:
        EgressPolicy(plain_http_hosts=frozenset({named})).admit(url)
    assert allowed or raised.value.reason is Reason.BLOCKED_ENDPOINT


@pytest.mark.parametrize(
    "named",
    ["", "http://x", "a:0", "a:65536", "a:b", "2130706433", "a/b", "[::1", "u@a", "fe80::1%eth0", "::1]:9", "*.a"],
)
def test_what_names_no_host_is_refused(named: str) -> None:
    """An operator's slip is an error, never a host that silently is not opened."""
    with pytest.raises(ValueError, match="neither HOST nor HOST:PORT"):
        EgressPolicy(plain_http_hosts=frozenset({named}))


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/v1", "https://gw.internal/v1", "http://[::1]:8080", "http://10.1.2.3"]
)
def test_one_origin_is_allowed_and_nothing_else(url: str) -> None:
    """A policy for one origin admits any path of it; another scheme, host or port is refused, public ones too."""
    policy = EgressPolicy.only(url)
    parsed = URL(url)
    assert policy.admit(f"{url}/chat/completions?x=y") == f"{url}/chat/completions?x=y"
    others = (
        parsed.with_port(1), parsed.with_host("localhost2"), parsed.with_host("127.0.0.1"), parsed.with_host("1.1.1.1"),
        parsed.with_scheme("https" if parsed.scheme == "http" else "http"), URL("https://api.openai.com/v1"),
    )  # fmt: skip
    for other in others:
        with pytest.raises(DispatchError) as raised:
            policy.admit(str(other))
        assert raised.value.reason is Reason.BLOCKED_ENDPOINT


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("192.168.1.2", True), ("100.64.0.1", True),
        ("fd12::1", True), ("1.1.1.1", True), ("169.254.169.254", False), ("169.254.1.1", False), ("fe80::1", False),
        ("fd00:ec2::254", False), ("168.63.129.16", False), ("100.100.100.200", False), ("224.0.0.1", False),
        ("0.0.0.0", False), ("::", False), ("::ffff:169.254.169.254", False), ("64:ff9b::169.254.169.254", False),
    ],
)  # fmt: skip
async def test_one_origin_may_be_anywhere_but_where_nobody_serves(address: str, reached: bool) -> None:
    """The name of the one origin may mean a private or loopback address, never a link-local, metadata or group one."""
    async with opened(EgressPolicy.only("http://box.lan:11434/v1"), Resolver((address,))) as (egress, attempts):
        error = await refusal(egress, "http://box.lan:11434/v1/chat/completions")
    assert (error.reason, attempts.addresses) == (
        (Reason.PROVIDER_UNAVAILABLE, [address]) if reached else (Reason.BLOCKED_ENDPOINT, [])
    )


@pytest.mark.parametrize("url", ["", "localhost:11434", "ftp://localhost", "http://user@localhost", "http://127.1"])
def test_one_origin_has_to_be_a_url(url: str) -> None:
    """What is no URL of an endpoint cannot be the one origin either."""
    with pytest.raises(DispatchError) as raised:
        EgressPolicy.only(url)
    assert raised.value.reason is Reason.INVALID_ENDPOINT


def test_a_refusal_says_why_and_nothing_else() -> None:
    """Who could call it instead is known to whoever refuses it, which may be a client itself."""
    with pytest.raises(DispatchError, match=r"from here: its host is a local name$"):
        EgressPolicy().admit("https://localhost:11434/v1")
