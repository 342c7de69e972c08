from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from callers import Secured, secured
from certificates import put
from keyswitch_client import AsyncClient, Client, tls_credentials
from keyswitch_client.security import is_this_machine
from keyswitch_sandbox import Sandbox
from support import ServerProcess

TOKEN = "a-token-that-nobody-may-see"


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@pytest.mark.parametrize(
    "target", ["gateway.example:50551", "10.0.0.1:1", "dns:///gateway.example:1", "localhost.example:1"]
)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_nothing_is_sent_unencrypted_to_others(kind: Callable[..., Any], target: str, token: str | None) -> None:
    """Without TLS a client of another machine is not even made; the refusal says both ways out, and each is one."""
    with pytest.raises(ValueError, match="without TLS") as raised:
        kind(target, token=token)
    assert str(raised.value) == (
        "without TLS, keys and tokens are sent to this machine and nowhere else; give tls=tls_credentials(...), or "
        "insecure=True to send them unencrypted"
    )
    for way_out in ({"tls": tls_credentials()}, {"insecure": True}):
        assert repr(kind(target, token=token, **way_out)) == f"{kind.__name__}({target!r})"


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@pytest.mark.parametrize("token", ["", "two words", "line\nend", "ä", "a,b", "x" * 7001])
def test_what_metadata_cannot_hold_is_no_token(kind: Callable[..., Any], token: str) -> None:
    """A token of other characters is refused without being repeated."""
    with pytest.raises(ValueError, match="a token has 1 to 7000 visible ASCII characters") as raised:
        kind("127.0.0.1:1", token=token)
    assert not token or token not in str(raised.value)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:50551", True), ("127.9.9.9:1", True), ("localhost:1", True), ("LOCALHOST:1", True), ("[::1]:1", True),
        ("ipv4:127.0.0.1:1", True), ("ipv6:[::1]:1", True), ("dns:///localhost:1", True), ("dns:localhost:1", True),
        ("unix:/tmp/socket", True), ("unix-abstract:name", True), ("localhost", True),
        ("0.0.0.0:1", False), ("[::]:1", False), ("127.0.0.1.example:1", False), ("example:1", False), ("", False),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", True), ("ipv6:[::1]:1,[::1]:2", True), ("ipv4:", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False), ("ipv4:10.0.0.1:1,127.0.0.1:1", False), ("xds:///localhost", False),
        ("dns://10.0.0.1/localhost:1", True), ("::1", True), ("[::1]", True), ("0:0:0:0:0:0:0:1", True),
        ("localhost.:1", True), ("localhost.", True), ("dns:///::1", True), ("::1:443", False), ("::1:10.0.0.1", False),
        ("[::1:443]:1", False), ("localhost:1:2", False), ("[::1]x", False), ("ipv4:127.0.0.1:1%2C10.0.0.1%3A1", False),
        ("ipv6:::1%2C[fd00::1]:1", False),
    ],
)  # fmt: skip
def test_this_machine_is_told_from_others(target: str, local: bool) -> None:
    """Loopback addresses, their name and Unix sockets are this machine; what could be another one is."""
    assert is_this_machine(target) == local


def test_a_client_does_not_show_its_token(tmp_path: pathlib.Path) -> None:
    """Neither text form of a client has the token."""
    for kind in (AsyncClient, Client):
        client = kind("127.0.0.1:1", token=TOKEN)
        assert TOKEN not in f"{client} {client!r}"


def test_half_of_a_pair_is_refused(tmp_path: pathlib.Path) -> None:
    """A certificate without its key, or the reverse, is a mistake; a file that is not there too."""
    file = put(tmp_path / "file", "x")
    for given in ({"certificate": file}, {"key": file}):
        with pytest.raises(ValueError, match="needed together"):
            tls_credentials(**given)
    with pytest.raises(OSError, match="none"):
        tls_credentials(tmp_path / "none")


async def test_both_clients_prove_who_calls(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Whole answers, streams and lists carry the token, in both clients."""
    import asyncio  # noqa: PLC0415 - for the client that waits

    async with secured(tmp_path, sandbox) as made:
        async with made.client(made.tokens["blue"]) as client:
            await client.stream(model="sandbox/echo", credentials={"sandbox": "k"}, messages="x").final()
            await client.providers()

        def synchronous(made: Secured) -> str:
            tls = tls_credentials(made.folder / "ca.pem")
            with Client(made.server.address, tls=tls, token=made.tokens["red"]) as client:
                client.providers()
                client.generate(model="sandbox/echo", credentials={"sandbox": "k"}, messages="x")
                stream = client.stream(model="sandbox/echo", credentials={"sandbox": "k"}, messages="hello")
                return stream.final().text

        assert await asyncio.to_thread(synchronous, made) == "hello"
        assert [line["caller"] for line in made.lines("call")] == ["blue"] * 2 + ["red"] * 3


async def test_a_token_to_this_machine_takes_no_way_around(
    sandbox: Sandbox, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies of the environment do not see what goes unencrypted to a server on this machine."""
    from support import server_process  # noqa: PLC0415 - for a server without TLS

    made = Secured(tmp_path)
    env = {name: value for name, value in made.settings().items() if "TLS" not in name}
    async with server_process(tmp_path, env) as made.server:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with AsyncClient(made.server.address, token=made.tokens["blue"], timeout=5) as client:
            await client.registry_info()


async def test_keys_to_this_machine_take_no_way_around(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they where no token is needed: requests carry providers' keys."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncClient(server.address, timeout=5) as client:
        assert (await client.generate(model="sandbox/echo", credentials={"sandbox": "k"}, messages="hi")).text == "hi"
