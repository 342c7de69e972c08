"""Incidents of other gateways that came of where a request could be sent; each test is named after one, with its rule."""

from __future__ import annotations

import ast
import json
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import keyswitch_server
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1.conversation_pb2 import ImagePart, MediaSource, Message, Part, Role
from keyswitch.v1.credential_pb2 import Credential, GoogleCredential, ProviderCredential, ServiceAccountKey
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.target_pb2 import Target
from keyswitch_client.errors import KeyswitchError
from listening import Listeners, Origin, endpoint, generate, origin, told
from support import EGRESS, http_provider, server_process

KEY, PLATFORMS = "key-of-the-caller-815", "key-of-the-operator-816"
ROW = """schema = 1
id = "{id}"
name = "{id}"
base_url = "{url}/v1"
vendor_token = "{id}"
default_model = "m"
{auth}
[[dialects]]
name = "{dialect}"
path = "{path}"
[embeddings]
name = "openai"
path = "/embeddings"
[model_listing]
name = "openai"
path = "/models"
compatibility = {{ authenticates = true }}
[token_counting]
name = "anthropic-messages"
path = "/messages/count_tokens"
"""


def row(name: str, url: str, *, auth: str = "", dialect: str = "openai-chat", path: str = "/chat/completions") -> str:
    return ROW.format(id=name, url=url, auth=auth, dialect=dialect, path=path)


@pytest.fixture(scope="module")
def listeners() -> Iterator[Listeners]:
    running = Listeners()
    yield running
    running.close()


