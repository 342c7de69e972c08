"""What is offered, and what operations beside generations need."""

from __future__ import annotations

import pytest
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.custom_endpoint import CustomEndpoint
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.keyring import Keyring
from keyswitch_engine.offers import offers
from keyswitch_engine.operator import Caller
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, VirtualModelTable, govern
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve, resolve_embeddings, resolve_model_listing
from keyswitch_engine.routing_preferences import Preferences
from keyswitch_engine.secret import Secret

KEY = ApiKey(Secret("a-key"))
OWN = [ProviderCredential("openai", KEY)]
ENDPOINT = CustomEndpoint("https://models.example/v1", "mine", KEY)


@pytest.fixture(scope="module")
def rows() -> Registry:
    tables = OperatorTables(
        menus={
            "all": MenuTable(("*",), ("openai/for-all",)),
            "partners": MenuTable(("partner",), ("openai/for-partners",)),
        },
        virtual_models={
            "ours": VirtualModelTable("mistral", "mistral-embed", compatibility={"system_role": "system"}),
            "routed": VirtualModelTable("openrouter", "openai/gpt-4o", routing=Preferences(only=("azure",))),
        },
    )
    return govern(load(), tables, {"openai": KEY})


@pytest.mark.parametrize(
    ("caller", "consent", "offered"),
    [("anybody", True, {"for-all"}), ("partner", True, {"for-all", "for-partners"}), ("partner", False, set())],
)
def test_menus_offer_to_whom_they_apply_and_who_consents(
    rows: Registry, caller: str, consent: bool, offered: set[str]
) -> None:
    """What is on a menu for others is not offered, and without a consent nothing of any menu is."""
    keyring = Keyring.naming(rows, [], consent=consent)
    found = list(offers(rows, [rows.providers["openai"]], keyring, Caller(caller)))
    assert {offer.model for offer in found} == offered
    assert {offer.billing for offer in found} <= {Billing.PLATFORM}


def test_embeddings_need_their_model_named(rows: Registry) -> None:
    """No provider has a default for them, a custom endpoint names its own, and not every provider offers them."""
    for target, reason in (
        (Target(provider="openai"), Reason.MODEL_REQUIRED),
        (Target(custom_endpoint=ENDPOINT), Reason.UNSUPPORTED_FEATURE),
        (Target(provider="anthropic", model="claude-sonnet-4-5"), Reason.UNSUPPORTED_FEATURE),
    ):
        with pytest.raises(DispatchError) as raised:
            resolve_embeddings(rows, target, [*OWN, ProviderCredential("anthropic", KEY)])
        assert raised.value.reason is reason


def test_a_virtual_model_of_embeddings_is_its_model_alone(rows: Registry) -> None:
    """The flags of a virtual model are about generations; embeddings have none."""
    route = resolve_embeddings(rows, Target(model="ours"), [ProviderCredential("mistral", KEY)])
    assert (route.provider.id, route.model) == ("mistral", "mistral-embed")


def test_a_list_of_models_is_asked_for_with_or_without_a_key(rows: Registry) -> None:
    """Where none came none is used, and what did not come is no credential."""
    route = resolve_model_listing(rows, Target(provider="ollama"), None)
    assert route.credential_source is CredentialSource.NONE


def test_a_route_tells_what_was_asked_for_and_what_is_passed_on(rows: Registry) -> None:
    """An endpoint's model is what was asked for; preferences are mentioned where there are some."""
    assert resolve(rows, Target(custom_endpoint=ENDPOINT), []).requested_model == "mine"
    assert resolve(rows, Target(model="openai/gpt-4o"), OWN).requested_model == "openai/gpt-4o"
    told = "the routing preferences are passed on to openrouter as they are"
    keys = [ProviderCredential("openrouter", KEY)]
    assert told in resolve(rows, Target(model="routed"), keys).reasons
    assert told not in resolve(rows, Target(model="openrouter/auto"), keys).reasons
