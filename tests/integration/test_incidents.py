"""What happened to other gateways with secrets, accounts, pools and logs, each as a test of the rule that prevents it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
from aiohttp import web
from canaries import canary, found
from keyswitch.v1 import dispatch_service_pb2, registry_service_pb2
from keyswitch_client import AsyncClient, KeyswitchError
from keyswitch_engine import registry
from keyswitch_engine.auth.google import GoogleTokens
from keyswitch_engine.cost import PriceTable
from keyswitch_engine.credential import (
    ApiKey,
    AwsBearerToken,
    AzureApiKey,
    BearerToken,
    CloudflareToken,
    Credential,
    GoogleAccessToken,
    ProviderCredential,
)
from keyswitch_engine.dispatch import write_request
from keyswitch_engine.embeddings import EmbeddingInput
from keyswitch_engine.events import Usage
from keyswitch_engine.fingerprint import Fingerprints
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing
from keyswitch_engine.secret import Secret
from keyswitch_sandbox import Sandbox
from keyswitch_server.logging import ALLOWED
from support import EGRESS, ServerProcess, http_provider, server_process

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Upstream:
    """A provider that echoes what was said, and remembers who asked over which connection."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, int]] = []
        self.usage: Mapping[str, int] | None = {"prompt_tokens": 3, "completion_tokens": 1}

    async def answer(self, http: web.Request) -> web.Response:
        body = await http.json()
        said = body["messages"][-1]["content"]
        text = said if isinstance(said, str) else said[0]["text"]
        headers = json.dumps(dict(http.headers))
        self.seen.append((http.headers.get("Authorization", ""), text, f"{http.path_qs} {headers}", id(http.transport)))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({"id": "1", "model": "m", "choices": [choice], "usage": self.usage})


@contextlib.asynccontextmanager
async def served(folder: pathlib.Path, **env: str) -> AsyncIterator[tuple[AsyncClient, Upstream, ServerProcess]]:
    """Run a server whose sandbox is an upstream that remembers."""
    upstream = Upstream()
    async with http_provider(upstream.answer) as url:
        settings = {**EGRESS, "KEYSWITCH_SANDBOX_URL": url, "KEYSWITCH_LOG_LEVEL": "debug", **env}
        async with server_process(folder, settings) as server, AsyncClient(server.address, timeout=20.0) as client:
            yield client, upstream, server


async def test_no_key_of_the_environment_serves_a_caller(tmp_path: pathlib.Path) -> None:
    """LiteLLM #31467, a missing key taken from the server's environment: what a caller did not send is missing."""
    env = {name: "c4n4ry-of-the-operator" for row in registry.load().providers.values() for name in row.key_variables}
    async with served(tmp_path, SANDBOX_API_KEY="c4n4ry-of-the-operator", **env) as (client, upstream, _):
        for provider in ("sandbox", "openai", "anthropic", "gemini"):
            with pytest.raises(KeyswitchError) as raised:
                await client.generate(provider=provider, messages="hi")
            assert raised.value.reason == "MISSING_CREDENTIAL"
        assert upstream.seen == []


