from __future__ import annotations

import asyncio
import pathlib
import ssl
import sys
from collections.abc import AsyncIterator

import grpc
import pytest
from callers import KEYS, Secured, secured
from certificates import Authority, put
from keyswitch_client import AsyncClient, CallerError, UnavailableError, tls_credentials
from keyswitch_sandbox import Sandbox
from keyswitch_server.live_file import UnusableFileError
from keyswitch_server.tls import identities, read_certificates
from support import server_process

STREAMS = 50


def served(address: str) -> bytes:
    """Return the certificate that a new connection is shown."""
    host, port = address.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port))).encode()


def trusting(folder: pathlib.Path, *authorities: Authority) -> pathlib.Path:
    """Return a file of authorities."""
    return put(folder / "trusted.pem", b"".join(authority.pem for authority in authorities))


@pytest.fixture
async def running(sandbox: Sandbox, tmp_path: pathlib.Path) -> AsyncIterator[Secured]:
    async with secured(tmp_path, sandbox) as made:
        yield made


async def test_a_certificate_is_exchanged_under_load(running: Secured, tmp_path: pathlib.Path) -> None:
    """Fifty streams go on, new connections succeed all the while, and the new authority's certificate takes over."""
    new = Authority("New Authority")
    both, before = trusting(tmp_path, running.authority, new), served(running.server.address)
    token, stop, connections = running.tokens["blue"], asyncio.Event(), 0

    async def connect_again_and_again() -> None:
        nonlocal connections
        while not stop.is_set():
            async with running.client(token, ca=both, retries=False) as fresh:
                await fresh.registry_info()
            connections += 1

    async def stream(client: AsyncClient) -> str:
        options = {"sandbox": {"tokens": 60, "interval_ms": 50}}
        async with client.stream(model="sandbox/echo", credentials=KEYS, messages="x", options=options) as events:
            return (await events.final()).text

    async with running.client(token, ca=both, retries=False) as client, asyncio.TaskGroup() as group:
        streams = [group.create_task(stream(client)) for _ in range(STREAMS)]
        group.create_task(connect_again_and_again())
        async with asyncio.timeout(60):
            while connections < 3:
                await asyncio.sleep(0.01)
            running.put_pair(new)
            while await asyncio.to_thread(served, running.server.address) == before:
                await asyncio.sleep(0.05)
            assert not all(task.done() for task in streams)
            since = connections
            while connections < since + 3:
                await asyncio.sleep(0.01)
        stop.set()
    whole = "".join(f" tok{number}" for number in range(60))
    assert [task.result() for task in streams] == [whole] * STREAMS
    async with running.client(token, ca=put(tmp_path / "new.pem", new.pem)) as client:
        await client.registry_info()
    async with running.client(token, timeout=5, retries=False) as client:
        with pytest.raises(UnavailableError):
            await client.registry_info()


async def test_a_pair_that_does_not_fit_changes_nothing(running: Secured) -> None:
    """A key of another certificate is logged by the reason, and the last good pair is served on."""
    before = served(running.server.address)
    put(running.folder / "key.pem", running.authority.issue()[1])
    async with asyncio.timeout(10):
        while not (lines := running.lines("file not reloaded")):
            await asyncio.sleep(0.02)
    assert lines[0]["problem"] == "tls_certificate, tls_key: the key is not this certificate's"
    assert served(running.server.address) == before
    async with running.client(running.tokens["red"]) as client:
        await client.registry_info()


async def test_the_server_speaks_nothing_but_tls(running: Secured) -> None:
    """Without TLS, or trusting somebody else, no call gets through, and no token is sent."""
    async with AsyncClient(running.server.address, token=running.tokens["red"], timeout=5, retries=False) as client:
        with pytest.raises(UnavailableError):
            await client.registry_info()
    stranger = put(running.folder / "stranger.pem", Authority("Stranger").pem)
    async with running.client(running.tokens["red"], ca=stranger, timeout=5, retries=False) as client:
        with pytest.raises(UnavailableError):
            await client.registry_info()
    assert running.lines("call") == []


CALLERS = '{"spiffe://example/backend": "backend", "job.example": "job", "laptop": "laptop", "both": "laptop"}'


