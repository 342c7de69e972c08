from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from keyswitch_engine.credential import ApiKey, NoCredential, ProviderCredential
from keyswitch_engine.custom_endpoint import CustomEndpoint
from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.operator_tables import OperatorTables, VirtualModelTable, govern
from keyswitch_engine.registry import Registry, RegistryError, load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.routing_preferences import MaxPrice, Preferences, merged
from keyswitch_engine.secret import Secret

ROW = """schema = 1
id = "acme"
name = "Acme"
base_url = "https://acme.example/v1"
default_model = "plain"

[[dialects]]
name = "openai-chat"
path = "/chat/completions"
routing_preferences = "openrouter"
routing = { data_collection = "deny", only = ["provider"], max_price = { prompt = 1 } }
[dialects.compatibility]
system_role = "developer"
reasoning_control = "object"
seed_field = "none"

[[dialects.model_overrides]]
model = "^think"
compatibility = { reasoning_control = "thinking", seed_field = "random_seed" }
routing = { only = ["model"], zdr = true }

[[dialects.model_overrides]]
model = "-mini$"
compatibility = { seed_field = "seed" }
"""
VIRTUAL = VirtualModelTable(
    "acme",
    "think-mini",
    Preferences(only=("virtual",), max_price=MaxPrice(completion=2.0)),
    {"system_role": "system"},
)


@pytest.fixture
def rows(tmp_path: pathlib.Path) -> Registry:
    (tmp_path / "acme.toml").write_text(ROW)
    return govern(load([tmp_path]), OperatorTables(virtual_models={"v": VIRTUAL}), {})


