from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from keyswitch_engine.credential import ApiKey, PlatformConsent, ProviderCredential
from keyswitch_engine.dispatch import write_request
from keyswitch_engine.embeddings import EmbeddingInput
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import Billing, ProviderState
from keyswitch_engine.generation import Generation, Message, OpaquePart, Part, ProviderTool, Role, TextPart
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, VirtualModelTable, govern
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve, resolve_embeddings
from keyswitch_engine.routing_preferences import Preferences
from keyswitch_engine.secret import Secret

CONSENT = [ProviderCredential("", PlatformConsent())]
TEXT = Part(TextPart("hi"))


@pytest.fixture(scope="module")
def registry() -> Registry:
    pinned = VirtualModelTable("openrouter", "openai/gpt-4o-mini", Preferences(only=("azure",)))
    tables = OperatorTables(
        menus={"all": MenuTable(("*",), ("openai/*", "openrouter/openai/gpt-4o-mini", "pinned", "sorted"))},
        virtual_models={
            "pinned": pinned,
            "sorted": VirtualModelTable("openrouter", "openai/gpt-4o-mini", Preferences(sort="latency")),
        },
    )
    keys = {name: ApiKey(Secret(f"key-of-{name}")) for name in ("openai", "openrouter")}
    return govern(load(), tables, keys)


@pytest.mark.parametrize(
    "options",
    [
        {"models": ["openai/o1-pro"], "route": "fallback"},
        {"plugins": [{"id": "web"}]},
        {"service_tier": "priority"},
        {"previous_response_id": "resp_1"},
        {"provider": {"only": ["gold"]}},
    ],
)
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "openrouter/openai/gpt-4o-mini", "pinned"])
def test_options_do_not_reach_the_operators_bill(registry: Registry, model: str, options: dict[str, Any]) -> None:
    """What a menu allows is a model, not what else a provider would sell or show for the operator's key."""
    target = Target(model=model, options_json=json.dumps(options))
    with pytest.raises(DispatchError) as raised:
        resolve(registry, target, CONSENT)
    assert (raised.value.reason, raised.value.field) == (Reason.PLATFORM_NOT_ALLOWED, "target.options_json")
    if "provider" not in options:
        own = [ProviderCredential(name, ApiKey(Secret("k"))) for name in ("openai", "openrouter")]
        assert resolve(registry, target, [*own, *CONSENT]).billing is Billing.BYOK


def test_embeddings_take_no_options_on_the_operators_bill_either(registry: Registry) -> None:
    """The rule is of the bill, not of the kind of call."""
    plain = Target(model="openai/text-embedding-3-small")
    route = resolve_embeddings(registry, plain, CONSENT)
    assert route.billing is Billing.PLATFORM
    assert route.surface.dialect.requests(
        EmbeddingInput(("a",)), route.model, route.surface.profile, route.options_json
    )
    with pytest.raises(DispatchError) as raised:
        resolve_embeddings(registry, Target(model=plain.model, options_json='{"a": 1}'), CONSENT)
    assert raised.value.reason is Reason.PLATFORM_NOT_ALLOWED


@pytest.mark.parametrize(
    ("generation", "field"),
    [
        (Generation((Message(Role.USER, (TEXT,)),), tools=(ProviderTool("image_generation"),)), "tools"),
        (
            Generation(
                (
                    Message(Role.USER, (TEXT,)),
                    Message(
                        Role.ASSISTANT, (Part(OpaquePart("x"), ProviderState("openai", "openai-responses", b"{}")),)
                    ),
                )
            ),
            "messages",
        ),
    ],
)
def test_tools_that_a_provider_bills_are_the_callers_to_pay(
    registry: Registry, generation: Generation, field: str
) -> None:
    """A provider's own tools, and items of theirs, go with a key of the caller's alone."""
    target = Target(model="openai/gpt-4o-mini")
    with pytest.raises(DispatchError) as raised:
        write_request(resolve(registry, target, CONSENT), generation, stream=True)
    assert (raised.value.reason, raised.value.field) == (Reason.PLATFORM_NOT_ALLOWED, field)
    if field == "tools":
        own = [ProviderCredential("openai", ApiKey(Secret("k")))]
        assert write_request(resolve(registry, target, own), generation, stream=True).body


def test_what_the_operator_pins_stays_pinned_on_its_bill(registry: Registry) -> None:
    """A request may wish what the virtual model leaves open, not what it sets; with an own key it may wish anything."""
    with pytest.raises(DispatchError) as raised:
        resolve(registry, Target(model="pinned", routing={"only": ["gold"]}), CONSENT)
    assert (raised.value.reason, raised.value.field) == (Reason.PLATFORM_NOT_ALLOWED, "target.routing.only")
    with pytest.raises(DispatchError) as raised:
        resolve(registry, Target(model="sorted", routing={"sort": {"by": "price"}}), CONSENT)
    assert (raised.value.reason, raised.value.field) == (Reason.PLATFORM_NOT_ALLOWED, "target.routing.sort_by")
    open_wish = resolve(registry, Target(model="pinned", routing={"sort": "price"}), CONSENT)
    assert json.loads(open_wish.options_json) == {"provider": {"only": ["azure"], "sort": "price"}}
    own = [ProviderCredential("openrouter", ApiKey(Secret("k")))]
    free = resolve(registry, Target(model="pinned", routing={"only": ["gold"]}), own)
    assert json.loads(free.options_json) == {"provider": {"only": ["gold"]}}


def test_what_a_file_sets_for_a_model_is_pinned_too(tmp_path: pathlib.Path) -> None:
    """On the operator's bill a provider's file has the last word at every level, for all models and for some."""
    (tmp_path / "acme.toml").write_text(
        'schema = 1\nid = "acme"\nname = "Acme"\nbase_url = "https://acme.example/v1"\n'
        '[[dialects]]\nname = "openai-chat"\npath = "/chat/completions"\nrouting_preferences = "openrouter"\n'
        'routing = { zdr = true }\n[[dialects.model_overrides]]\nmodel = "^mini$"\nrouting = { only = ["azure"] }\n'
    )
    menu = MenuTable(("*",), ("acme/*",))
    rows = govern(load([tmp_path]), OperatorTables(menus={"all": menu}), {"acme": ApiKey(Secret("k"))})
    wishes: dict[str, Any]
    for model, wishes in (("mini", {"only": ["gold"]}), ("mini", {"zdr": False}), ("other", {"zdr": False})):
        with pytest.raises(DispatchError) as raised:
            resolve(rows, Target(provider="acme", model=model, routing=wishes), CONSENT)
        field = f"target.routing.{next(iter(wishes))}"
        assert (raised.value.reason, raised.value.field) == (Reason.PLATFORM_NOT_ALLOWED, field)
    free = resolve(rows, Target(provider="acme", model="other", routing={"only": ["gold"]}), CONSENT)
    assert json.loads(free.options_json) == {"provider": {"zdr": True, "only": ["gold"]}}
