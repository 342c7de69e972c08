from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from keyswitch_engine import registry
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.errors import InvalidRequest, Reason, Unavailable
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve, resolve_embeddings
from keyswitch_engine.secret import Secret

HELLO = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))
FULL = {
    "order": ["amazon-bedrock", "anthropic"],
    "only": ["amazon-bedrock"],
    "ignore": ["azure"],
    "allow_fallbacks": False,
    "require_parameters": True,
    "data_collection": "deny",
    "zdr": True,
    "enforce_distillable_text": False,
    "quantizations": ["fp8"],
    "sort": "price",
    "max_price": {"prompt": 1.5},
    "preferred_min_throughput": 50.0,
    "preferred_max_latency": 2.0,
}


def route(provider: str, rows: registry.Registry | None = None, **target: Any) -> Route[Any]:
    key = ProviderCredential(provider, ApiKey(Secret("k")))
    return resolve(rows or registry.load(), Target(provider=provider, model="a/b", **target), [key])


def sent(found: Route[Any]) -> dict[str, Any]:
    """Return the body that a route leads to."""
    surface = found.surface
    request = surface.dialect.request(HELLO, found.model, surface.profile, found.options_json, stream=True)
    body: dict[str, Any] = json.loads(request.body)
    return body


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages"])
def test_openrouter_gets_the_whole_object_as_it_was_given(dialect: str) -> None:
    """In every dialect the preferences are the field `provider`, in the caller's order, and nothing is added."""
    body = sent(route("openrouter", dialect=dialect, routing=FULL, options_json='{"transforms":["x"],"n":1}'))
    assert body["provider"] == FULL
    assert list(body["provider"]) == list(FULL)
    assert (body["transforms"], body["n"]) == (["x"], 1)


@pytest.mark.parametrize("wishes", [{"order": ["a", "b"]}, {"only": ["a"]}, {"only": ["a"], "order": ["b"]}])
@pytest.mark.parametrize(
    ("provider", "place"), [("openrouter", ["provider"]), ("vercel-gateway", ["providerOptions", "gateway"])]
)
def test_an_order_and_a_limit_are_never_guessed_from_each_other(
    provider: str, place: list[str], wishes: dict[str, list[str]]
) -> None:
    """What was given is sent, alone if it came alone."""
    found: Any = sent(route(provider, routing=wishes))
    for name in place:
        found = found[name]
    assert found == wishes


def test_without_preferences_nothing_is_sent() -> None:
    """The router's defaults stay its own."""
    assert not {"provider", "providerOptions"} & sent(route("openrouter")).keys()


@pytest.mark.parametrize("name", sorted(FULL.keys() - {"order", "only"}))
def test_what_a_router_cannot_be_told_is_refused_by_name(name: str) -> None:
    """Vercel's gateway takes an order and a limit."""
    with pytest.raises(Unavailable) as raised:
        route("vercel-gateway", routing={name: FULL[name]})
    assert (raised.value.reason, raised.value.field) == (Reason.UNSUPPORTED_FEATURE, f"target.routing.{name}")


def test_a_provider_that_is_no_router_refuses_preferences() -> None:
    """They are never dropped in silence."""
    with pytest.raises(Unavailable) as raised:
        route("groq", routing={"only": ["a"]})
    assert (raised.value.reason, raised.value.field) == (Reason.UNSUPPORTED_FEATURE, "target.routing")
    with pytest.raises(InvalidRequest):
        resolve_embeddings(
            registry.load(), Target(provider="openrouter", model="a/b", routing={"only": ["a"]}),
            [ProviderCredential("openrouter", ApiKey(Secret("k")))],
        )  # fmt: skip


def test_the_same_thing_is_said_in_one_place() -> None:
    """Options that have the field of their own contradict the preferences."""
    with pytest.raises(InvalidRequest) as raised:
        route("openrouter", routing={"only": ["a"]}, options_json='{"provider":{"sort":"price"}}')
    assert raised.value.field == "target.options_json"


def test_a_proxy_in_front_of_a_router_is_one_by_its_file(tmp_path: pathlib.Path) -> None:
    """Not the URL decides who takes preferences, but the row."""
    (tmp_path / "proxy.toml").write_text(
        'schema = 1\nid = "proxy"\nname = "Proxy"\nbase_url = "https://proxy.example.com/v1"\n'
        '[[dialects]]\nname = "openai-chat"\npath = "/chat/completions"\nrouting_preferences = "openrouter"\n'
    )
    assert sent(route("proxy", registry.load([tmp_path]), routing={"only": ["a"]}))["provider"] == {"only": ["a"]}
