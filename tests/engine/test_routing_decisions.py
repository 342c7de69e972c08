from __future__ import annotations

import collections
import functools
import pathlib

import msgspec
import pytest
from keyswitch_engine.claims import folded
from keyswitch_engine.credential import (
    ApiKey,
    AwsBearerToken,
    AzureApiKey,
    BearerToken,
    CloudflareToken,
    Credential,
    GoogleAccessToken,
    NoCredential,
    PlatformConsent,
    ProviderCredential,
    secrets_of,
)
from keyswitch_engine.custom_endpoint import CustomEndpoint
from keyswitch_engine.dialects.base import Dialect
from keyswitch_engine.errors import DispatchError
from keyswitch_engine.operator import Caller
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, PolicyTable, VirtualModelTable, govern
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.routing_preferences import Preferences
from keyswitch_engine.secret import Secret

FOLDER = pathlib.Path(__file__).parent / "decisions"


class ExpectedRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a request goes; what is None is not looked at."""

    provider: str
    model: str
    dialect: str | None = None
    host: str | None = None
    url: str | None = None
    """Where the request is sent."""
    credential: str | None = None
    """`caller`, `platform` or `none`."""
    billing: str | None = None
    """`BYOK` or `PLATFORM`."""


class ExpectedError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it goes nowhere; what is None is not looked at."""

    reason: str
    field: str | None = None
    provider: str | None = None
    """The one that the error is about."""
    names: tuple[str, ...] = ()
    """What the message names, in this order."""
    unsaid: tuple[str, ...] = ()
    """What the message does not say."""


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint of the caller's own; its key is `none` if it says so."""

    base_url: str
    model: str = "my-model"
    dialect: str = "openai-chat"
    label: str = "mine"
    key: str = "key-of-the-endpoint"


class OperatorFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator lays down, for tests: as in its settings, with the providers that it has keys for."""

    platform_keys: tuple[str, ...]
    menus: dict[str, MenuTable] = {}
    virtual_models: dict[str, VirtualModelTable] = {}
    policy: PolicyTable = PolicyTable()


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table: a request, and what routing.md says of it."""

    why: str
    provider: str
    model: str
    keys: tuple[str, ...]
    dialect: str = ""
    region: str = ""
    label: str = ""
    """Label of the credential to use."""
    consent: tuple[str, ...] = ()
    """Providers that the request consents to the operator's key for; `*` is every one. `name@label` has a label."""
    routing: Preferences = Preferences()
    """Wishes about the hosts behind a router."""
    tenant: str = ""
    operator: str = ""
    """Table of `operators/NAME.toml` that the operator lays down; empty for none at all."""
    rows: str = ""
    """Folder `rows/NAME` of the operator's own provider files; empty for the built-in ones alone."""
    endpoint: Endpoint | None = None
    """A custom endpoint, in place of provider and model."""
    route: ExpectedRoute | None = None
    error: ExpectedError | None = None
    disagrees: bool = False
    """The code does not do yet what the row says."""


class DecisionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of them."""

    decision: tuple[Decision, ...]


TABLE = {
    path.stem: msgspec.toml.decode(path.read_bytes(), type=DecisionFile).decision for path in FOLDER.glob("*.toml")
}
ROWS = [
    pytest.param(
        row,
        id=f"{name}:{number}",
        marks=[pytest.mark.xfail(strict=True, raises=AssertionError, reason=row.why)] if row.disagrees else [],
    )
    for name, rows in sorted(TABLE.items())
    for number, row in enumerate(rows, 1)
]


@functools.cache
def registry(operator: str, own_rows: str) -> Registry:
    """Return the registry with the operator's own rows, under what it lays down."""
    rows = load([FOLDER / "rows" / own_rows] if own_rows else [])
    if not operator:
        return rows
    file = msgspec.toml.decode((FOLDER / "operators" / f"{operator}.toml").read_bytes(), type=OperatorFile)
    keys = {name: platform_key(name) for name in file.platform_keys}
    return govern(rows, OperatorTables(file.menus, file.virtual_models, file.policy), keys)


def platform_key(name: str) -> Credential:
    """Return the operator's key for a provider."""
    credential = key_for(folded(name), "canary-of-the-operator-for").credential
    assert not isinstance(credential, PlatformConsent)
    return credential


def key_for(name: str, canary: str = "canary-for") -> ProviderCredential:
    """Return a credential of the kind that the provider of that name takes; `name@label` has a label."""
    name, _, label = name.partition("@")
    secret = Secret(f"{canary}-{name}")
    credential: Credential
    match name.lower().replace("_", "-"):
        case "aws" | "amazon-bedrock" | "bedrock":
            credential = AwsBearerToken(secret)
        case "azure" | "azure-ai" | "azure-openai" | "azureopenai":
            credential = AzureApiKey(secret, "my-resource")
        case "cf" | "cloudflare" | "cloudflare-ai-gateway" | "workers-ai":
            credential = CloudflareToken(secret, "my-account")
        case "google-cloud" | "google-vertex" | "vertex" | "vertexai":
            credential = GoogleAccessToken(secret, "my-project")
        case "copilot" | "github-copilot":
            credential = BearerToken(secret)
        case "databricks" | "snowflake":
            credential = ApiKey(secret, "my-organization")
        case _:
            credential = ApiKey(secret)
    return ProviderCredential(name, credential, label)


