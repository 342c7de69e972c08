"""Incidents of other gateways that concern who may call, each as a test of what keeps it from happening here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest
from callers import KEYS, Secured, secured
from certificates import put
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch_client import CallerError, tls_credentials
from keyswitch_sandbox import Sandbox
from keyswitch_server.policies import POLICIES
from keyswitch_server.tokens import hashed, new_token


@pytest.fixture(scope="module")
async def known(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    async with secured(tmp_path_factory.mktemp("known"), sandbox) as running:
        yield running


HOSTILE = (
    "' OR '1'='1", "1;DROP", "../../etc/passwd", "%00", "${jndi:ldap://x}", "{{7*7}}", "a" * 6000, "a.b.c", "...", "..",
    "eyJhbGciOiJub25lIn0.e30.", "null", "0", "*", "anonymous", "-", "sha256:" + "0" * 64,
)  # fmt: skip


@pytest.mark.parametrize("presented", HOSTILE, ids=range(len(HOSTILE)))
async def test_incident_8_nothing_is_looked_up_or_done_before_a_caller_is_known(
    known: Secured, sandbox: Sandbox, presented: str
) -> None:
    """A check of keys that ran on unchecked input gave strangers the database: here a stranger's call is not even read.

    Whatever is presented, and however malformed the request is, the answer is the same, and no provider hears of it.
    """
    before = len(list(sandbox.journal))
    request = pb.GenerateRequest()
    request.target.model = "sandbox/echo"
    request.credentials.add(provider="sandbox").credential.api_key.key = "k"
    request.messages.add(role=1).parts.add().text.text = "x"
    answers = set()
    async with known.client() as client:
        call = client._channel.unary_unary("/keyswitch.v1.DispatchService/Generate")
        for body in (request.SerializeToString(), b"\xff\xff\xff", b""):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(body, metadata=(("authorization", f"Bearer {presented}"),), timeout=5)
            answers.add((raised.value.code(), raised.value.details()))
    ((code, _),) = answers
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert len(list(sandbox.journal)) == before
    assert not known.lines("incident")


async def test_incident_9_tokens_that_begin_alike_are_different_callers(known: Secured) -> None:
    """A cache by the first twenty characters let one caller in as another: here all of a token counts.

    JSON Web Tokens all begin alike, by their header; static ones are made to, and their digests too as far as that is
    looked up by.
    """
    issuer = known.issuer
    one, two = issuer.token("one"), issuer.token("two")
    assert one[:20] == two[:20]
    forged = one[:20] + issuer.token("three", kid="ec-none")[20:]
    common = new_token()
    static = {"first": f"{common}-first", "second": f"{common}-second"}
    known.put_tokens({name: [token] for name, token in (known.tokens | static).items()})
    async with asyncio.timeout(10):
        while not known.lines("file reloaded"):
            await asyncio.sleep(0.02)
    for _ in range(3):  # whatever is remembered of the calls before
        for name, token in {"one": one, "two": two, **static}.items():
            async with known.client(token) as client:
                await client.generate(model="sandbox/echo", credentials=KEYS, messages="x")
            assert known.lines("call")[-1]["caller"] == name
        for token in (forged, common, f"{common}-third", static["first"][:-1], two[:-2]):
            async with known.client(token) as client:
                with pytest.raises(CallerError):
                    await client.registry_info()


async def test_incident_9_a_token_that_was_good_is_not_remembered_beyond_its_time(known: Secured) -> None:
    """A verdict on a token does not outlive the token."""
    async with known.client(known.issuer.token(exp=int(time.time()) - 28)) as client:  # thirty seconds are forgiven
        await client.registry_info()
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.registry_info()
                except CallerError as error:
                    assert error.message == "the token is unknown or expired"
                    break
                await asyncio.sleep(0.05)


def test_incident_9_whole_digests_are_compared(tmp_path: pathlib.Path) -> None:
    """Two digests that begin alike, where the look-up ends, are told apart by the rest."""
    from keyswitch_server.tokens import Tokens  # noqa: PLC0415 - by its inside, which nothing else here needs

    digest = hashlib.sha256(b"token").digest()
    alike = digest[:4] + bytes(28)
    assert Tokens([(alike, "other")]).caller("token") is None
    assert Tokens([(alike, "other"), (digest, "right"), (digest[:31] + b"\0", "third")]).caller("token") == "right"


TRICKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "forwarded": (("x-forwarded-host", "grpc.health.v1.Health"), ("x-forwarded-for", "127.0.0.1")),
    "original": (("x-original-uri", "/grpc.health.v1.Health/Check"), ("x-rewrite-url", "/grpc.health.v1.Health/Check")),
    "override": (("x-http-method-override", "GET"), ("x-grpc-method", "/grpc.health.v1.Health/Check")),
    "identity": (("x-caller", "blue"), ("x-user", "blue"), ("x-forwarded-client-cert", "By=blue")),
    "cookie": (("cookie", "token=blue"), ("proxy-authorization", "Bearer blue"), ("x-api-key", "blue")),
}


@pytest.mark.parametrize("authority", ["grpc.health.v1.Health", "localhost", "127.0.0.1/grpc.health.v1.Health/Check"])
@pytest.mark.parametrize("trick", TRICKS)
async def test_incident_10_only_the_dispatched_method_decides(known: Secured, authority: str, trick: str) -> None:
    """A Host header once chose the route that was checked, and another one was served.

    Here neither `:authority` nor any other header makes a method open, or somebody else's.
    """
    options = [("grpc.default_authority", authority), ("grpc.ssl_target_name_override", "localhost")]
    tls = tls_credentials(known.folder / "ca.pem")
    async with grpc.aio.secure_channel(known.server.address, tls, options) as channel:
        for method in ("RegistryService/GetRegistryInfo", "DispatchService/ExplainRoute"):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(f"/keyswitch.v1.{method}")(b"", metadata=TRICKS[trick], timeout=5)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/../keyswitch.v1.RegistryService/GetRegistryInfo",
        "/grpc.health.v1.Health/Check/keyswitch.v1.RegistryService/GetRegistryInfo",
        "/keyswitch.v1.RegistryService/GetRegistryInfo/",
        "//keyswitch.v1.RegistryService/GetRegistryInfo",
        "/keyswitch.v1.RegistryService/getregistryinfo",
        "/keyswitch.v1.RegistryService/GetRegistryInfo?x=/grpc.health.v1.Health/Check",
        "/KEYSWITCH.V1.RegistryService/GetRegistryInfo",
        "/keyswitch.v1.RegistryService%2FGetRegistryInfo",
    ],
)
async def test_incident_10_a_path_is_a_method_or_nothing(known: Secured, path: str) -> None:
    """Names are neither normalised nor guessed: what is no method's full name is nobody's."""
    async with known.client() as client:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client._channel.unary_unary(path)(b"", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_incident_10_nothing_on_the_port_changes_the_server() -> None:
    """A caller without a role rewrote a gateway's configuration: here no method that callers reach writes any."""
    names = {method.rpartition("/")[2] for method in POLICIES}
    assert names == {
        "Check", "Watch", "List", "ServerReflectionInfo", "Generate", "StreamGenerate", "Embed", "CountTokens",
        "ExplainRoute", "ValidateCredential", "ListProviderModels", "ListProviders", "GetProvider", "ListModels",
        "GetRegistryInfo",
    }  # fmt: skip


