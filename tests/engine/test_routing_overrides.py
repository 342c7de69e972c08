from __future__ import annotations

import pathlib

import pytest
from keyswitch_engine.credential import ApiKey, AwsBearerToken, Credential, NoCredential, ProviderCredential
from keyswitch_engine.custom_endpoint import CustomEndpoint
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.operator_tables import OperatorTables, VirtualModelTable, govern
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.routing_preferences import Preferences
from keyswitch_engine.secret import Secret

KEYS = [ProviderCredential("levels", ApiKey(Secret("k")))]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder: pathlib.Path = tmp_path_factory.mktemp("levels")
    (folder / "levels.toml").write_text(
        'schema = 1\nid = "levels"\nname = "Levels"\nbase_url = "https://levels.example"\n'
        '[[dialects]]\nname = "openai-chat"\npath = "/chat"\nrouting_preferences = "openrouter"\n'
        '[[dialects.model_overrides]]\nmodel = "^special"\n'
        'compatibility = { max_tokens_field = "max_tokens", seed_field = "none" }\nrouting = { order = ["row"], zdr = true }\n'
    )
    ours = VirtualModelTable(
        "levels", "special-one", Preferences(order=("operator",), only=("operator",)), {"seed_field": "random_seed"}
    )
    return govern(load([folder]), OperatorTables(virtual_models={"ours": ours}), {})


def flags(registry: Registry, target: Target) -> tuple[str, str]:
    """Return two of the flags that a call goes by."""
    found = resolve(registry, target, KEYS).surface.profile.flags
    return found.max_tokens_field, found.seed_field  # type: ignore[attr-defined] # the dialect's own type


def test_request_beats_virtual_model_beats_model_beats_provider(registry: Registry) -> None:
    """Flags resolve by that order, each by itself, and what is said of some models is said of no other."""
    plain = flags(registry, Target(provider="levels", model="plain"))
    assert plain != flags(registry, Target(provider="levels", model="special-one")) == ("max_tokens", "none")
    assert flags(registry, Target(model="ours")) == ("max_tokens", "random_seed")
    asked = {"seed_field": "seed", "max_tokens_field": "max_completion_tokens"}
    assert flags(registry, Target(model="ours", compatibility=dict(asked))) == ("max_completion_tokens", "seed")


def test_wishes_of_each_level_are_merged_by_key(registry: Registry) -> None:
    """The later level's list takes the place of the earlier one's, and what only one level wishes stays."""
    wishes = {
        model: resolve(registry, Target(provider="levels", model=model), KEYS).surface.routing
        for model in ("plain", "special-one", "ours")
    }
    assert wishes == {
        "plain": {},
        "special-one": {"order": ("row",), "zdr": True},
        "ours": {"order": ("operator",), "zdr": True, "only": ("operator",)},
    }
    asked = Target(model="ours", routing={"order": ["caller"]}, options_json='{"top_k":1}')
    route = resolve(registry, asked, KEYS)
    assert route.surface.routing == {"order": ["caller"], "zdr": True, "only": ("operator",)}
    assert '"top_k":1' in route.options_json
    options = resolve(registry, Target(provider="levels", model="plain", options_json='{"top_k":1}'), KEYS).options_json
    assert options == '{"top_k":1}'


def at_endpoint(credential: Credential, dialect: str = "openai-chat") -> CustomEndpoint:
    """Return an endpoint that differs from its dialect in one flag where it speaks chat completions."""
    differs = {"seed_field": "none"} if dialect == "openai-chat" else {}
    return CustomEndpoint("https://gateway.example.com", "m", credential, dialect=dialect, compatibility=differs)


def test_the_request_beats_its_endpoint(registry: Registry) -> None:
    """Flags of an endpoint hold, and the target's win over them."""
    endpoint = at_endpoint(NoCredential())
    assert flags(registry, Target(custom_endpoint=endpoint))[1] == "none"
    asked = Target(custom_endpoint=endpoint, compatibility={"seed_field": "random_seed"})
    assert flags(registry, asked)[1] == "random_seed"


def test_an_endpoint_is_authenticated_as_its_dialect_is(registry: Registry) -> None:
    """Anthropic's protocol takes the key in a header of its own, with the version; the others take a bearer token."""
    key = ApiKey(Secret("k"))
    shown = {}
    for dialect in ("openai-chat", "openai-responses", "anthropic-messages"):
        route = resolve(registry, Target(custom_endpoint=at_endpoint(key, dialect)), [])
        shown[dialect] = (route.provider.auth.style, route.provider.auth.header, route.surface.headers)
    assert shown == {
        "openai-chat": ("bearer", "", {}),
        "openai-responses": ("bearer", "", {}),
        "anthropic-messages": ("header", "x-api-key", {"anthropic-version": "2023-06-01"}),
    }


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (Target(custom_endpoint=at_endpoint(AwsBearerToken(Secret("k")))), "target.custom_endpoint.credential"),
        (Target(custom_endpoint=at_endpoint(NoCredential()), routing={"order": ["a"]}), "target.routing"),
    ],
)
def test_what_no_endpoint_takes_is_refused(registry: Registry, target: Target, field: str) -> None:
    """A signing key belongs to its cloud, and preferences belong to routers whose file says so."""
    with pytest.raises(DispatchError) as raised:
        resolve(registry, target, [])
    assert (raised.value.reason, raised.value.field) == (Reason.INVALID_REQUEST, field)
