from __future__ import annotations

import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from keyswitch.v1 import credential_pb2, dispatch_service_pb2, target_pb2, usage_pb2
from keyswitch_client import AsyncClient, KeyswitchError
from support import EGRESS, ServerProcess, http_provider, server_process
from wishes import WISHED

ROW = """schema = 1
id = "{id}"
name = "{id}"
base_url = "{url}/{id}"
vendor_token = "{id}"
strip_own_prefix = true
default_model = "small"
models = ["small", "large"]
{more}
[[dialects]]
name = "openai-chat"
path = "/chat/completions"
{surface}
"""
SETTINGS = """providers = ["{folder}"]

[platform_keys]
acme = {{ env = "ACME_PLATFORM_KEY" }}
router = {{ file = "{folder}/router.key" }}

[menus.everyone]
applies_to = ["*"]
models = ["acme/small", "acme/refused", "cheap"]

[menus.tenant]
applies_to = ["anonymous/blue"]
models = ["acme/*"]

[virtual_models.cheap]
provider = "router"
model = "vendor/model"
routing = {{ only = ["a", "b"], max_price = {{ prompt = 1.0 }} }}
"""


class Upstream:
    """What the providers behind the server were sent: path, key, body."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    async def answer(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        key = request.headers.get("authorization", request.headers.get("x-api-key", ""))
        self.seen.append((request.path, key, body))
        if body["model"] == "refused":
            return web.json_response({"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, status=401)
        if request.path.endswith("/messages"):
            message = {
                "id": "m", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "yes"}],
                "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1},
            }  # fmt: skip
            return web.json_response(message)
        if request.path.endswith("/responses"):
            said = {"type": "message", "id": "m", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": "yes", "annotations": []}]}  # fmt: skip
            return web.json_response({"id": "r", "object": "response", "status": "completed", "output": [said]})
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return web.json_response({"id": "c", "choices": [choice]})


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def governed(upstream: Upstream, tmp_path: pathlib.Path) -> AsyncIterator[ServerProcess]:
    """A server with keys of the operator's, menus and a virtual model."""
    async with http_provider(upstream.answer) as url:
        (tmp_path / "acme.toml").write_text(ROW.format(id="acme", url=url, more="", surface=""))
        form = 'router = true\nforeign_id_form = "^[^/]+/.+$"'
        (tmp_path / "router.toml").write_text(
            ROW.format(
                id="router",
                url=url,
                more=form,
                surface='routing_preferences = "openrouter"\nrouting = { data_collection = "deny", only = ["c"] }',
            )
        )
        (tmp_path / "router.key").write_text("platform-key-of-router\n")
        (tmp_path / "settings.toml.in").write_text(SETTINGS.format(folder=tmp_path))
        env = {**EGRESS, "ACME_PLATFORM_KEY": "platform-key-of-acme"}
        async with server_process(tmp_path, env, "--config", str(tmp_path / "settings.toml.in")) as running:
            yield running
        assert "platform-key" not in running.log.read_text()


@pytest.fixture
async def client(governed: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(governed.address, timeout=30.0, local="never") as running:
        yield running


async def test_the_operators_key_serves_a_menu_and_the_operator_pays(client: AsyncClient, upstream: Upstream) -> None:
    """With consent a model on a menu is served by the operator's key, and explanation, Started and receipt say so."""
    asked: Any = {"model": "acme/small", "messages": "hi", "allow_platform": True}
    (route,) = (await client.explain(**asked)).routes
    answer = await client.generate(**asked)
    assert upstream.seen == [("/acme/chat/completions", "Bearer platform-key-of-acme", upstream.seen[0][2])]
    (attempt,) = answer.receipt.attempts
    billings = (route.billing, answer.response.started.billing, attempt.billing)
    assert set(billings) == {usage_pb2.BILLING_PLATFORM}
    assert route.credential_source == attempt.credential_source == usage_pb2.CREDENTIAL_SOURCE_PLATFORM


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"model": "acme/small"}, "MISSING_CREDENTIAL"),
        ({"model": "acme/large", "allow_platform": True}, "PLATFORM_NOT_ALLOWED"),
        ({"model": "acme/large", "allow_platform": True, "tenant": "red"}, "PLATFORM_NOT_ALLOWED"),
        ({"model": "vendor/model", "provider": "router", "allow_platform": True}, "PLATFORM_NOT_ALLOWED"),
    ],
)
async def test_no_key_of_the_operators_is_used_unasked(
    client: AsyncClient, upstream: Upstream, asked: dict[str, Any], reason: str
) -> None:
    """Without consent, off the menu, or for a tenant that the menu is not for, nothing is sent."""
    with pytest.raises(KeyswitchError) as raised:
        await client.generate(messages="hi", **asked)
    assert raised.value.reason == reason
    assert upstream.seen == []