@pytest.fixture(scope="module")
async def strict(listeners: Listeners, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[grpc.aio.Channel]:
    """A server that allows nothing but a port, whose operator's own files lead to this machine."""
    folder = tmp_path_factory.mktemp("strict")
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        name = "at-" + "".join(letter if letter.isalnum() else "-" for letter in host).strip("-")
        (folder / f"{name}.toml").write_text(row(name, f"https://{host}:{listeners.port}"))
    auth = f'[auth]\naccepts = ["google"]\ntoken_url = "https://127.0.0.1:{listeners.port}/token"\n'
    (folder / "tokens.toml").write_text(row("tokens", "https://api.tokens.example", auth=auth))
    env = {"KEYSWITCH_EGRESS_PORTS": json.dumps([listeners.port]), "KEYSWITCH_PROVIDERS": json.dumps([str(folder)])}
    async with server_process(folder, env) as running, grpc.aio.insecure_channel(running.address) as channel:
        yield channel


@pytest.fixture
async def acme() -> AsyncIterator[Origin]:
    """The operator's provider."""
    async with origin() as running:
        yield running


@pytest.fixture
async def governed(acme: Origin, tmp_path: pathlib.Path) -> AsyncIterator[tuple[grpc.aio.Channel, pathlib.Path]]:
    """A server with a key of the operator's for that provider, and its log."""
    (tmp_path / "acme.toml").write_text(row("acme", acme.url))
    auth = '[auth]\nstyle = "header"\nheader = "x-goog-api-key"\n'
    path = "/models/{model}:generateContent"
    (tmp_path / "goog.toml").write_text(row("goog", acme.url, auth=auth, dialect="gemini", path=path))
    (tmp_path / "settings").write_text(
        f'providers = ["{tmp_path}"]\nlog_level = "debug"\n[platform_keys]\nacme = {{ env = "ACME_KEY" }}\n'
        '[menus.all]\napplies_to = ["*"]\nmodels = ["acme/m"]\n'
    )
    env = {**EGRESS, "ACME_KEY": PLATFORMS}
    async with (
        server_process(tmp_path, env, "--config", str(tmp_path / "settings")) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        yield channel, running.log


async def test_01_litellm_cve_2024_6587_api_base_with_the_operators_key(
    governed: tuple[grpc.aio.Channel, pathlib.Path], acme: Origin
) -> None:
    """CVE-2024-6587, a caller's address got the operator's key: that key never leaves its configured origin."""
    channel, _ = governed
    async with origin() as attacker:
        await generate(channel, model="acme/m", allow_platform=True)
        await generate(channel, custom_endpoint=endpoint(attacker.url, label="acme"), allow_platform=True)
        await generate(channel, custom_endpoint=endpoint(acme.url, label="acme"), allow_platform=True)
        for options in ({"api_base": attacker.url}, {"extra_body": {"base_url": attacker.url}}):
            await generate(channel, model="acme/m", allow_platform=True, options=json.dumps(options))
            await generate(channel, model="acme/m", credentials={"acme": KEY}, options=json.dumps(options))
        assert [seen.headers.get("authorization") for seen in attacker.seen] == [None]
    sent = [seen.headers.get("authorization") for seen in acme.seen]
    assert sent == [f"Bearer {PLATFORMS}", None, f"Bearer {KEY}", f"Bearer {KEY}"]


def calls(provider: str, key: Credential) -> dict[str, Any]:
    """Return a request for every method that calls a provider."""
    target, keys = Target(provider=provider, model="m"), [ProviderCredential(provider=provider, credential=key)]
    said = [Message(role=Role.ROLE_USER, parts=[Part(text={"text": "hi"})])]
    return {
        "Generate": pb.GenerateRequest(target=target, credentials=keys, messages=said),
        "StreamGenerate": pb.StreamGenerateRequest(target=target, credentials=keys, messages=said),
        "Embed": pb.EmbedRequest(target=target, credentials=keys, inputs=["a"]),
        "CountTokens": pb.CountTokensRequest(target=target, credentials=keys, messages=said),
        "ListProviderModels": pb.ListProviderModelsRequest(provider=provider, credential=keys[0]),
        "ValidateCredential": pb.ValidateCredentialRequest(credential=keys[0]),
    }


async def outcome(channel: grpc.aio.Channel, method: str, request: Any) -> str:
    """Return the reason that a call ends for."""
    call = getattr(DispatchServiceStub(channel), method)(request, timeout=20)
    try:
        if method == "StreamGenerate":
            return repr([message async for message in call])
        answer = await call
        blocked = method == "ValidateCredential" and "may not be called from here" in answer.message
        return "BLOCKED_ENDPOINT" if blocked else str(answer)
    except grpc.aio.AioRpcError as error:
        return told(error).reason


@pytest.mark.parametrize("provider", ["at-127-0-0-1", "at-localhost", "at-ffff-127-0-0-1"])
async def test_04_portkey_cve_2025_66405_a_route_without_the_check(
    strict: grpc.aio.Channel, listeners: Listeners, provider: str
) -> None:
    """CVE-2025-66405, one path had no check: it is made where sockets are opened, whichever method and whose URL it is."""
    requests = calls(provider, Credential(api_key={"key": KEY}))
    called = {method.name for method in pb.DESCRIPTOR.services_by_name["DispatchService"].methods} - {"ExplainRoute"}
    assert set(requests) == called  # a new method has to be added here
    for method, request in requests.items():
        assert await outcome(strict, method, request) == "BLOCKED_ENDPOINT", method
    assert listeners.connections() == 0


async def test_05_bifrost_ghsa_w98g_5w9p_p3rc_addresses_in_addresses(
    strict: grpc.aio.Channel, listeners: Listeners
) -> None:
    """GHSA-w98g-5w9p-p3rc, a list of bad networks had gaps: what is not known to be public is refused, embedded or not."""
    for host in (
        "100.64.0.1", "100.100.100.200", "[2002:7f00:1::1]", "[2002:a9fe:a9fe::1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
        "[fec0::1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[2001:0:7f00:1::1]", "[fd00::1]", "[5f00::1]", "[4000::1]",
    ):  # fmt: skip
        error = await generate(strict, custom_endpoint=endpoint(f"https://{host}:{listeners.port}/v1", KEY))
        assert isinstance(error, KeyswitchError)
        assert error.reason == "BLOCKED_ENDPOINT", host
    assert listeners.connections() == 0


SECRET = "ami-0abcdef SecretAccessKey wJalr-not-a-real-one"


@pytest.mark.parametrize("status", [200, 201, 206, 301, 400, 401, 403, 404, 500, 503])
@pytest.mark.parametrize("kind", ["text/plain", "text/html", "application/json", "text/event-stream"])
async def test_06_llmgateway_ghsa_8xr7_xg68_p8c5_an_answer_read_through_the_gateway(
    client_channel: grpc.aio.Channel, status: int, kind: str
) -> None:
    """GHSA-8xr7-xg68-p8c5, any member read internal services: what is no answer of the dialect is not shown to anyone."""

    async def answer(request: web.Request) -> web.Response:
        body = json.dumps({"Code": "Success", "Token": SECRET}) if kind == "application/json" else f"\n{SECRET}\n"
        return web.Response(status=status, text=body, content_type=kind)

    async with http_provider(answer) as url:
        error = await generate(client_channel, custom_endpoint=endpoint(url, KEY))
    assert isinstance(error, KeyswitchError)
    assert not [word for word in SECRET.split() if word in f"{error.message} {vars(error)}"]


@pytest.fixture(scope="module")
async def client_channel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[grpc.aio.Channel]:
    """A server that allows loopback."""
    async with (
        server_process(tmp_path_factory.mktemp("open"), EGRESS) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        yield channel


URLS = {"CustomEndpoint.base_url"}
"""Fields of requests by which a caller says where something is to be called."""
PASSED_ON = {"MediaSource.url"}
"""Fields that hold addresses for the provider to fetch; nobody here does."""


def url_fields(message: Descriptor, seen: set[str]) -> set[str]:
    """Return the fields below a message that are named like an address."""
    if message.full_name in seen:
        return set()
    seen.add(message.full_name)
    found: set[str] = set()
    for field in message.fields:
        if field.message_type is not None:
            found |= url_fields(field.message_type, seen)
        elif field.type == FieldDescriptor.TYPE_STRING and {
            "url",
            "uri",
            "endpoint",
            "host",
            "address",
            "origin",
        } & set(field.name.split("_")):
            found.add(f"{message.name}.{field.name}")
    return found


async def test_07_lobechat_cve_2024_37895_the_same_hole_in_a_new_field(
    strict: grpc.aio.Channel, listeners: Listeners
) -> None:
    """CVE-2024-37895 came back with a new setting: every field that is named like an address is known to these tests."""
    found: set[str] = set()
    for method in pb.DESCRIPTOR.services_by_name["DispatchService"].methods:
        found |= url_fields(method.input_type, set())
    assert found - PASSED_ON == URLS
    error = await generate(strict, custom_endpoint=endpoint(f"https://127.0.0.1:{listeners.port}", KEY))
    assert isinstance(error, KeyswitchError)
    assert (error.reason, listeners.connections()) == ("BLOCKED_ENDPOINT", 0)


async def test_12_gemini_keys_in_urls_and_so_in_logs(
    governed: tuple[grpc.aio.Channel, pathlib.Path], acme: Origin
) -> None:
    """Gemini keys in URLs ended in logs and exceptions: the key is in a header, and no failure shows a URL."""
    channel, log = governed
    await generate(channel, model="m", provider="goog", credentials={"goog": KEY})
    (seen,) = acme.seen
    assert (seen.path, seen.headers["x-goog-api-key"]) == ("/v1/models/m:generateContent", KEY)
    for status in (400, 404, 500):
        acme.status = status
        error = await generate(channel, model="m", provider="goog", credentials={"goog": KEY})
        assert isinstance(error, KeyswitchError)
        assert not {KEY, acme.url, "generateContent"} & set(f"{error.message} {vars(error)}".replace("?", " ").split())
    assert not [seen for seen in acme.seen if KEY in seen.path]
    assert KEY not in log.read_text()
    assert "generateContent" not in log.read_text()


async def test_14_mcp_loader_cve_2026_12798_an_input_beside_the_choke_point(
    strict: grpc.aio.Channel, listeners: Listeners
) -> None:
    """CVE-2026-12798, a loader had a way out of its own: there is one, for tokens too."""
    account = {
        "type": "service_account", "client_email": "a@b.example", "private_key_id": "1", "project_id": "p",
        "token_uri": f"https://127.0.0.1:{listeners.port}/token",
        "private_key": rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    }  # fmt: skip
    google = Credential(google=GoogleCredential(service_account=ServiceAccountKey(json=json.dumps(account))))
    for method, request in calls("tokens", google).items():
        assert await outcome(strict, method, request) == "BLOCKED_ENDPOINT", method
    assert listeners.connections() == 0


async def test_14_an_image_is_fetched_by_the_provider_alone(
    client_channel: grpc.aio.Channel, listeners: Listeners
) -> None:
    """The address of an image is passed on as it is, also where the operator's policy would allow to call it."""
    picture = f"https://127.0.0.1:{listeners.port}/picture.png"
    part = Part(image=ImagePart(source=MediaSource(url=picture)))
    async with origin() as provider:
        said = [Message(role=Role.ROLE_USER, parts=[part])]
        await generate(client_channel, custom_endpoint=endpoint(provider.url), messages=said)
        assert picture.encode() in provider.seen[0].body
    assert listeners.connections() == 0


NETWORK = {
    "aiohttp",
    "asyncio.streams",
    "ftplib",
    "http",
    "httpx",
    "requests",
    "smtplib",
    "socket",
    "ssl",
    "urllib3",
    "websockets",
}
OPENED_BY = {
    "keyswitch_engine/egress.py": {"aiohttp", "socket", "ssl"},
    "keyswitch_server/tls.py": {"ssl"},  # checks certificates of the server's own
}


def test_14_one_module_can_open_connections() -> None:
    """The engine, the bridge and the server import what opens connections in egress alone."""
    packages = pathlib.Path(keyswitch_server.__file__).parent.parent
    found: dict[str, set[str]] = {}
    for package in ("keyswitch_engine", "keyswitch_bridge", "keyswitch_server"):
        for path in (packages / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            names |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and node.attr in ("open_connection", "create_connection", "urlopen")
            }
            used = {
                name
                for name in names
                if name.split(".")[0] in NETWORK
                or name in ("urllib.request", "open_connection", "create_connection", "urlopen")
            }
            if used:
                found[path.relative_to(packages).as_posix()] = used
    assert found == OPENED_BY
