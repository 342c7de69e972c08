from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine import registry
from keyswitch_engine.claims import Rank
from keyswitch_engine.credential import ApiKey, NoCredential, ProviderCredential
from keyswitch_engine.errors import DispatchError
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

ROWS = registry.load()
BACKWARDS = Registry(reversed(ROWS.providers.values()), ROWS.fingerprint)
NAMES = st.sampled_from(ROWS.names)
TOKENS = sorted({row.vendor_token for row in ROWS.providers.values() if row.vendor_token})
LISTED = sorted({model for row in ROWS.providers.values() for model in row.models})
BARE = st.sampled_from(
    [*LISTED, "gpt-4o", "o3", "claude-x", "MiniMax-M2.7", "auto", "m", "a/b", "a/b/c", "x:free", ".."]
)
MODELS = st.one_of(
    BARE,
    st.builds("".join, st.tuples(st.sampled_from([*TOKENS, "Unknown", "@cf", ""]), st.sampled_from("/:"), BARE)),
    st.text(max_size=12),
)
TARGETS = st.builds(Target, provider=st.one_of(st.just(""), NAMES, st.text(max_size=6)), model=MODELS)


def owner(name: str) -> str:
    """Return the id of the provider of that name."""
    row = ROWS.find(name)
    assert row is not None
    return row.id


KEYS = st.lists(NAMES, max_size=6, unique_by=owner)


def key_of(name: str) -> ProviderCredential:
    return ProviderCredential(name, ApiKey(Secret(f"key-of-{name}")))


def decision(rows: Registry, target: Target, keyed: list[str]) -> Route[Any] | tuple[object, ...]:
    """Return the route, or all that is told of the error."""
    try:
        return resolve(rows, target, [key_of(name) for name in keyed])
    except DispatchError as error:
        return error.reason, error.provider, error.message, error.field


@given(TARGETS, KEYS, st.randoms(use_true_random=False))
def test_no_order_ever_decides(target: Target, keyed: list[str], random: Any) -> None:
    """Keys and rows in any order lead to the same route, reasons and all, or to the same error."""
    shuffled = random.sample(keyed, len(keyed))
    found = {repr(decision(rows, target, order)) for rows in (ROWS, BACKWARDS) for order in (keyed, shuffled)}
    assert len(found) == 1


@given(TARGETS, KEYS)
def test_a_key_goes_to_its_own_provider_and_its_owner_pays(target: Target, keyed: list[str]) -> None:
    """A route has the credential that came for its provider, or none, and whoever brought the key pays."""
    route = decision(ROWS, target, keyed)
    if isinstance(route, tuple):
        return
    assert route.billing is Billing.BYOK
    own = [name for name in keyed if owner(name) == route.provider.id]
    if own:
        assert route.credential == key_of(own[0]).credential
        assert route.credential_source is CredentialSource.CALLER
    else:
        assert (route.credential, route.credential_source) == (NoCredential(), CredentialSource.NONE)


@given(MODELS)
def test_the_index_of_claims_says_what_every_row_says_for_itself(model: str) -> None:
    """Asked one by one, rows make the claims that the index has, and no provider makes two."""
    vendor = next(filter(None, (named(model, separator) for separator in "/:")), None)
    expected = {}
    for row in ROWS.providers.values():
        if model in row.models and not row.router:
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
