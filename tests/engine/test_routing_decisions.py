from __future__ import annotations

import pathlib

import msgspec
import pytest
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
from keyswitch_engine.dialects.base import Dialect
from keyswitch_engine.errors import DispatchError
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

FOLDER = pathlib.Path(__file__).parent / "decisions"


class ExpectedRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a request goes; what is None is not looked at."""

    provider: str
    model: str
    dialect: str | None = None
    host: str | None = None


class ExpectedError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it goes nowhere; what is None is not looked at."""

    reason: str
    field: str | None = None
    provider: str | None = None
    """The one that the error is about."""
    names: tuple[str, ...] = ()
    """What the message names, in this order."""


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table: a request, and what routing.md says of it."""

    why: str
    provider: str
    model: str
    keys: tuple[str, ...]
    dialect: str = ""
    region: str = ""
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


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load()


def key_for(name: str) -> ProviderCredential:
    """Return a credential of the kind that the provider of that name takes."""
    secret = Secret(f"canary-for-{name}")
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
    return ProviderCredential(name, credential)


def decide(registry: Registry, row: Decision, keys: tuple[str, ...]) -> Route[Dialect] | DispatchError:
    """Return the route or the error for a row's request with the keys in this order."""
    target = Target(provider=row.provider, model=row.model, dialect=row.dialect, region=row.region)
    try:
        return resolve(registry, target, [key_for(name) for name in keys])
    except DispatchError as error:
        return error


def test_the_table_is_large_and_says_one_thing_a_row() -> None:
    """There are at least 300 rows, each expects a route or an error, and none asks what another asks already."""
    rows = [row for rows in TABLE.values() for row in rows]
    assert len(rows) >= 300
    for row in rows:
        assert (row.route is None) != (row.error is None), row
    requests = [(row.provider, row.model, frozenset(row.keys), len(row.keys), row.dialect, row.region) for row in rows]
    assert sorted({str(request) for request in requests if requests.count(request) > 1}) == []


@pytest.mark.parametrize("row", ROWS)
def test_routing_decides_as_the_design_says(registry: Registry, row: Decision) -> None:
    """A request goes where the table says or fails as it says, in whatever order the keys come, and shows no key."""
    said = set()
    for keys in (row.keys, row.keys[::-1]):
        outcome = decide(registry, row, keys)
        said.add(check(row, outcome))
        assert "canary-for-" not in f"{outcome} {outcome!r}"
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
        return outcome.reason.value, outcome.provider, outcome.message
    surface = outcome.surface
    decided = {
        "provider": outcome.provider.id,
        "model": outcome.model,
        "dialect": surface.dialect.name,
        "host": surface.origin_host,
    }
    assert row.route is not None, f"{row.why}: {decided}"
    wanted = {name: value for name, value in msgspec.structs.asdict(row.route).items() if value is not None}
    assert {name: decided[name] for name in wanted} == wanted, row.why
    return tuple(decided.values())


def test_a_tag_makes_a_bare_id_nobodys_but_of_vendors_that_have_colons_themselves(registry: Registry) -> None:
    """`name:tag` is Ollama's form, so no vendor's matcher takes its own ids with one, except OpenAI's and Bedrock's."""
    takers = {
        row.id
        for row in registry.providers.values()
        for model in row.models
        if "/" not in model and any(matcher.search(f"{model}:7b") for matcher in row.matchers)
    }
    assert takers == {"openai", "bedrock"}
