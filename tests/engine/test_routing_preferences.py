from __future__ import annotations

import json
import pathlib
from typing import Any

import msgspec
import pytest
from keyswitch.v1 import target_pb2
from keyswitch_bridge.preferences import read_preferences
from keyswitch_bridge.violations import Violations
from keyswitch_engine import registry
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.errors import InvalidRequest, Reason, Violation
from keyswitch_engine.generation import Generation, Message, Part, Role, TextPart
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve, resolve_embeddings
from keyswitch_engine.routing_preferences import Preferences, Wishes, with_wishes
from keyswitch_engine.secret import Secret
from wishes import WISHED, fields_of, given_in

HELLO = Generation((Message(Role.USER, (Part(TextPart("hi")),)),))


def route(provider: str, rows: registry.Registry | None = None, **target: Any) -> Route[Any]:
    key = ProviderCredential(provider, ApiKey(Secret("k")))
    return resolve(rows or registry.load(), Target(provider=provider, model="a/b", **target), [key])


def sent(found: Route[Any]) -> dict[str, Any]:
    """Return the body that a route leads to."""
    surface = found.surface
    request = surface.dialect.request(HELLO, found.model, surface.profile, found.options_json, stream=True)
    body: dict[str, Any] = json.loads(request.body)
    return body


def read(preferences: target_pb2.RoutingPreferences) -> Wishes:
    """Return preferences as they are read from a request."""
    found = Violations()
    wishes = read_preferences(preferences, found, "target.routing")
    found.check()
    return wishes


def test_every_preference_of_the_contract_is_among_the_samples() -> None:
    """A field that is added to the preferences, or to a message in them, has to be spelt for OpenRouter too."""
    given = {name for preferences, _ in WISHED.values() for name in given_in(preferences)}
    assert given == set(fields_of(target_pb2.RoutingPreferences.DESCRIPTOR))


@pytest.mark.parametrize("form", WISHED)
@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic-messages"])
def test_openrouter_gets_the_whole_object_as_it_was_given(dialect: str, form: str) -> None:
    """In every dialect the preferences are the field `provider`, in the contract's order, and nothing is added."""
    preferences, spelt = WISHED[form]
    found = route("openrouter", dialect=dialect, routing=read(preferences), options_json='{"transforms":["x"],"n":1}')
    body = sent(found)
    assert body["provider"] == spelt
    assert list(body["provider"]) == list(spelt)
    assert (body["transforms"], body["n"]) == (["x"], 1)


@pytest.mark.parametrize("form", WISHED)
def test_files_and_settings_say_the_whole_object_as_openrouter_does(form: str) -> None:
    """A table `routing` holds what a request may wish, in the very form that is sent."""
    _, spelt = WISHED[form]
    said = msgspec.convert(spelt, Preferences).wishes
    assert json.loads(with_wishes("", "openrouter", said)) == {"provider": spelt}


def test_an_empty_table_wishes_nothing() -> None:
    """Neither in a request nor in a file, so that it goes to providers that are no routers too."""
    preferences = target_pb2.RoutingPreferences()
    assert read(preferences) == {}
    preferences.max_price.SetInParent()
    preferences.sort_by.SetInParent()
    preferences.preferred_max_latency_by.SetInParent()
    assert read(preferences) == {}
    assert msgspec.convert({"max_price": {}, "sort": {}, "order": []}, Preferences).wishes == {}
    assert route("groq", routing={}).options_json == ""


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


@pytest.mark.parametrize("form", WISHED)
def test_what_a_router_cannot_be_told_is_refused_by_name(form: str) -> None:
    """Vercel's gateway takes an order and a limit; everything else that came is a violation of its own."""
    preferences, _ = WISHED[form]
    with pytest.raises(InvalidRequest) as raised:
        route("vercel-gateway", routing=read(preferences))
    rule = "Vercel AI Gateway knows no preference but only and order; leave this one out"
    assert raised.value.violations == tuple(
        Violation(f"target.routing.{field.name}", rule)
        for field, _ in preferences.ListFields()
        if field.name not in ("order", "only")
    )
    assert raised.value.reason is Reason.INVALID_REQUEST


def test_a_provider_that_is_no_router_refuses_preferences() -> None:
    """They are never dropped in silence."""
    with pytest.raises(InvalidRequest) as raised:
        route("groq", routing={"only": ["a"]})
    rule = "Groq takes no routing preferences here; leave them out, or choose a router"
    assert raised.value.violations == (Violation("target.routing", rule),)
    assert raised.value.reason is Reason.INVALID_REQUEST
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