def decided(rows: Registry, model: str, **target: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flags in force that the row speaks of, and what the router is told."""
    key = ProviderCredential("acme", ApiKey(Secret("k")))
    route = resolve(rows, Target(provider="acme", model=model, **target), [key])
    flags = route.surface.profile.flags
    shown = {name: getattr(flags, name) for name in ("system_role", "reasoning_control", "seed_field")}
    return shown, json.loads(route.options_json or "{}").get("provider", {})


def test_flags_and_wishes_go_from_provider_to_model_to_virtual_model_to_request(rows: Registry) -> None:
    """Each level overrides the one before it key by key: tables are merged, lists replaced, later overrides win."""
    provider = {"data_collection": "deny", "only": ["provider"], "max_price": {"prompt": 1.0}}
    assert decided(rows, "plain") == (
        {"system_role": "developer", "reasoning_control": "object", "seed_field": "none"},
        provider,
    )
    assert decided(rows, "think") == (
        {"system_role": "developer", "reasoning_control": "thinking", "seed_field": "random_seed"},
        provider | {"only": ["model"], "zdr": True},
    )
    assert decided(rows, "think-mini")[0]["seed_field"] == "seed"
    virtual = provider | {"only": ["virtual"], "zdr": True, "max_price": {"prompt": 1.0, "completion": 2.0}}
    assert decided(rows, "v") == (
        {"system_role": "system", "reasoning_control": "thinking", "seed_field": "seed"},
        virtual,
    )
    asked: dict[str, Any] = {"compatibility": {"system_role": "developer"}, "routing": {"only": ["request"]}}
    assert decided(rows, "v", **asked) == (
        {"system_role": "developer", "reasoning_control": "thinking", "seed_field": "seed"},
        virtual | {"only": ["request"]},
    )


@pytest.mark.parametrize(
    ("file", "asked", "sent"),
    [
        ('sort = "price"', {"sort": {"by": "latency"}}, {"sort": {"by": "latency"}}),
        ('sort = { by = "price" }', {"sort": "latency"}, {"sort": "latency"}),
        ('sort = { by = "price" }', {"sort": {"partition": "none"}}, {"sort": {"by": "price", "partition": "none"}}),
        (
            "preferred_max_latency = { p50 = 1, p90 = 5 }",
            {"preferred_max_latency": {"p90": 3.0, "p99": 9.0}},
            {"preferred_max_latency": {"p50": 1.0, "p90": 3.0, "p99": 9.0}},
        ),
        (
            "preferred_min_throughput = 40",
            {"preferred_min_throughput": {"p50": 50.0}},
            {"preferred_min_throughput": {"p50": 50.0}},
        ),
        ("max_price = { audio = 1 }", {"max_price": {"prompt": 2.0}}, {"max_price": {"audio": 1.0, "prompt": 2.0}}),
    ],
)
def test_a_wish_in_another_form_replaces_and_a_table_merges(
    tmp_path: pathlib.Path, file: str, asked: dict[str, Any], sent: dict[str, Any]
) -> None:
    """A word or number over a table, or a table over those, is the later level's alone; tables merge in their turn."""
    row, _, _ = ROW.partition("[[dialects.model_overrides]]")
    said = 'data_collection = "deny", only = ["provider"], max_price = { prompt = 1 }'
    assert said in row
    (tmp_path / "acme.toml").write_text(row.replace(said, file))
    assert decided(load([tmp_path]), "plain", routing=asked)[1] == sent


def test_an_endpoints_flags_lie_between_the_dialects_and_the_requests() -> None:
    """A custom endpoint says how it differs, and the request has the last word."""
    endpoint = CustomEndpoint(
        "https://mine.example", "m", NoCredential(), compatibility={"system_role": "developer", "seed_field": "none"}
    )
    target = Target(custom_endpoint=endpoint, compatibility={"seed_field": "random_seed"})
    flags = resolve(load(), target, []).surface.profile.flags
    assert flags == ChatFlags(system_role="developer", seed_field="random_seed")


def test_a_virtual_models_wishes_need_a_dialect_that_takes_them(tmp_path: pathlib.Path) -> None:
    """Where its provider takes no wishes in the dialect that a request chooses, the choice is what is wrong."""
    (tmp_path / "acme.toml").write_text(ROW + '\n[[dialects]]\nname = "openai-responses"\npath = "/responses"\n')
    virtual = VirtualModelTable("acme", "plain", Preferences(only=("virtual",)))
    rows = govern(load([tmp_path]), OperatorTables(virtual_models={"v": virtual}), {})
    with pytest.raises(DispatchError) as raised:
        decided(rows, "v", dialect="openai-responses")
    assert (raised.value.reason, raised.value.field) == (Reason.INVALID_REQUEST, "target.dialect")


def test_a_flag_that_the_dialect_has_not_is_the_requests_fault(rows: Registry) -> None:
    """An override that means nothing is refused by its name, without its value."""
    for compatibility in ({"think_harder": "canary"}, {"system_role": "canary"}):
        with pytest.raises(DispatchError) as raised:
            decided(rows, "plain", compatibility=compatibility)
        assert (raised.value.reason, raised.value.field) == (Reason.INVALID_REQUEST, "target.compatibility")
        assert "canary" not in raised.value.message


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('seed_field = "random_seed" }', 'seed_feld = "x" }', "dialects[0].model_overrides[0].compatibility.seed_feld"),
        ('model = "^think"', 'model = "("', "dialects[0].model_overrides[0].model"),
        ('routing = { only = ["model"], zdr = true }', "routing = { fallbacks = 1 }", "routing.fallbacks"),
        ('routing_preferences = "openrouter"', "", "dialects[0].routing.only: without routing_preferences nobody"),
        (
            'routing_preferences = "openrouter"',
            'routing_preferences = "vercel"',
            "dialects[0].routing.data_collection: the router vercel takes no such wish",
        ),
        ('data_collection = "deny"', 'data_collection = "maybe"', "dialects[0].routing.data_collection"),
        ('data_collection = "deny"', 'sort = "luck"', "dialects[0].routing.sort: "),
        (
            'data_collection = "deny"',
            'sort = { by = "price", partition = "all" }',
            "dialects[0].routing.sort.partition: ",
        ),
        ('data_collection = "deny"', "preferred_max_latency = inf", "dialects[0].routing.preferred_max_latency: "),
        ('data_collection = "deny"', "preferred_max_latency = { p50 = -1 }", "routing.preferred_max_latency.p50: "),
        ('data_collection = "deny"', "preferred_min_throughput = { p98 = 1 }", "preferred_min_throughput.p98: "),
        ("max_price = { prompt = 1 }", "max_price = { audio = nan }", "dialects[0].routing.max_price.audio: "),
    ],
)
def test_a_level_that_means_nothing_refuses_to_load(tmp_path: pathlib.Path, old: str, new: str, where: str) -> None:
    """What a file says of models or routing is checked like the rest, by file, line and key."""
    assert old in ROW
    (tmp_path / "acme.toml").write_text(ROW.replace(old, new))
    with pytest.raises(RegistryError) as raised:
        load([tmp_path])
    assert "acme.toml:" in str(raised.value)
    assert where in str(raised.value)


def test_tables_merge_and_lists_are_replaced() -> None:
    """Merging changes none of its arguments."""
    first, second = {"a": {"x": 1, "y": [1]}, "b": [1]}, {"a": {"y": [2]}, "b": []}
    assert merged(first, second) == {"a": {"x": 1, "y": [2]}, "b": []}
    assert first == {"a": {"x": 1, "y": [1]}, "b": [1]}
