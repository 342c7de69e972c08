from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from keyswitch_engine import registry
from keyswitch_engine.auth import Authenticator
from keyswitch_engine.credential import (
    ApiKey,
    AwsAccessKey,
    AwsBearerToken,
    AzureAccessToken,
    AzureApiKey,
    BearerToken,
    CloudflareToken,
    Credential,
    GoogleAccessToken,
    GoogleServiceAccount,
    NoCredential,
    ProviderCredential,
)
from keyswitch_engine.dispatch import Call, Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.egress import Egress
from keyswitch_engine.egress_policy import EgressPolicy
from keyswitch_engine.embeddings import EmbeddingInput
from keyswitch_engine.errors import DispatchError, InvalidRequest, Reason
from keyswitch_engine.events import TextDelta
from keyswitch_engine.generation import FunctionTool, Generation, Message, Part, Role, TextPart
from keyswitch_engine.operations import CountCall, EmbeddingCall, count_tokens, embed, list_models
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing, resolve_token_counting
from keyswitch_engine.secret import Secret
from keyswitch_sandbox import Sandbox
from support import http_provider

KEY = "test-key"
SECRET = Secret(KEY)
CREDENTIALS: dict[str, Credential] = {
    "api_key": ApiKey(SECRET),
    "bearer_token": BearerToken(SECRET),
    "aws": AwsBearerToken(SECRET),
    "azure": AzureApiKey(SECRET, "my-resource"),
    "google": GoogleAccessToken(SECRET, "my-project"),
    "cloudflare": CloudflareToken(SECRET, "my-account"),
}
ROWS = registry.load().providers
SURFACES = [
    (provider.id, surface.dialect.name)
    for provider in ROWS.values()
    for surface in provider.dialects
    if not surface.needs
]
GENERATION = Generation((Message(Role.USER, (Part(TextPart("one two three")),)),))


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    policy = EgressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset({"127.0.0.1"}))
    async with Egress(policy) as egress:
        yield Dispatcher(egress)


def moved(provider: str, sandbox: Sandbox) -> registry.Registry:
    """Return the registry with one provider at the sandbox, below the path that its own address has."""
    path = urlsplit(ROWS[provider].base_url).path
    return registry.load(base_urls={provider: sandbox.url + path})


def keyed(provider: str, credential: Credential | None = None) -> list[ProviderCredential]:
    row = ROWS[provider]
    if credential is None:
        credential = CREDENTIALS[row.auth.accepts[0]]
        if isinstance(credential, ApiKey) and (row.auth.organization_header or "organization" in row.parameters):
            credential = ApiKey(SECRET, organization="my-org")
    return [ProviderCredential(provider, credential)]


def call_of(route: Route[Any]) -> dict[str, Any]:
    return {"route": route, "limits": TimeLimits(5, 5, 5, 20), "received_at": asyncio.get_running_loop().time()}


def generation_of(route: Route[Any]) -> GenerationCall:
    return GenerationCall(request=write_request(route, GENERATION, stream=False), **call_of(route))


def embedding_of(route: Route[Any], *texts: str) -> EmbeddingCall:
    surface = route.surface
    requests = surface.dialect.requests(EmbeddingInput(texts), route.model, surface.profile, route.options_json)
    return EmbeddingCall(requests=requests, texts=len(texts), **call_of(route))


def count_of(route: Route[Any], generation: Generation = GENERATION) -> CountCall:
    surface = route.surface
    return CountCall(request=surface.dialect.count_request(generation, route.model, surface.profile), **call_of(route))


@pytest.mark.parametrize(("provider", "dialect"), SURFACES)
async def test_each_surface_of_each_provider_is_dispatched_to(
    dispatcher: Dispatcher, sandbox: Sandbox, provider: str, dialect: str
) -> None:
    """Address, key and dialect of every row reach the provider's double, which answers."""
    target = Target(provider=provider, model="sandbox/echo", dialect=dialect)
    route = resolve(moved(provider, sandbox), target, keyed(provider))
    events = await dispatcher.generate(generation_of(route))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "one two three"
    assert KEY not in list(sandbox.journal)[-1].path