@pytest.mark.parametrize(
    "options",
    [
        {"api_base": "http://127.0.0.1:1", "base_url": "http://127.0.0.1:1", "api_key": "other"},
        {"extra_headers": {"Authorization": "Bearer other"}, "headers": {"Authorization": "Bearer other"}},
        {"litellm_params": {"api_base": "http://127.0.0.1:1", "nested": {"api_key": "other", "proxy": "http://x"}}},
        {"user_config": {"model_list": [{"api_base": "http://127.0.0.1:1"}]}, "organization": "other"},
    ],
)
async def test_options_change_neither_address_nor_credential(tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    """LiteLLM GHSA-jh89-88fc-qrfp and #26996, addresses smuggled in nested parameters: options are body and no more."""
    async with served(tmp_path) as (client, upstream, _):
        answer = await client.generate(
            model="sandbox/echo", credentials={"sandbox": "own"}, messages="hi", options=options
        )
        ((key, _, where, _),) = upstream.seen
        assert (key, answer.receipt.attempts[0].origin_host.split(":")[0]) == ("Bearer own", "127.0.0.1")
        assert where.startswith("/v1/chat/completions ")
        assert "other" not in where


async def test_every_rpc_with_a_key_checks_it(client: AsyncClient) -> None:
    """LiteLLM #37053, a guard that nobody called: each rpc that takes credentials refuses one that no header can be."""
    bad = {"sandbox": "bad\r\nkey"}
    calls = {
        "Generate": lambda: client.generate(model="sandbox/echo", credentials=bad, messages="x"),
        "StreamGenerate": lambda: client.stream(model="sandbox/echo", credentials=bad, messages="x").final(),
        "ExplainRoute": lambda: client.explain(model="sandbox/echo", credentials=bad, messages="x"),
        "CountTokens": lambda: client.count_tokens(model="sandbox/echo", credentials=bad, messages="x"),
        "Embed": lambda: client.embed(["x"], model="sandbox/echo", credentials=bad),
        "ListProviderModels": lambda: client.provider_models("sandbox", credentials=bad),
        "ValidateCredential": lambda: client.validate_credential("sandbox", credentials=bad),
    }
    service = dispatch_service_pb2.DESCRIPTOR.services_by_name["DispatchService"]
    assert calls.keys() == {method.name for method in service.methods}
    for call in calls.values():
        with pytest.raises(KeyswitchError) as raised:
            await call()
        assert raised.value.reason == "INVALID_REQUEST"
        assert raised.value.violations[0][0].endswith("api_key.key")


async def test_a_callers_key_serves_nobody_else(tmp_path: pathlib.Path) -> None:
    """LiteLLM #36794, a request's key kept as a shared deployment: it ends with its call, though its connection does not."""
    async with served(tmp_path) as (client, upstream, _):
        before = await client.registry_info()
        for key in ("first", "second"):
            await client.generate(model="sandbox/echo", credentials={"sandbox": key}, messages=key)
        with pytest.raises(KeyswitchError) as raised:
            await client.generate(model="sandbox/echo", messages="third")
        assert raised.value.reason == "MISSING_CREDENTIAL"
        assert [seen[:2] for seen in upstream.seen] == [("Bearer first", "first"), ("Bearer second", "second")]
        assert upstream.seen[0][3] == upstream.seen[1][3]  # one connection, since only the request is authenticated
        assert await client.registry_info() == before


async def test_tokens_are_known_by_all_of_their_key() -> None:
    """CVE-2026-35030, a cache keyed by the first characters of a token: keys that differ at their end are others."""
    from keyswitch_engine.credential import GoogleServiceAccount  # noqa: PLC0415 - for this one alone

    keys = [Secret("-----BEGIN PRIVATE KEY-----" + "A" * 2000 + end) for end in "xy"]
    first, second = (GoogleServiceAccount("one@p.example", key, "id", "p") for key in keys)
    kept = GoogleTokens(lambda *_: pytest.fail("nothing is bought"))  # type: ignore[arg-type] # never called
    bought: dict[bytes, Secret] = {}

    async def buy(known_by: bytes, account: GoogleServiceAccount, url: str) -> Secret:
        return bought.setdefault(known_by, Secret(str(len(bought))))

    kept._buy = buy  # type: ignore[method-assign] # the key of the cache is what is looked at
    assert await kept.token(first, "u") != await kept.token(second, "u")
    assert await kept.token(first, "u") != await kept.token(first, "elsewhere")
    prints = Fingerprints()
    assert prints.of(ApiKey(Secret("k" * 100 + "1"))) != prints.of(ApiKey(Secret("k" * 100 + "2")))


def test_no_rpc_changes_what_the_server_is() -> None:
    """CVE-2026-35029, configuration that any caller could update: the data port only dispatches and tells."""
    methods = {
        method.name
        for module in (dispatch_service_pb2, registry_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    verbs = {re.match(r"[A-Z][a-z]+", name)[0] for name in methods}  # type: ignore[index] # each has one
    assert verbs <= {"Generate", "Stream", "Embed", "Count", "Explain", "List", "Get", "Validate"}


def test_what_is_installed_is_pinned_by_hash() -> None:
    """LiteLLM 1.82.7, a release with a stealer in it: every dependency has hashes, and no index but the installer's own."""
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        text = file.read_text()
        assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)|://", text, re.MULTILINE), (
            file
        )
        for entry in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip()):
            assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry
            assert "--hash=sha256:" in entry, entry
    installs = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line and "-r " in line
    ]
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_the_wheel_runs_nothing_by_itself(tmp_path: pathlib.Path) -> None:
    """LiteLLM 1.82.8, a `.pth` file that ran with every Python: the wheel has our packages, one script, and no hook."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".pth", ".so", ".sh", "sitecustomize.py", "usercustomize.py"))]
    assert not [name for name in names if ".data/" in name]
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "keyswitch", "keyswitch_engine", "keyswitch_bridge", "keyswitch_server", "keyswitch_sandbox",
        "keyswitch_client", "keyswitch_cli", "keyswitch-0.1.0.dist-info",
    }  # fmt: skip


SECRET = Secret("c4n4ry-of-a-caller-0123456789")
CREDENTIALS: dict[str, Credential] = {
    "api_key": ApiKey(SECRET),
    "bearer_token": BearerToken(SECRET),
    "aws": AwsBearerToken(SECRET),
    "azure": AzureApiKey(SECRET, "my-resource"),
    "google": GoogleAccessToken(SECRET, "my-project"),
    "cloudflare": CloudflareToken(SECRET, "my-account", "my-gateway"),
}
ROWS = registry.load()
GENERATION = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))


@pytest.mark.parametrize("provider", sorted(ROWS.providers))
def test_a_key_is_never_part_of_a_url(provider: str) -> None:
    """Gemini keys in URLs, and so in five gateways' logs: no request of any provider, dialect or kind of key has one."""
    row = ROWS.providers[provider]
    urls = []
    for kind in set(row.auth.accepts) & CREDENTIALS.keys():
        takes_organization = row.auth.organization_header or "organization" in row.parameters
        organized = kind == "api_key" and takes_organization
        keys = [ProviderCredential(provider, ApiKey(SECRET, "my-org") if organized else CREDENTIALS[kind])]
        for surface in row.dialects:
            target = Target(provider=provider, model="some-model", dialect=surface.dialect.name)
            for stream in (False, True):
                route = resolve(ROWS, target, keys)
                request = write_request(route, GENERATION, stream=stream)
                urls.append(
                    route.surface.base_url + request.path + json.dumps(request.headers | dict(route.surface.headers))
                )
        if row.embeddings is not None:
            embedding = resolve_embeddings(ROWS, Target(provider=provider, model="some-model"), keys)
            spoken = embedding.surface
            requests = spoken.dialect.requests(EmbeddingInput(("x",)), embedding.model, spoken.profile, "")
            urls += [spoken.base_url + each.path for each in requests]
        if row.model_listing is not None:
            listed = resolve_model_listing(ROWS, Target(provider=provider), keys[0])
            urls.append(listed.surface.base_url + listed.surface.dialect.request(listed.surface.profile).path)
    assert not [url for url in urls if found("url", url)]
    assert row.auth.accepts == ("none",) or urls


