from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from keyswitch.v1.credential_pb2 import ApiKey, AzureCredential, Credential
from keyswitch.v1.dispatch_service_pb2 import EmbedRequest, ListProviderModelsRequest
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.target_pb2 import Target
from keyswitch_client.errors import KeyswitchError
from keyswitch_client.requests import credential_messages
from listening import Origin, endpoint, generate, origin, stream
from support import server_process

CALLERS, PLATFORMS, OTHERS, ENDPOINTS = "callers-key-4711", "platform-key-4712", "others-key-4713", "endpoints-key-4714"
ROW = """schema = 1
id = "{id}"
name = "{id}"
base_url = "{url}"
vendor_token = "{id}"
strip_own_prefix = true
default_model = "m"
{more}
[[dialects]]
name = "{dialect}"
path = "{path}"
[embeddings]
name = "openai"
path = "/embeddings"
[model_listing]
name = "openai"
path = "/models"
"""
PATHS = {
    "gemini": "/models/{model}:generateContent",
    "bedrock-converse": "/model/{model}/converse",
    "openai-chat": "/deployments/{model}/chat/completions",
}
"""Dialects by how a model stands in their path."""


@pytest.fixture(scope="module")
async def origins() -> AsyncIterator[tuple[Origin, Origin]]:
    """Two origins on one host, at two ports, both of which the operator's policy allows."""
    async with origin() as first, origin() as second:
        yield first, second


@pytest.fixture
def home(origins: tuple[Origin, Origin]) -> Origin:
    """The origin that the keys belong to."""
    origins[0].forget()
    return origins[0]


@pytest.fixture
def elsewhere(origins: tuple[Origin, Origin]) -> Origin:
    """Another origin."""
    origins[1].forget()
    return origins[1]