async def test_a_callers_key_pays_for_menu_models_too_and_never_gives_way(
    client: AsyncClient, upstream: Upstream
) -> None:
    """The caller's own key is used although the menu and a consent are there, and stays the only one when refused."""
    answer = await client.generate(
        model="acme/small", messages="hi", credentials={"acme": "callers-key"}, allow_platform=True
    )
    assert answer.receipt.attempts[0].billing == usage_pb2.BILLING_BYOK
    with pytest.raises(KeyswitchError) as raised:
        await client.generate(
            model="acme/refused", messages="hi", credentials={"acme": "callers-key"}, allow_platform=True
        )
    assert raised.value.reason == "INVALID_CREDENTIAL"
    assert {key for _, key, _ in upstream.seen} == {"Bearer callers-key"}


async def test_a_menu_can_be_a_tenants(client: AsyncClient, upstream: Upstream) -> None:
    """What a tenant's menu adds is served for that tenant, whose name never leaves."""
    await client.generate(model="acme/large", messages="hi", allow_platform=True, tenant="blue")
    ((_, key, body),) = upstream.seen
    assert key == "Bearer platform-key-of-acme"
    assert "blue" not in json.dumps(body)


async def test_a_virtual_model_is_a_model_with_its_own_routing(client: AsyncClient, upstream: Upstream) -> None:
    """Its name stands for provider, model and wishes: request over model over provider, key by key, lists replaced."""
    wishes = target_pb2.RoutingPreferences(only=["d"], max_price=target_pb2.MaxPrice(completion=2.0))
    for routing in (None, wishes):
        more: Any = {"routing": routing} if routing is not None else {}
        await client.generate(model="cheap", messages="hi", credentials={"router": "k"}, **more)
    await client.generate(model="cheap", messages="hi", allow_platform=True)
    await client.generate(model="router/vendor/other", messages="hi", credentials={"router": "k"})
    sent = [(body["model"], body["provider"]) for _, _, body in upstream.seen]
    virtual = {"data_collection": "deny", "only": ["a", "b"], "max_price": {"prompt": 1.0}}
    assert sent == [
        ("vendor/model", virtual),
        ("vendor/model", virtual | {"only": ["d"], "max_price": {"prompt": 1.0, "completion": 2.0}}),
        ("vendor/model", virtual),
        ("vendor/other", {"data_collection": "deny", "only": ["c"]}),
    ]
    assert [key for _, key, _ in upstream.seen] == ["Bearer k", "Bearer k", "Bearer platform-key-of-router", "Bearer k"]


@pytest.mark.parametrize("form", WISHED)
async def test_a_router_is_sent_every_preference_of_the_contract(
    client: AsyncClient, upstream: Upstream, form: str
) -> None:
    """What a request wishes arrives in OpenRouter's own form, over what the provider's file says."""
    wishes, spelt = WISHED[form]
    await client.generate(model="router/vendor/other", messages="hi", credentials={"router": "k"}, routing=wishes)
    ((_, _, body),) = upstream.seen
    assert body["provider"] == {"data_collection": "deny", "only": ["c"]} | spelt