@pytest.mark.parametrize("provider", [row.id for row in ROWS.values() if row.model_listing is not None])
async def test_each_list_of_models_is_read(dispatcher: Dispatcher, sandbox: Sandbox, provider: str) -> None:
    """Every form, with its pages, gives the ids."""
    row = moved(provider, sandbox)
    if provider in ("anthropic", "cohere"):
        row = registry.load(base_urls={provider: f"{sandbox.url}/{provider}{urlsplit(ROWS[provider].base_url).path}"})
    route = resolve_model_listing(row, Target(provider=provider), keyed(provider)[0])
    models = await list_models(dispatcher, Call(**call_of(route)))
    assert {"sandbox/echo", "sandbox/tools"} <= {model.id for model in models}


@pytest.mark.parametrize("provider", [row.id for row in ROWS.values() if row.embeddings is not None])
async def test_each_embeddings_protocol_gives_vectors_in_order(
    dispatcher: Dispatcher, sandbox: Sandbox, provider: str
) -> None:
    """Every row's texts come back as vectors, one each, whatever order they are answered in."""
    target = Target(
        provider=provider, model="amazon.titan-embed-text-v2:0" if provider == "bedrock" else "sandbox/embed"
    )
    route = resolve_embeddings(moved(provider, sandbox), target, keyed(provider))
    embedded = await embed(dispatcher, embedding_of(route, "a b", "longer than that"))
    assert [vector[:2] for vector in embedded.vectors] == [(2.0, 3.0), (3.0, 16.0)]


@pytest.mark.parametrize("provider", [row.id for row in ROWS.values() if row.token_counting is not None])
async def test_each_token_counter_counts(dispatcher: Dispatcher, sandbox: Sandbox, provider: str) -> None:
    """The conversation reaches the provider's counter, and its count comes back."""
    target = Target(provider=provider, model="sandbox/echo")
    route = resolve_token_counting(moved(provider, sandbox), target, keyed(provider))
    assert await count_tokens(dispatcher, count_of(route)) == 3


async def test_access_keys_sign_and_are_never_sent(dispatcher: Dispatcher, sandbox: Sandbox) -> None:
    """A request with an AWS key pair carries a signature over it and the session's token, not the secret."""
    credential = AwsAccessKey(Secret("test-id"), Secret("test-secret"), Secret("test-session"))
    target = Target(provider="bedrock", model="sandbox/echo", region="eu-west-1")
    route = resolve(moved("bedrock", sandbox), target, keyed("bedrock", credential))
    await dispatcher.generate(generation_of(route))
    entry = list(sandbox.journal)[-1]
    assert entry.headers["x-amz-security-token"] == "test-session"
    assert "test-secret" not in json.dumps(entry.headers)
    assert route.region == "eu-west-1"


@pytest.mark.parametrize(
    ("target", "credential", "url"),
    [
        (Target(provider="bedrock", model="m", region="eu-west-1"), CREDENTIALS["aws"], "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        (Target(provider="bedrock", model="m"), CREDENTIALS["aws"], "https://bedrock-runtime.us-east-1.amazonaws.com"),
        (Target(provider="azure", model="m"), CREDENTIALS["azure"], "https://my-resource.openai.azure.com/openai"),
        (Target(provider="azure", model="m"), AzureAccessToken(SECRET, "My-Resource"), "https://my-resource.openai.azure.com/openai"),
        (Target(provider="vertex", model="m"), CREDENTIALS["google"], "https://aiplatform.googleapis.com/v1/projects/my-project/locations/global/publishers"),
        (Target(provider="vertex", model="m", region="europe-west4"), CREDENTIALS["google"], "https://europe-west4-aiplatform.googleapis.com/v1/projects/my-project/locations/europe-west4/publishers"),
        (Target(provider="cloudflare", model="m"), CREDENTIALS["cloudflare"], "https://api.cloudflare.com/client/v4/accounts/my-account/ai/v1"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, "a", "g"), "https://gateway.ai.cloudflare.com/v1/a/g/compat"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, "..a.b..", "c:d"), "https://gateway.ai.cloudflare.com/v1/..a.b../c%3Ad/compat"),
        (Target(provider="snowflake", model="m"), ApiKey(SECRET, organization="my-org"), "https://my-org.snowflakecomputing.com/api/v2/cortex/v1"),
    ],
)  # fmt: skip
def test_addresses_are_made_of_region_and_credential(target: Target, credential: Credential, url: str) -> None:
    """What the caller brings fills the row's URL, within the provider's own domain."""
    route = resolve(registry.load(), target, keyed(target.provider, credential))
    assert route.surface.base_url == url