class Certified:
    """A server that wants certificates of clients."""

    def __init__(self, made: Secured, clients: Authority) -> None:
        self.made = made
        self.clients = clients

    def client(
        self, pair: tuple[bytes, bytes] | None, token: str | None = None, ca: pathlib.Path | None = None
    ) -> AsyncClient:
        """Return a client with a certificate and its key."""
        folder = self.made.folder
        given = {}
        if pair is not None:
            given = {"certificate": put(folder / "own.pem", pair[0]), "key": put(folder / "own.key", pair[1])}
        tls = tls_credentials(ca or folder / "ca.pem", **given)
        return AsyncClient(self.made.server.address, tls=tls, token=token, timeout=20, retries=False)

    async def caller(self, pair: tuple[bytes, bytes], token: str | None = None) -> str:
        """Return whom the server took a client for; what it said if it refused."""
        async with self.client(pair, token) as client:
            try:
                await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")
            except CallerError as error:
                assert error.code is grpc.StatusCode.UNAUTHENTICATED
                return error.message
        return str(self.made.lines("call")[-1]["caller"])


@pytest.fixture(scope="module")
async def certified(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Certified]:
    folder = tmp_path_factory.mktemp("certified")
    clients = Authority("Clients")
    env = {
        "KEYSWITCH_TLS_CLIENT_CA": str(put(folder / "clients.pem", clients.pem)),
        "KEYSWITCH_TLS_CALLERS": CALLERS,
    }
    async with secured(folder, sandbox, env) as made:
        yield Certified(made, clients)


async def test_a_certificate_names_its_caller(certified: Certified) -> None:
    """A SPIFFE id, a subject alternative name or the common name is whom the operator says that it is."""
    issue = certified.clients.issue
    assert await certified.caller(issue("x", spiffe="spiffe://example/backend")) == "backend"
    assert await certified.caller(issue("x", dns=("job.example",))) == "job"
    assert await certified.caller(issue("laptop")) == "laptop"
    assert await certified.caller(issue("laptop", dns=("both",))) == "laptop"
    assert await certified.caller(issue("laptop", spiffe="spiffe://example/backend")) == "backend"


async def test_a_certificate_that_names_nobody_or_several_is_refused(certified: Certified) -> None:
    """Names that the operator did not list are no caller's, and two callers in one certificate are none."""
    issue = certified.clients.issue
    assert "send a token" in await certified.caller(issue("stranger"))
    assert "send a token" in await certified.caller(issue("laptop", spiffe="spiffe://example/other"))
    assert "different callers" in await certified.caller(issue("laptop", dns=("job.example",)))


async def test_a_call_has_one_caller(certified: Certified) -> None:
    """Token and certificate have to agree; a bad token is refused beside a good certificate; a token may do alone."""
    issue, tokens = certified.clients.issue, certified.made.tokens
    signed = certified.made.issuer.token
    assert "different callers" in await certified.caller(issue("laptop"), tokens["blue"])
    assert await certified.caller(issue("laptop"), signed("laptop")) == "laptop"
    assert "unknown or expired" in await certified.caller(issue("laptop"), signed("laptop", aud="other"))
    assert await certified.caller(issue("stranger"), tokens["blue"]) == "blue"


async def test_without_a_good_certificate_there_is_no_connection(certified: Certified) -> None:
    """None, one of an unknown authority, and an expired one do not get as far as a call, whatever token they have."""
    count = len(certified.made.lines("call"))
    for pair in (None, Authority("Stranger").issue("laptop"), certified.clients.issue("laptop", expired=True)):
        async with certified.client(pair, certified.made.tokens["blue"]) as client:
            with pytest.raises(UnavailableError):
                await client.registry_info()
    assert len(certified.made.lines("call")) == count