@pytest.fixture(scope="module")
async def channel(
    origins: tuple[Origin, Origin], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[grpc.aio.Channel]:
    """A server with a key of the operator's for the provider at home, and one provider elsewhere."""
    home, elsewhere = origins
    tmp_path = tmp_path_factory.mktemp("binding")
    rows = {
        "acme": ROW.format(id="acme", url=f"{home.url}/v1", more="", dialect="openai-chat", path="/chat/completions")
    }
    rows["other"] = ROW.format(
        id="other", url=f"{elsewhere.url}/v1", more="", dialect="openai-chat", path="/chat/completions"
    )
    for dialect, path in PATHS.items():
        rows[dialect] = ROW.format(id=dialect, url=f"{home.url}/v1", more="", dialect=dialect, path=path)
    placed = (
        'parameters = { region = "", resource = "" }\n'
        'auth = { style = "header", header = "api-key", accepts = ["azure"] }'
    )
    rows["placed"] = ROW.format(
        id="placed",
        url=f"http://127.0.0.1:{home.port}/{{resource}}/{{region}}",
        more=placed,
        dialect="openai-chat",
        path="/chat",
    )
    rows["hosted"] = ROW.format(
        id="hosted",
        url=f"http://{{resource}}.{{region}}.localhost:{home.port}/v1",
        more=placed,
        dialect="openai-chat",
        path="/chat",
    )
    for name, row in rows.items():
        (tmp_path / f"{name}.toml").write_text(row)
    (tmp_path / "settings").write_text(
        f'providers = ["{tmp_path}"]\n[platform_keys]\nacme = {{ env = "ACME_KEY" }}\n'
        '[menus.all]\napplies_to = ["*"]\nmodels = ["acme/m"]\n'
    )
    env = {
        "ACME_KEY": PLATFORMS,
        "KEYSWITCH_EGRESS_PRIVATE_NETWORKS": '["127.0.0.0/8", "::1/128"]',
        "KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": '["127.0.0.1", "localhost"]',
    }
    async with server_process(tmp_path, env, "--config", str(tmp_path / "settings")) as running:
        async with grpc.aio.insecure_channel(running.address) as opened:
            yield opened
        log = running.log.read_text()
        assert not [key for key in (CALLERS, PLATFORMS, OTHERS, ENDPOINTS) if key in log]


def keys_at(place: Origin) -> set[str]:
    """Return every key that an origin was shown, anywhere in a request."""
    return {key for key in (CALLERS, PLATFORMS, OTHERS, ENDPOINTS) for seen in place.seen if key in seen.text}


async def test_each_key_does_reach_its_own_origin(channel: grpc.aio.Channel, home: Origin, elsewhere: Origin) -> None:
    """The keys of these tests are used where they belong, so that their absence elsewhere means something."""
    await generate(channel, model="acme/m", credentials={"acme": CALLERS})
    await generate(channel, model="acme/m", allow_platform=True)
    await generate(channel, model="other/m", credentials={"other": OTHERS})
    await generate(channel, custom_endpoint=endpoint(elsewhere.url, ENDPOINTS))
    assert (keys_at(home), keys_at(elsewhere)) == ({CALLERS, PLATFORMS}, {OTHERS, ENDPOINTS})
    assert {seen.headers["host"] for seen in home.seen} == {f"127.0.0.1:{home.port}"}


@pytest.mark.parametrize("key", ["", ENDPOINTS])
@pytest.mark.parametrize("label", ["", "acme", "platform"])
@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages"])
async def test_a_base_url_of_the_callers_gets_no_key_but_its_own(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin, dialect: str, label: str, key: str
) -> None:
    """Neither a provider's key of the caller's nor the operator's goes to a custom endpoint, whatever it is called."""
    for place in (elsewhere, home):  # also where the key belongs: an endpoint is nobody's account there
        await generate(
            channel,
            custom_endpoint=endpoint(place.url, key, label=label, dialect=dialect),
            credentials={"acme": CALLERS, "other": OTHERS},
            allow_platform=True,
        )
        assert place.seen
        assert keys_at(place) == ({key} if key else set())


OVERRIDES = ("base_url", "api_base", "baseUrl", "url", "endpoint", "host", "api_key", "proxy", "azure_endpoint")


@pytest.mark.parametrize("consent", [False, True])
async def test_options_change_a_body_and_never_where_it_goes(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin, consent: bool
) -> None:
    """Fields that other gateways read as an address, at any depth, are just the body's."""
    options = dict.fromkeys(OVERRIDES, elsewhere.url)
    options |= {"extra_body": dict(options), "litellm_params": dict(options), "metadata": {"model_info": dict(options)}}
    asked: dict[str, Any] = {"allow_platform": True} if consent else {"credentials": {"acme": CALLERS}}
    await generate(channel, model="acme/m", options=json.dumps(options), **asked)
    assert elsewhere.seen == []
    assert keys_at(home) == (set() if consent else {CALLERS})  # on the operator's bill there are no such options
    assert [seen.path for seen in home.seen] == ([] if consent else ["/v1/chat/completions"])


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
async def test_no_redirect_takes_a_key_along(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin, status: int
) -> None:
    """To another port of the same host, by another name of it, or within the origin: a redirect ends the call."""
    stub = DispatchServiceStub(channel)
    asked = 0
    for location in (
        f"{elsewhere.url}/v1/chat/completions", f"//127.0.0.1:{elsewhere.port}/", f"http://localhost:{elsewhere.port}/",
        f"http://localhost:{home.port}/", "/v1/files",
    ):  # fmt: skip
        home.status, home.headers = status, {"location": location}
        for ask in (generate, stream):
            error = await ask(channel, model="acme/m", credentials={"acme": CALLERS})
            assert isinstance(error, KeyswitchError)
            assert error.reason == "PROVIDER_PROTOCOL_ERROR"
            await ask(channel, model="acme/m", allow_platform=True)
        keys = credential_messages({"acme": CALLERS})
        for call, request in (
            (stub.Embed, EmbedRequest(target=Target(model="acme/m"), credentials=keys, inputs=["a"])),
            (stub.ListProviderModels, ListProviderModelsRequest(provider="acme", credential=keys[0])),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(request)
        asked += 6
    assert (len(home.seen), elsewhere.seen) == (asked, [])
    assert {seen.path for seen in home.seen} == {"/v1/chat/completions", "/v1/embeddings", "/v1/models"}


TRAVERSALS = (
    "../../v1/files", "..", ".", "../..", "a/../../files", "..%2f..%2fv1%2ffiles", "%2e%2e/%2e%2e/files", "%2e%2e",
    ".%2e/files", "..\\..\\files", "..%5c..%5cfiles", "%252e%252e%252ffiles", "a/./b", "..;/files", "a/..%00/b",
    "m?key=x&alt=", "m#fragment", "m/../../../../etc", "//127.0.0.1:{port}/x", "http://127.0.0.1:{port}/x",
    "@127.0.0.1:{port}/x", ":{port}/x", "\\\\127.0.0.1:{port}\\x", "m:generateContent/../../files", "/../files",
    "\uff0f..\uff0ffiles", "m HTTP/1.1", "m\r\nHost: 127.0.0.1:{port}", "m\r\n\r\nGET / HTTP/1.1", "m\x00", "m\tx",
)  # fmt: skip


@pytest.mark.parametrize("model", TRAVERSALS)
@pytest.mark.parametrize("provider", PATHS)
async def test_a_model_stays_one_segment_of_its_path(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin, provider: str, model: str
) -> None:
    """However a model is spelled, the call is refused, or the model is one quoted segment between what stands around it."""
    model = model.replace("{port}", str(elsewhere.port))
    answer = await generate(channel, provider=provider, model=model, credentials={provider: CALLERS})
    before, after = f"/v1{PATHS[provider]}".split("{model}")
    if home.seen:
        (seen,) = home.seen
        segment = seen.path.removeprefix(before).removesuffix(after)
        assert seen.path == before + segment + after
        assert unquote(segment) == model
        assert not set(segment) & set("/\\?# \r\n")
        assert not {".", ".."} & set(unquote(unquote(seen.path)).replace("\\", "/").split("/"))
        assert seen.headers["host"] == f"127.0.0.1:{home.port}"
    else:
        assert isinstance(answer, KeyswitchError)
        assert (answer.reason, answer.origin) == ("INVALID_REQUEST", "CALLER")
    assert elsewhere.seen == []


async def test_hosts_and_user_names_move_no_key(channel: grpc.aio.Channel, home: Origin, elsewhere: Origin) -> None:
    """User names in URLs, further headers and line ends in keys are refused; the Host is always the origin's own."""
    for url in (
        f"http://127.0.0.1:{home.port}@127.0.0.1:{elsewhere.port}/v1", f"http://u:p@127.0.0.1:{elsewhere.port}/v1",
        f"http://127.0.0.1:{elsewhere.port}\\@127.0.0.1:{home.port}/v1", f"http://127.0.0.1:{elsewhere.port}#@x/v1",
        f"http://127.0.0.1:{elsewhere.port}/v1?x=@127.0.0.1:{home.port}", f"http://127.1:{elsewhere.port}/v1",
    ):  # fmt: skip
        error = await generate(channel, custom_endpoint=endpoint(url, ENDPOINTS), credentials={"acme": CALLERS})
        assert isinstance(error, KeyswitchError)
        assert error.reason == "INVALID_ENDPOINT"
    hosted = endpoint(home.url, ENDPOINTS)
    hosted.headers.add(name="Host", value=f"127.0.0.1:{elsewhere.port}")
    for name, asked in (
        ("headers", {"custom_endpoint": hosted}),
        ("key", {"model": "acme/m", "credentials": {"acme": f"{CALLERS}\r\nHost: 127.0.0.1:{elsewhere.port}"}}),
    ):
        refused = await generate(channel, **asked)
        assert isinstance(refused, KeyswitchError), name
        assert CALLERS not in str(vars(refused))
    assert (home.seen, elsewhere.seen) == ([], [])


@pytest.mark.parametrize("provider", ["placed", "hosted"])
@pytest.mark.parametrize("parameter", ["region", "resource"])
@pytest.mark.parametrize(
    "value",
    [
        "..", ".", "../..", "a/b", "a\\b", "%2e%2e", "a%2fb", "x@127.0.0.1:{port}/", "127.0.0.1:{port}/", "127.0.0.1:{port}#",
        "127.0.0.1:{port}?", "a b", "a\r\nHost: x", "a#b", "a?b",
    ],
)  # fmt: skip
async def test_a_parameter_widens_nothing(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin, provider: str, parameter: str, value: str
) -> None:
    """A region or a resource is a label of the host or one segment of the path; what would be more sends nothing."""
    value = value.replace("{port}", str(elsewhere.port))
    values = {"region": "r", "resource": "s", parameter: value}
    key = AzureCredential(api_key=ApiKey(key=CALLERS), resource=values["resource"])
    answer = await generate(
        channel, provider=provider, model="m", region=values["region"], credentials={provider: Credential(azure=key)}
    )
    assert elsewhere.seen == []
    if home.seen:  # one segment, if it was sent at all
        assert provider == "placed"
        assert len(home.seen[0].path.split("/")) == len(["", "s", "r", "chat"])
    else:
        assert isinstance(answer, KeyswitchError)
        assert answer.origin == "CALLER"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_fallback_is_paid_with_its_own_key(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin, streamed: bool
) -> None:
    """When a target fails, the next one sees the key of its own provider, and never the one that failed."""
    home.status = 503
    ask = stream if streamed else generate
    await ask(
        channel,
        model="acme/m",
        credentials={"acme": CALLERS, "other": OTHERS},
        fallbacks=[Target(provider="other", model="m")],
        allow_platform=True,
    )
    assert (keys_at(home), keys_at(elsewhere)) == ({CALLERS}, {OTHERS})
    missing = await ask(
        channel, model="acme/m", credentials={"acme": CALLERS}, fallbacks=[Target(provider="other", model="m")]
    )
    assert isinstance(missing, KeyswitchError)
    assert missing.reason == "MISSING_CREDENTIAL"
    assert keys_at(elsewhere) == {OTHERS}


async def test_a_custom_endpoint_that_fails_takes_no_provider_in_its_place(
    channel: grpc.aio.Channel, home: Origin, elsewhere: Origin
) -> None:
    """Its failure is its own: no registry provider and no key of the operator's answers instead."""
    elsewhere.status = 503
    failed = await generate(
        channel, custom_endpoint=endpoint(elsewhere.url, ENDPOINTS), credentials={"acme": CALLERS}, allow_platform=True
    )
    assert isinstance(failed, KeyswitchError)
    assert (home.seen, keys_at(elsewhere)) == ([], {ENDPOINTS})


async def test_connections_are_kept_by_origin_and_keys_by_call(channel: grpc.aio.Channel, home: Origin) -> None:
    """Two names of one address never share a connection; two callers of one origin may, each with its own key."""
    for number in range(3):
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{home.port}"
            await generate(channel, custom_endpoint=endpoint(url, f"{ENDPOINTS}-{host}-{number}"))
    hosts = [seen.headers["host"] for seen in home.seen]
    keys = [seen.headers["authorization"] for seen in home.seen]
    assert hosts == [f"127.0.0.1:{home.port}", f"localhost:{home.port}"] * 3
    assert keys == [f"Bearer {ENDPOINTS}-{host}-{number}" for number in range(3) for host in ("127.0.0.1", "localhost")]
    connections: dict[int, set[str]] = {}
    for seen in home.seen:
        connections.setdefault(seen.connection, set()).add(seen.headers["host"])
    assert len(connections) == 2  # they were kept
    assert all(len(names) == 1 for names in connections.values())