async def test_what_is_listed_is_explained_and_served(client: AsyncClient, upstream: Upstream) -> None:
    """Every model that ListModels offers for some keys, a consent and a tenant is served, and billed, as it says."""
    for keyed, consent, tenant in (
        ((), True, ""), ((), True, "blue"), (("acme",), True, ""), (("router",), False, ""), (("acme", "router"), True, "blue"),
    ):  # fmt: skip
        listed = await client.models(keyed_providers=keyed, allow_platform=consent, tenant=tenant)
        offered = [model for model in listed if model.provider in ("acme", "router")]
        assert offered
        for model in offered:
            if model.resolved_model == "refused":
                continue
            asked: Any = {
                "model": model.id, "messages": "hi", "credentials": dict.fromkeys(keyed, "k"),
                "allow_platform": consent, "tenant": tenant,
            }  # fmt: skip
            (route,) = (await client.explain(**asked)).routes
            answer = await client.generate(**asked)
            told = (model.provider, model.resolved_model, model.billing)
            assert (route.provider, route.resolved_model, route.billing) == told
            started = answer.response.started
            assert (started.provider, started.resolved_model, started.billing) == told
    assert await client.models(provider="acme") == []


async def test_models_come_in_pages_and_by_words(client: AsyncClient) -> None:
    """A list is sorted, comes whole through its pages, and is narrowed by words and by provider."""
    everything = await client.models(keyed_providers=["acme", "router"])
    assert [(model.provider, model.id) for model in everything] == sorted(
        (model.provider, model.id) for model in everything
    )
    assert [model.id for model in everything if model.provider == "acme"] == ["large", "refused", "small"]
    found = await client.models("acme LARGE", keyed_providers=["acme", "router"])
    assert [model.id for model in found] == ["large"]
    only = await client.models(provider="ROUTER", keyed_providers=["acme", "router"])
    assert {model.provider for model in only} == {"router"}
    with pytest.raises(KeyswitchError) as raised:
        await client.models(provider="rooter")
    assert raised.value.reason == "UNKNOWN_PROVIDER"


@pytest.mark.parametrize(
    ("dialect", "ending", "path"),
    [
        *(("", ending, "/v1/chat/completions") for ending in ("", "/", "/v1", "/v1/", "/v1/chat/completions")),
        ("openai-responses", "/v1", "/v1/responses"),
        ("openai-responses", "/v1/responses/", "/v1/responses"),
        *(("anthropic-messages", ending, "/v1/messages") for ending in ("", "/v1", "/v1/messages")),
        ("anthropic-messages", "/anthropic", "/anthropic/v1/messages"),
        ("", "/api/openai", "/api/openai/chat/completions"),
    ],
)
async def test_a_custom_endpoint_is_called_with_its_own_key_alone(
    client: AsyncClient, governed: ServerProcess, upstream: Upstream, dialect: str, ending: str, path: str
) -> None:
    """However much of the path the URL has, it is joined on once; no provider's key and no consent has a part in it."""
    request = dispatch_service_pb2.GenerateRequest()
    async with http_provider(upstream.answer) as url:
        endpoint = request.target.custom_endpoint
        endpoint.base_url, endpoint.model, endpoint.dialect, endpoint.label = url + ending, "m/1:x", dialect, "Mine"
        endpoint.credential.CopyFrom(
            credential_pb2.Credential(api_key=credential_pb2.ApiKey(key="key-of-the-endpoint"))
        )
        answer = await client.generate(
            messages="hi", request=request, credentials={"acme": "callers-key"}, allow_platform=True
        )
        (route,) = (await client.explain(request=request)).routes
    ((called, key, body),) = upstream.seen
    assert (called, key.removeprefix("Bearer "), body["model"]) == (path, "key-of-the-endpoint", "m/1:x")
    assert answer.text == "yes"
    (attempt,) = answer.receipt.attempts
    assert (attempt.provider, attempt.billing) == ("custom", usage_pb2.BILLING_BYOK)
    assert attempt.origin_host == route.origin_host == url.removeprefix("http://")


async def test_a_custom_endpoints_errors_name_its_label(client: AsyncClient, upstream: Upstream) -> None:
    """A refused key is told by the endpoint's label, and never by its URL."""
    request = dispatch_service_pb2.GenerateRequest()
    async with http_provider(upstream.answer) as url:
        endpoint = request.target.custom_endpoint
        endpoint.base_url, endpoint.model, endpoint.label = url, "refused", "My box"
        endpoint.credential.none.SetInParent()
        with pytest.raises(KeyswitchError) as raised:
            await client.generate(messages="hi", request=request)
    assert (raised.value.reason, raised.value.message) == ("INVALID_CREDENTIAL", "Invalid API key for My box")
    assert [key for _, key, _ in upstream.seen] == [""]