def test_an_api_version_leads_to_the_older_addresses() -> None:
    """With a version, Azure's deployment stands in the path; without one in the body alone."""
    target = Target(provider="azure", model="my deployment", dialect="openai-chat")
    versioned = resolve(registry.load(), target, keyed("azure", AzureApiKey(SECRET, "r", "2024-10-21")))
    assert versioned.surface.profile.endpoint(versioned.model, stream=False) == (
        "/deployments/my%20deployment/chat/completions?api-version=2024-10-21"
    )
    plain = resolve(registry.load(), target, keyed("azure"))
    assert plain.surface.profile.endpoint(plain.model, stream=False) == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("target", "credential", "field"),
    [
        (Target(provider="openai", model="m", region="eu"), ApiKey(SECRET), "target.region"),
        (Target(provider="snowflake", model="m"), ApiKey(SECRET), "credentials"),
        (Target(provider="snowflake", model="m"), ApiKey(SECRET, organization="evil.example/"), "credentials"),
        (Target(provider="azure", model="m"), AzureApiKey(SECRET, "a@b"), "credentials"),
        (Target(provider="azure", model="m"), AzureApiKey(SECRET, "a..b"), "credentials"),
        (Target(provider="azure", model="m"), AzureApiKey(SECRET, "a.b"), "credentials"),
        (Target(provider="azure", model="m"), AzureApiKey(SECRET, "a-"), "credentials"),
        (Target(provider="azure", model="m"), AzureApiKey(SECRET, "a" * 64), "credentials"),
        (Target(provider="azure", model="m"), AzureApiKey(SECRET, "a\n"), "credentials"),
        (Target(provider="bedrock", model="m", region="eu-west-1.evil"), CREDENTIALS["aws"], "target.region"),
        (Target(provider="vertex", model="m", region=".."), CREDENTIALS["google"], "target.region"),
        (Target(provider="vertex", model="m"), GoogleAccessToken(SECRET, ".."), "credentials"),
        (Target(provider="vertex", model="m"), GoogleAccessToken(SECRET, "a/b"), "credentials"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, "."), "credentials"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, ".."), "credentials"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, "a", ".."), "credentials"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, "a\\..\\b"), "credentials"),
        (Target(provider="cloudflare", model="m"), CloudflareToken(SECRET, "%2e%2e"), "credentials"),
        (Target(provider="vertex", model="m"), GoogleAccessToken(SECRET, ""), "credentials"),
        (Target(provider="openai", model="m"), NoCredential(), "credentials"),
    ],
)
def test_an_address_that_cannot_be_made_is_refused(target: Target, credential: Credential, field: str) -> None:
    """A missing part, or one that would lead elsewhere, is the request's fault, and nothing is sent."""
    with pytest.raises(InvalidRequest) as raised:
        resolve(registry.load(), target, keyed(target.provider, credential))
    assert raised.value.field == field


async def test_a_gateway_of_cloudflare_has_a_header_of_its_own(dispatcher: Dispatcher, sandbox: Sandbox) -> None:
    """AI Gateway takes the account's token beside the place of the vendors' keys, Workers AI in that place."""
    for gateway, header in (("g", "cf-aig-authorization"), ("", "Authorization")):
        credential = CloudflareToken(SECRET, "a", gateway)
        rows, target = moved("cloudflare", sandbox), Target(provider="cloudflare", model="sandbox/echo")
        route = resolve(rows, target, keyed("cloudflare", credential))
        assert await headers_of(route.surface.key_header, credential) == {header: f"Bearer {KEY}"}
        assert len(await dispatcher.generate(generation_of(route))) > 2
        embedding = resolve_embeddings(rows, target, keyed("cloudflare", credential))
        assert await headers_of(embedding.surface.key_header, credential) == {"Authorization": f"Bearer {KEY}"}


