from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keyswitch_engine import registry
from keyswitch_engine.claims import Rank
from keyswitch_engine.credential import ApiKey, NoCredential, PlatformConsent, ProviderCredential
from keyswitch_engine.decision import decide
from keyswitch_engine.errors import DispatchError
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.keyring import Keyring
from keyswitch_engine.offers import offers
from keyswitch_engine.operator import Caller
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, VirtualModelTable, govern
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

PLATFORM = ("anthropic", "groq", "minimax", "openai", "openrouter")
OPERATOR = OperatorTables(
    menus={
        "everyone": MenuTable(("*",), ("openai/gpt-4o", "anthropic/*", "openrouter/*", "fast", "openai/ours")),
        "blue": MenuTable(("anonymous/blue",), ("openai/*", "minimax/*", "groq/*")),
    },
    virtual_models={"fast": VirtualModelTable("groq", "openai/gpt-oss-120b")},
)
ROWS = govern(registry.load(), OPERATOR, {name: ApiKey(Secret(f"platform-key-of-{name}")) for name in PLATFORM})
BACKWARDS = Registry(reversed(ROWS.providers.values()), ROWS.fingerprint, ROWS.operator)
ANYBODY = Caller()
NAMES = st.sampled_from(ROWS.names)
TOKENS = sorted({row.vendor_token for row in ROWS.providers.values() if row.vendor_token})
LISTED = sorted({model for row in ROWS.providers.values() for model in row.models})
BARE = st.sampled_from(
    [*LISTED, "fast", "ours", "gpt-4o", "o3", "claude-x", "MiniMax-M2.7", "auto", "m", "a/b", "a/b/c", "x:free", ".."]
)
MODELS = st.one_of(
    BARE,
    st.builds("".join, st.tuples(st.sampled_from([*TOKENS, "Unknown", "@cf", ""]), st.sampled_from("/:"), BARE)),
    st.text(max_size=12),
)
OPTIONS = st.sampled_from(["", "", "", "{}", '{"models":["a"]}'])
TARGETS = st.builds(
    Target, provider=st.one_of(st.just(""), NAMES, st.text(max_size=6)), model=MODELS, options_json=OPTIONS
)


def owner(name: str) -> str:
    """Return the id of the provider of that name."""
    row = ROWS.find(name)
    assert row is not None
    return row.id


KEYS = st.lists(NAMES, max_size=6, unique_by=owner)
CONSENTS = st.one_of(st.just([]), st.just([""]), st.lists(st.sampled_from(PLATFORM), max_size=3, unique=True))
CALLERS = st.sampled_from([Caller(), Caller(tenant="blue"), Caller(name="other", tenant="blue")])


def key_of(name: str) -> ProviderCredential:
    return ProviderCredential(name, ApiKey(Secret(f"key-of-{name}")))


def consent_to(name: str) -> ProviderCredential:
    return ProviderCredential(name, PlatformConsent(), "consent")


def decision(
    rows: Registry, target: Target, keyed: list[str], consents: list[str] | None = None, caller: Caller = ANYBODY
) -> Route[Any] | tuple[object, ...]:
    """Return the route, or all that is told of the error."""
    try:
        return resolve(rows, target, [*map(key_of, keyed), *map(consent_to, consents or [])], caller)
    except DispatchError as error:
        return error.reason, error.provider, error.message, error.field


@given(TARGETS, KEYS, CONSENTS, CALLERS, st.randoms(use_true_random=False))
def test_no_order_ever_decides(
    target: Target, keyed: list[str], consents: list[str], caller: Caller, random: Any
) -> None:
    """Keys, consents and rows in any order lead to the same route, reasons and all, or to the same error."""
    orders = [(keyed, consents), (random.sample(keyed, len(keyed)), consents[::-1])]
    found = {repr(decision(rows, target, *order, caller)) for rows in (ROWS, BACKWARDS) for order in orders}
    assert len(found) == 1


@given(TARGETS, KEYS, CONSENTS, CALLERS)
def test_a_key_goes_to_its_own_provider_and_its_owner_pays(
    target: Target, keyed: list[str], consents: list[str], caller: Caller
) -> None:
    """A route has the credential that came for its provider, else the operator's by consent and menu, else none."""
    route = decision(ROWS, target, keyed, consents, caller)
    if isinstance(route, tuple):
        return
    own = [name for name in keyed if owner(name) == route.provider.id]
    if own:
        assert route.credential == key_of(own[0]).credential
        assert (route.credential_source, route.billing) == (CredentialSource.CALLER, Billing.BYOK)
    elif route.billing is Billing.PLATFORM:
        assert route.credential_source is CredentialSource.PLATFORM
        assert target.options_json in ("", "{}")
        assert route.credential == ApiKey(Secret(f"platform-key-of-{route.provider.id}"))
        assert {"", route.provider.id} & set(consents)
        virtual = target.model.strip().rpartition("/")[2]
        menus = [menu for menu in ROWS.operator.menus if menu.is_for(caller)]
        assert any(menu.allows(route.provider, route.model, virtual) for menu in menus)
    else:
        assert (route.credential, route.credential_source) == (NoCredential(), CredentialSource.NONE)


@given(TARGETS, KEYS, CALLERS)
def test_nothing_but_a_consent_leads_to_the_operators_bill(target: Target, keyed: list[str], caller: Caller) -> None:
    """Without a consent whatever is asked for is paid by the caller, exactly as where the operator has no keys."""
    plain = Registry(
        ROWS.providers.values(), ROWS.fingerprint, msgspec.structs.replace(ROWS.operator, platform_keys={})
    )
    assert repr(decision(ROWS, target, keyed, [], caller)) == repr(decision(plain, target, keyed, [], caller))