async def test_mutual_tls_is_exchanged_under_load(certified: Certified) -> None:
    """Streams go on and new connections succeed with the old certificate while both sides get new authorities."""
    made, old, new = certified.made, certified.clients, Authority("Next Clients")
    path, servers, before = made.folder / "clients.pem", Authority("Next Servers"), served(made.server.address)
    both = trusting(made.folder, made.authority, servers)
    stop, connections = asyncio.Event(), 0

    async def connect_again_and_again() -> None:
        nonlocal connections
        while not stop.is_set():
            async with certified.client(old.issue("laptop"), ca=both) as fresh:
                await fresh.registry_info()
            connections += 1

    async def stream(client: AsyncClient) -> str:
        options = {"sandbox": {"tokens": 60, "interval_ms": 50}}
        async with client.stream(model="sandbox/echo", credentials=KEYS, messages="x", options=options) as events:
            return (await events.final()).text

    async with certified.client(old.issue("laptop"), ca=both) as client, asyncio.TaskGroup() as group:
        streams = [group.create_task(stream(client)) for _ in range(STREAMS)]
        group.create_task(connect_again_and_again())
        put(path, old.pem + new.pem)
        made.put_pair(servers)
        async with asyncio.timeout(60):
            while await asyncio.to_thread(served, made.server.address) == before:
                await asyncio.sleep(0.05)
            assert not all(task.done() for task in streams)
            since = connections
            while connections < since + 3:
                await asyncio.sleep(0.01)
        stop.set()
    assert {task.result() for task in streams} == {"".join(f" tok{number}" for number in range(60))}
    async with certified.client(new.issue("laptop"), ca=both) as client:
        await client.registry_info()
    made.put_pair(made.authority)
    async with asyncio.timeout(10):
        while await asyncio.to_thread(served, made.server.address) == before:
            await asyncio.sleep(0.05)


async def test_authorities_of_clients_are_exchanged(certified: Certified) -> None:
    """A new authority's certificates are taken once its file is there, and the old one's no longer."""
    new, path = Authority("New Clients"), certified.made.folder / "clients.pem"
    put(path, new.pem)
    async with asyncio.timeout(10):
        while True:
            async with certified.client(new.issue("laptop")) as client:
                try:
                    await client.registry_info()
                    break
                except UnavailableError:
                    await asyncio.sleep(0.05)
    async with certified.client(certified.clients.issue("laptop")) as client:
        with pytest.raises(UnavailableError):
            await client.registry_info()
    certified.clients = new


def test_files_that_cannot_be_used_say_why(tmp_path: pathlib.Path) -> None:
    """Each of the three files is named with what is wrong with it; nothing asks for a password."""
    authority = Authority()
    pair = authority.issue()
    certificate, key = put(tmp_path / "cert", pair[0]), put(tmp_path / "key", pair[1])
    junk, none, other = put(tmp_path / "junk", "junk"), tmp_path / "none", put(tmp_path / "other", authority.issue()[1])
    ca = put(tmp_path / "ca", authority.pem)
    assert read_certificates(certificate, key, ca)
    for files, words in (
        ((certificate, other, None), "the key is not this certificate's"),
        ((junk, key, None), "not PEM"),
        ((certificate, junk, None), "not PEM"),
        ((none, key, None), "tls_certificate: .*No such file"),
        ((certificate, none, None), "tls_key: .*No such file"),
        ((certificate, key, junk), "tls_client_ca: .* holds no certificates"),
        ((certificate, key, none), "tls_client_ca: .*No such file"),
    ):
        with pytest.raises(UnusableFileError, match=words):
            read_certificates(*files)


async def test_a_server_does_not_start_on_files_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    """`serve` exits 1 and says which file it is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyswitch_cli", "serve", "--listen", "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"KEYSWITCH_TOKENS": str(put(tmp_path / "tokens", "junk"))},
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"tokens: " in err
    assert b"is not TOML" in err


async def test_what_is_not_told_of_callers_is_not_asked(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """With a certificate alone the server speaks TLS, and everybody is anonymous."""
    made = Secured(tmp_path)
    env = {name: value for name, value in made.settings().items() if "TLS" in name}
    async with server_process(tmp_path, env) as made.server, made.client() as client:
        await client.registry_info()
    assert "caller" not in made.log()


def test_an_id_of_spiffe_counts_only_where_it_was_checked_to_be_one() -> None:
    """A common name or another field that looks like one names nobody."""
    spiffe = b"spiffe://prod/backend"
    assert identities({"peer_spiffe_id": [spiffe], "x509_common_name": [b"x"]}) == {spiffe.decode()}
    assert identities({"x509_common_name": [spiffe], "x509_subject_alternative_name": [b"job.example"]}) == {
        "job.example"
    }
    assert identities({"x509_subject_alternative_name": [spiffe, b"SPIFFE://prod/other"]}) == set()


def test_a_comment_among_authorities_may_be_in_any_language(tmp_path: pathlib.Path) -> None:
    """Bundles name their authorities."""
    authority = Authority()
    pair = authority.issue()
    files = [put(tmp_path / name, content) for name, content in zip(("cert", "key"), pair, strict=True)]
    assert read_certificates(*files, put(tmp_path / "ca", "# Főtanúsítvány\n".encode() + authority.pem))