async def test_incident_10_a_hash_opens_nothing(known: Secured) -> None:
    """Who reads the server's file of tokens has no token: a hash was once good for the password behind it."""
    token = known.tokens["blue"]
    async with known.client(token) as client:
        await client.registry_info()
    for presented in (hashed(token), hashed(token).removeprefix("sha256:")):
        async with known.client(presented) as client:
            with pytest.raises(CallerError):
                await client.registry_info()


async def serve(listen: str | None, env: Mapping[str, str]) -> tuple[int | None, str]:
    """Start a server and stop it again; return where it listened, or its exit status and what it complained of."""
    arguments = ("--listen", listen) if listen else ()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyswitch_cli", "serve", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(env),
    )  # fmt: skip
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    if line:
        process.terminate()
        await process.communicate()
        return None, str(json.loads(line)["listening"])
    _, err = await process.communicate()
    return process.returncode, err.decode()


async def test_incident_17_a_server_beyond_loopback_wants_tls_and_authentication(known: Secured) -> None:
    """Gateways that listened everywhere by default burned their owners' keys: here that has to be said in so many words."""
    settings = known.settings()
    tls = {name: value for name, value in settings.items() if "TLS" in name}
    tokens = {"KEYSWITCH_TOKENS": str(put(known.folder / "own.toml", ""))}
    for env, words in (
        ({}, ("TLS (tls_certificate, tls_key)", "authentication (tokens, jwt or tls_callers)", "insecure_listen")),
        (tls, ("authentication (tokens, jwt or tls_callers)", "insecure_listen")),
        (tokens, ("TLS (tls_certificate, tls_key)", "insecure_listen")),
    ):
        for listen in ("0.0.0.0:0", "[::]:0"):
            status, complaint = await serve(listen, env)
            assert status == 2
            assert all(word in complaint for word in words)
            assert ("lacks TLS" in complaint) == ("KEYSWITCH_TLS_KEY" not in env)
            assert ("authentication (" in complaint) == ("KEYSWITCH_TOKENS" not in env)
    for env in (tls | tokens, {"KEYSWITCH_INSECURE_LISTEN": "true"}):
        status, listening = await serve("0.0.0.0:0", env)
        assert (status, listening.partition(":")[0]) == (None, "0.0.0.0")


async def test_incident_17_the_default_is_loopback() -> None:
    """Without a word of the operator's, nobody but this machine can connect."""
    from keyswitch_server.settings import Settings  # noqa: PLC0415 - of the class, which nothing else here needs

    assert str(Settings.model_fields["listen"].default).rpartition(":")[0] == "127.0.0.1"
    status, listening = await serve("127.0.0.1:0", {})
    assert (status, listening.partition(":")[0]) == (None, "127.0.0.1")