@given(st.lists(NAMES, max_size=4, unique_by=owner), st.booleans(), CALLERS)
def test_what_is_offered_is_routed(keyed: list[str], consent: bool, caller: Caller) -> None:
    """Each model on offer leads where the offer says, on the bill that it says, when it is asked for by its id alone."""
    keyring = Keyring.naming(ROWS, keyed, consent=consent)
    for offer in offers(ROWS, ROWS.providers.values(), keyring, caller):
        made = decide(ROWS, "", offer.id, keyring, caller)
        assert (made.provider.id, made.model.id) == (offer.provider.id, offer.model)
        assert bool(made.menu) == (offer.billing is Billing.PLATFORM)
        if (
            offer.provider.id in map(owner, keyed)
            and "api_key" in offer.provider.auth.accepts
            and not offer.provider.parameters
        ):
            route = decision(ROWS, Target(model=offer.id), keyed, [""] if consent else [], caller)
            assert isinstance(route, Route)
            assert (route.provider.id, route.model, route.billing) == (offer.provider.id, offer.model, offer.billing)


IDS = st.one_of(
    st.sampled_from(
        ["large", "gpt-4o", "acme/own", "acme/large", "acme:own", "acme:..", "acme/../x", "openai/x", "m" * 254]
    ),
    st.text(alphabet="ab/.: -\u200b\u3164\ufe0f\u00e9", max_size=5),
    st.builds("acme{}{}".format, st.sampled_from("/:"), st.text(alphabet="ab/.: ", max_size=3)),
)
MADE_UP = st.fixed_dictionaries(
    {"models": st.lists(IDS, max_size=4, unique=True), "small_model": st.one_of(st.just(""), IDS)},
    optional={
        "default_model": IDS,
        "vendor_token": st.just("acme"),
        "strip_own_prefix": st.booleans(),
        "matchers": st.lists(st.sampled_from(["^acme", "^.", "large"]), max_size=2),
    },
)
TOKEN = {"vendor_token": "acme", "strip_own_prefix": True}
KINDS = st.sampled_from(
    [{}, {"router": True, "foreign_id_form": "/"}, {"hosts_foreign_models": True, "foreign_id_form": "."}]
)


@example({"models": [], "small_model": "m" * 254} | TOKEN, {}, [])  # with the token before it, it is too long
@example({"models": ["a\u3164b"], "small_model": ""}, {}, [])
@example({"models": [], "small_model": "acme:.."} | TOKEN, {}, [])
@settings(deadline=None)  # every file of the registry is read each time
@given(MADE_UP, KINDS, st.lists(st.sampled_from(["openai", "groq", "openrouter"]), max_size=2, unique=True))
def test_what_a_row_that_loads_offers_is_accepted(
    row: dict[str, object], kind: dict[str, object], others: list[str]
) -> None:
    """Whatever a provider file lists, it refuses to load, or each model on offer is one that a request can ask for.

    With the key of a provider that is no router these are all that it lists.
    """
    top = {"schema": 1, "id": "acme", "name": "Acme", "base_url": "https://acme.example"} | row | kind
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in top.items())  # which is TOML as well
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "acme.toml").write_text(f'{text}\n[[dialects]]\nname = "openai-chat"\npath = "/chat"\n')
        try:
            rows = registry.load([pathlib.Path(folder)])
        except registry.RegistryError:
            return
    for keyed in (["acme"], ["acme", *others], others):
        offered = list(offers(rows, rows.providers.values(), Keyring.naming(rows, keyed, consent=False), ANYBODY))
        if "acme" in keyed and "router" not in kind:
            assert {offer.model for offer in offered if offer.provider.id == "acme"} >= set(
                rows.providers["acme"].models
            )
        for offer in offered:
            route = decision(rows, Target(model=offer.id), keyed)
            assert isinstance(route, Route), (offer.id, route)
            assert (route.provider.id, route.model) == (offer.provider.id, offer.model)


def test_with_its_key_every_model_of_a_provider_is_on_offer() -> None:
    """A key for one provider offers all that its file lists."""
    for row in ROWS.providers.values():
        keyring = Keyring.naming(ROWS, [row.id], consent=False)
        offered = {offer.model for offer in offers(ROWS, [row], keyring, Caller())}
        assert offered >= set(row.models)


@given(MODELS)
def test_the_index_of_claims_says_what_every_row_says_for_itself(model: str) -> None:
    """Asked one by one, rows make the claims that the index has, and no provider makes two."""
    vendor = next(filter(None, (named(model, separator) for separator in "/:")), None)
    expected = {}
    for row in ROWS.providers.values():
        virtual = ROWS.operator.virtual_models.get(model)
        if (model in row.models and not row.router) or (virtual is not None and virtual.provider.id == row.id):
            expected[row.id] = Rank.EXACT
        elif row is vendor:
            expected[row.id] = Rank.VENDOR
        elif any(matcher.search(model) for matcher in row.matchers):
            expected[row.id] = Rank.MATCHER
    claims = ROWS.claims.on(model)
    assert {claim.provider.id: claim.rank for claim in claims} == expected
    assert len(claims) == len(expected)


def named(model: str, separator: str) -> Provider | None:
    """Return the vendor that stands before the first separator, if something follows it."""
    token, _, rest = model.partition(separator)
    spelt = token.lower().replace("_", "-")
    rows = (row for row in ROWS.providers.values() if rest and row.vendor_token and row.vendor_token == spelt)
    return next(rows, None)