async def test_nothing_is_logged_that_nobody_chose(tmp_path: pathlib.Path) -> None:
    """LiteLLM's raw headers in guardrail logs and spans: lines have listed fields alone, and nothing that was said or sent."""
    async with served(tmp_path) as (client, _, server):
        for stream in (False, True):
            key = canary()
            arguments: dict[str, Any] = {
                "model": "sandbox/echo",
                "credentials": {"sandbox": key},
                "messages": "PROMPT-1",
            }
            with contextlib.suppress(KeyswitchError):
                await (
                    client.stream(**arguments).final() if stream else client.generate(**arguments, system="PROMPT-2")
                )
    lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in server.log.read_text().splitlines()]
    assert len([line for line in lines if line["event"] == "call"]) == 2
    assert not [line for line in lines if line.keys() - ALLOWED or "fields_dropped" in line]
    assert not re.search(r"PROMPT|uthorization|user-agent|x-api-key", server.log.read_text())
    assert not found("log", server.log.read_text())


async def test_answers_are_never_mixed_up(sandbox: Sandbox, client: AsyncClient) -> None:
    """Bifrost #4678, a buffer released twice that showed one caller another's answer: each gets its own, whoever leaves."""

    async def ask(number: int) -> None:
        words = " ".join(f"word{number}x{place}" for place in range(30))
        key = f"key-of-{number}"
        stream = client.stream(model="sandbox/echo", credentials={"sandbox": key}, messages=words)
        if number % 3 == 0:  # leaves in the middle, and the connection with it
            async with stream:
                async for text in stream.text_deltas():
                    assert words.startswith(text)
                    break
            return
        assert (await stream.final()).text == words
        whole = await client.generate(model="sandbox/echo", credentials={"sandbox": key}, messages=words)
        assert whole.text == words

    await asyncio.gather(*(ask(number) for number in range(150)))


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
async def test_what_nobody_counted_is_not_free(tmp_path: pathlib.Path, usage: Mapping[str, int] | None) -> None:
    """LiteLLM #37923, streams that cost nothing since nobody counted: no counts are no cost, never a cost of zero."""
    async with served(tmp_path) as (client, upstream, _):
        upstream.usage = usage
        for stream in (False, True):
            arguments: Any = {"model": "sandbox/echo", "credentials": {"sandbox": "k"}, "messages": "hi"}
            answer = await (client.stream(**arguments).final() if stream else client.generate(**arguments))
            assert not answer.response.finished.HasField("cost")
            assert usage or answer.usage is None or not answer.usage.HasField("input_tokens")


def test_a_price_needs_a_count() -> None:
    """The same for a provider whose prices are known: counts that are absent or nothing but zero have no cost."""
    prices = PriceTable()
    known = prices.cost("openai", "gpt-4o", Usage(1000, 1000))
    assert known is not None
    assert known.nano_usd > 0
    for usage in (None, Usage(), Usage(0, 0), Usage(5, None), Usage(None, 5)):
        assert prices.cost("openai", "gpt-4o", usage) is None