def consent_to(name: str) -> ProviderCredential:
    """Return the consent to the operator's key for a provider, or for every one."""
    provider, _, label = name.partition("@")
    return ProviderCredential("" if provider == "*" else provider, PlatformConsent(), label)


def decide(row: Decision, *, backwards: bool) -> Route[Dialect] | DispatchError:
    """Return the route or the error for a row's request, its credentials in one order or the other."""
    endpoint = None
    if row.endpoint is not None:
        key = NoCredential() if row.endpoint.key == "none" else ApiKey(Secret(row.endpoint.key))
        endpoint = CustomEndpoint(
            row.endpoint.base_url, row.endpoint.model, key, row.endpoint.label, row.endpoint.dialect
        )
    target = Target(
        provider=row.provider,
        model=row.model,
        dialect=row.dialect,
        region=row.region,
        credential_label=row.label,
        routing=row.routing.wishes,
        custom_endpoint=endpoint,
    )
    credentials = [*map(key_for, row.keys), *map(consent_to, row.consent)]
    try:
        return resolve(
            registry(row.operator, row.rows),
            target,
            credentials[::-1] if backwards else credentials,
            Caller(tenant=row.tenant),
        )
    except DispatchError as error:
        return error


def test_the_table_is_large_and_says_one_thing_a_row() -> None:
    """There are at least 300 rows, each expects a route or an error, and none asks what another asks already."""
    rows = [row for rows in TABLE.values() for row in rows]
    assert len(rows) >= 300
    for row in rows:
        assert (row.route is None) != (row.error is None), row
    asked = collections.Counter(
        str(msgspec.structs.replace(row, why="", route=None, error=None, disagrees=False, keys=tuple(sorted(row.keys))))
        for row in rows
    )
    assert [request for request, count in asked.items() if count > 1] == []


@pytest.mark.parametrize("row", ROWS)
def test_routing_decides_as_the_design_says(row: Decision) -> None:
    """A request goes where the table says or fails as it says, in whatever order the keys come, and shows no key."""
    said = set()
    for backwards in (False, True):
        outcome = decide(row, backwards=backwards)
        said.add(check(row, outcome))
        for canary in ("canary-for-", "canary-of-the-operator", "key-of-the-endpoint"):
            assert canary not in f"{outcome} {outcome!r}"
    assert len(said) == 1


def check(row: Decision, outcome: Route[Dialect] | DispatchError) -> tuple[str, ...]:
    """Compare a decision with the row, and return all of it that must not depend on the order of keys."""
    if isinstance(outcome, DispatchError):
        assert row.error is not None, f"{row.why}: {outcome.reason.value}, {outcome}"
        expected = row.error
        assert outcome.reason.value == expected.reason, row.why
        assert expected.field in (None, outcome.field), row.why
        assert expected.provider in (None, outcome.provider), row.why
        assert ", ".join(expected.names) in outcome.message, row.why
        assert [words for words in expected.unsaid if words in outcome.message] == [], row.why
        return outcome.reason.value, outcome.provider, outcome.message
    surface = outcome.surface
    decided = {
        "provider": outcome.provider.id,
        "model": outcome.model,
        "dialect": surface.dialect.name,
        "host": surface.origin_host,
        "url": surface.base_url + surface.profile.path,
        "credential": outcome.credential_source.name.lower(),
        "billing": outcome.billing.name,
    }
    secrets = [secret.reveal() for secret in secrets_of(outcome.credential)]
    match decided["credential"]:  # the credential is that of the provider that was found, of whoever pays
        case "platform":
            own = [f"canary-of-the-operator-for-{name}" for name in known_as(outcome.provider)]
        case "caller" if row.endpoint is not None:
            own = [row.endpoint.key]
        case "caller":
            own = [f"canary-for-{name.partition('@')[0]}" for name in row.keys]
            own = [canary for canary in own if folded(canary.removeprefix("canary-for-")) in known_as(outcome.provider)]
        case _:
            own = []
    assert set(secrets) <= set(own), row.why
    assert (decided["billing"] == "PLATFORM") == (decided["credential"] == "platform"), row.why
    assert row.route is not None, f"{row.why}: {decided}"
    wanted = {name: value for name, value in msgspec.structs.asdict(row.route).items() if value is not None}
    assert {name: decided[name] for name in wanted} == wanted, row.why
    return tuple(decided.values())


def known_as(provider: Provider) -> set[str]:
    """Return every name of a provider."""
    return {provider.id, *map(folded, provider.aliases)}


def test_a_tag_makes_a_bare_id_nobodys_but_of_vendors_that_have_colons_themselves() -> None:
    """`name:tag` is Ollama's form, so no vendor's matcher takes its own ids with one, except OpenAI's and Bedrock's."""
    takers = {
        row.id
        for row in registry("", "").providers.values()
        for model in row.models
        if "/" not in model and any(matcher.search(f"{model}:7b") for matcher in row.matchers)
    }
    assert takers == {"openai", "bedrock"}