async def headers_of(key_header: str, credential: Credential) -> dict[str, str]:
    """Return the headers that authenticate a request to Cloudflare."""

    async def post(url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        raise AssertionError(url)

    authenticated = await Authenticator(post).authenticate(
        ROWS["cloudflare"].auth, credential,
        method="POST", url="https://example.com", headers={}, body=b"", region="", key_header=key_header,
    )  # fmt: skip
    return authenticated.headers


@pytest.mark.parametrize(
    ("provider", "credential"),
    [("groq", ApiKey(SECRET, organization="o")), ("anthropic", ApiKey(SECRET, project="p"))],
)
def test_whom_to_bill_is_never_dropped(provider: str, credential: ApiKey) -> None:
    """A provider that cannot be told of an organization or a project refuses it."""
    with pytest.raises(InvalidRequest) as raised:
        resolve(registry.load(), Target(provider=provider, model="m"), keyed(provider, credential))
    assert raised.value.field == "credentials"


async def test_several_requests_for_one_embedding_are_all_in_the_receipt(dispatcher: Dispatcher) -> None:
    """When a later request fails, those before it, which are billed, are told too, and nothing invites to repeat them."""
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"embedding": [1.0], "inputTextTokenCount": 1}, status=200 if asked == 1 else 429)

    async with http_provider(answer) as url:
        target = Target(provider="bedrock", model="amazon.titan-embed-text-v2:0")
        route = resolve_embeddings(registry.load(base_urls={"bedrock": url}), target, keyed("bedrock"))
        with pytest.raises(DispatchError) as raised:
            await embed(dispatcher, embedding_of(route, "a", "b", "c"))
    assert [(attempt.number, attempt.failure_reason) for attempt in raised.value.attempts] == [
        (1, ""),
        (2, "PROVIDER_RATE_LIMITED"),
    ]
    assert not raised.value.retryable


@pytest.mark.parametrize("count", [-1, 10**20, None, "three", [[]]])
async def test_a_count_that_cannot_be_one_is_a_protocol_error(dispatcher: Dispatcher, count: object) -> None:
    """What is no number of tokens is the provider's mistake."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"data": {"total_tokens": count}})

    async with http_provider(answer) as url:
        rows = registry.load(base_urls={"moonshot": url})
        route = resolve_token_counting(rows, Target(provider="moonshot", model="m"), keyed("moonshot"))
        with pytest.raises(DispatchError) as raised:
            await count_tokens(dispatcher, count_of(route))
    assert raised.value.reason is Reason.PROVIDER_PROTOCOL_ERROR


async def test_tools_are_counted_or_refused(dispatcher: Dispatcher, sandbox: Sandbox) -> None:
    """A counter that leaves tools out is not asked about a conversation that has some."""
    generation = msgspec.structs.replace(GENERATION, tools=(FunctionTool("f", "tells"),))
    for provider, counted in (("anthropic", True), ("moonshot", False)):
        target = Target(provider=provider, model="sandbox/echo")
        route = resolve_token_counting(moved(provider, sandbox), target, keyed(provider))
        if counted:
            assert await count_tokens(dispatcher, count_of(route, generation)) >= 3
        else:
            with pytest.raises(DispatchError) as raised:
                await count_tokens(dispatcher, count_of(route, generation))
            assert raised.value.field == "tools"


async def test_a_list_that_leads_in_circles_ends(dispatcher: Dispatcher) -> None:
    """A page that leads to itself is the provider's mistake, told with the provider's name and its attempts."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}], "has_more": True, "last_id": "m"})

    async with http_provider(answer) as url:
        rows = registry.load(base_urls={"anthropic": url})
        route = resolve_model_listing(rows, Target(provider="anthropic"), keyed("anthropic")[0])
        with pytest.raises(DispatchError) as raised:
            await list_models(dispatcher, Call(**call_of(route)))
    assert (raised.value.reason, raised.value.provider) == (Reason.PROVIDER_PROTOCOL_ERROR, "anthropic")
    assert len(raised.value.attempts) == 2


