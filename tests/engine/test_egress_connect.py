from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from keyswitch_engine.egress import Egress, Timing
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.errors import DispatchError, Reason
from support import http_provider

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


async def call(egress: Egress, url: str, limit: float) -> int:
    timing = Timing(asyncio.get_running_loop().time())
    async with egress.request("POST", url, {}, b"{}", connect_limit=limit, timing=timing) as answer:
        return answer.status


async def took(call: Awaitable[object]) -> tuple[Any, float]:
    """Return what became of a call, and after how many seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return result, loop.time() - begun


def connector(egress: Egress) -> aiohttp.TCPConnector:
    assert egress._session is not None
    found = egress._session.connector
    assert isinstance(found, aiohttp.TCPConnector)
    return found


class Silent:
    """A name server that takes questions and answers none."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))

    def resolver(self) -> AbstractResolver:
        """Return the egress's own kind of resolver, which asks this server."""
        port = self.socket.getsockname()[1]
        return aiohttp.AsyncResolver(nameservers=["127.0.0.1"], udp_port=port, tcp_port=9, timeout=2.0, tries=2)


async def test_names_that_nobody_answers_for_hold_nobody_up() -> None:
    """Two hundred look-ups wait for a silent name server, and end with their limit; a call of another name goes through."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response()

    silent = Silent()
    async with http_provider(answer) as url, Egress(EgressPolicy(LOOPBACK, frozenset({"localhost"}))) as egress:
        assert isinstance(connector(egress)._resolver, aiohttp.AsyncResolver)
        connector(egress)._resolver = resolver = silent.resolver()
        stuck = [asyncio.ensure_future(took(call(egress, f"https://n{n}.example/", 0.5))) for n in range(200)]
        await asyncio.sleep(0)
        status, seconds = await took(call(egress, url.replace("127.0.0.1", "localhost"), 5.0))
        assert (status, seconds < 1.0) == (200, True)
        for error, seconds in await asyncio.gather(*stuck):
            assert isinstance(error, DispatchError)
            assert (error.reason, seconds < 2.0) == (Reason.FIRST_TOKEN_TIMEOUT, True)
        await resolver.close()
    silent.socket.close()


class Everywhere(AbstractResolver):
    """Knows many addresses for every name, after a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        await asyncio.sleep(self._seconds)
        return [
            {"hostname": host, "host": f"127.0.0.{n}", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for n in range(1, 9)
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("look_up", [0.0, 60.0])
async def test_connecting_has_one_limit(look_up: float) -> None:
    """It covers the look-up, and all addresses of a name together, however many of them take a connection and stall."""
    listening = socket.create_server(("0.0.0.0", 0), backlog=64)
    port = listening.getsockname()[1]
    async with Egress(EgressPolicy(LOOPBACK, ports=frozenset({port}))) as egress:
        connector(egress)._resolver = Everywhere(look_up)
        error, seconds = await took(call(egress, f"https://stalls.example:{port}/", 0.5))
    listening.close()
    assert isinstance(error, DispatchError)
    assert (error.reason, error.message) == (Reason.FIRST_TOKEN_TIMEOUT, "no connection within the connect limit")
    assert 0.4 < seconds < 2.0


async def test_no_log_of_tls_keys_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """`SSLKEYLOGFILE`, with which Python would let anybody who reads the file decrypt every key, is not heeded."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert ssl.create_default_context().keylog_filename == str(tmp_path / "keys")
    (tmp_path / "keys").unlink()
    async with Egress(EgressPolicy()) as egress:
        assert connector(egress)._ssl.keylog_filename is None  # type: ignore[union-attr] # it is a context


async def test_one_users_names_are_looked_up_by_the_system() -> None:
    """A client's own calls know all the names that its other programs know."""
    async with Egress(EgressPolicy(), system_names=True) as egress:
        assert isinstance(connector(egress)._resolver, aiohttp.ThreadedResolver)
