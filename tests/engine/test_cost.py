from __future__ import annotations

import datetime as dt

import pytest
from keyswitch_engine.cost import PriceTable
from keyswitch_engine.events import Usage


@pytest.fixture(scope="module")
def prices() -> PriceTable:
    return PriceTable()


def test_a_known_model_has_a_price_in_proportion_to_its_tokens(prices: PriceTable) -> None:
    """Twice the tokens cost twice as much, cached ones less, and the table and its date are named."""
    once = prices.cost("openai", "gpt-4o", Usage(1_000_000, 1_000_000))
    twice = prices.cost("openai", "gpt-4o", Usage(2_000_000, 2_000_000))
    cached = prices.cost("openai", "gpt-4o", Usage(1_000_000, 1_000_000, cache_read_tokens=900_000))
    assert once is not None
    assert twice is not None
    assert cached is not None
    assert twice.nano_usd == 2 * once.nano_usd
    assert 0 < cached.nano_usd < once.nano_usd
    assert once.source.startswith("genai-prices ")
    assert dt.date.fromisoformat(once.source_date) <= dt.datetime.now(tz=dt.UTC).date()


@pytest.mark.parametrize(
    ("table", "model", "usage"),
    [
        ("", "gpt-4o", Usage(1, 1)),
        ("openai", "no-such-model", Usage(1, 1)),
        ("no-such-provider", "gpt-4o", Usage(1, 1)),
        ("openai", "gpt-4o", None),
        ("openai", "gpt-4o", Usage(None, 1)),
        ("openai", "gpt-4o", Usage(1, None)),
        ("openai", "gpt-4o", Usage(1, 1, cache_read_tokens=5)),
        ("openai", "gpt-4o", Usage(-1, 1)),
        ("openai", "gpt-4o", Usage(1, 1, cache_write_tokens=-1)),
        ("openai", "gpt-4o", Usage(10**30, 1)),
    ],
)
def test_what_is_not_known_has_no_cost(prices: PriceTable, table: str, model: str, usage: Usage | None) -> None:
    """Neither a guess nor zero stands in for a price, a count or a table that is not there."""
    assert prices.cost(table, model, usage) is None