class TokenEndpoint:
    """Google's token endpoint."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.answer: dict[str, Any] = {"access_token": "bought-token", "expires_in": 3600}
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        return web.json_response(self.answer, status=200 if "access_token" in self.answer else 400)


@pytest.fixture
async def token_endpoint() -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    app = web.Application()
    app.router.add_post("/token", endpoint.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    endpoint.url = f"http://{host}:{port}/token"
    yield endpoint
    await runner.cleanup()


@pytest.fixture(scope="module")
def account() -> GoogleServiceAccount:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return GoogleServiceAccount("me@my-project.example", Secret(key.decode()), "1", "my-project")


def vertex(sandbox: Sandbox, endpoint: TokenEndpoint, account: GoogleServiceAccount) -> GenerationCall:
    route = resolve(moved("vertex", sandbox), Target(provider="vertex", model="sandbox/echo"), keyed("vertex", account))
    auth = msgspec.structs.replace(route.provider.auth, token_url=endpoint.url)
    route = msgspec.structs.replace(route, provider=msgspec.structs.replace(route.provider, auth=auth))
    return generation_of(route)


async def test_a_service_account_buys_one_token_for_many_calls(
    dispatcher: Dispatcher, sandbox: Sandbox, token_endpoint: TokenEndpoint, account: GoogleServiceAccount
) -> None:
    """Concurrent calls share one purchase, later ones the token; the assertion is for the row's endpoint."""
    await asyncio.gather(*(dispatcher.generate(vertex(sandbox, token_endpoint, account)) for _ in range(5)))
    await dispatcher.generate(vertex(sandbox, token_endpoint, account))
    (asked,) = token_endpoint.asked
    assert asked["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    payload = asked["assertion"].split(".")[1]
    import base64  # noqa: PLC0415 - here alone

    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (claims["iss"], claims["aud"]) == ("me@my-project.example", token_endpoint.url)


async def test_a_refused_service_account_is_an_invalid_credential(
    dispatcher: Dispatcher, sandbox: Sandbox, token_endpoint: TokenEndpoint, account: GoogleServiceAccount
) -> None:
    """What the token endpoint refuses is the caller's key, and the call is not made."""
    token_endpoint.answer = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    before = len(list(sandbox.journal))
    with pytest.raises(DispatchError) as raised:
        await dispatcher.generate(vertex(sandbox, token_endpoint, account))
    assert raised.value.reason is Reason.INVALID_CREDENTIAL
    assert len(list(sandbox.journal)) == before


PKCS8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
UNENCRYPTED = serialization.NoEncryption()
NO_KEYS = {
    "no PEM": "no key",
    "not RSA": ec.generate_private_key(ec.SECP256R1()).private_bytes(*PKCS8, UNENCRYPTED).decode(),
    "encrypted": ec.generate_private_key(ec.SECP256R1())
    .private_bytes(*PKCS8, serialization.BestAvailableEncryption(b"x"))
    .decode(),
}


@pytest.mark.parametrize("key", NO_KEYS)
async def test_a_key_that_is_none_is_an_invalid_credential(
    dispatcher: Dispatcher, sandbox: Sandbox, token_endpoint: TokenEndpoint, key: str
) -> None:
    """A private key that cannot be used is told apart from a failure of the provider."""
    broken = GoogleServiceAccount("me@my-project.example", Secret(NO_KEYS[key]), "1", "my-project")
    with pytest.raises(DispatchError) as raised:
        await dispatcher.generate(vertex(sandbox, token_endpoint, broken))
    assert raised.value.reason is Reason.INVALID_CREDENTIAL
    assert token_endpoint.asked == []
