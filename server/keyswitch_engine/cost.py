"""What a generation cost, by the public price table of genai-prices; an estimate, not an invoice."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
from collections.abc import Iterable
from typing import Any, Final, Protocol

from keyswitch_engine.events import Cost, Usage

__all__ = ["PriceTable", "Prices"]

_NANO: Final = 1_000_000_000
_MOST: Final = (1 << 63) - 1
"""What the contract can hold; more is a count that is not true."""


class Prices(Protocol):
    """Knows what tokens cost."""

    def cost(self, table_id: str, model: str, usage: Usage | None) -> Cost | None:
        """Return the cost of *usage* of *model* at the provider *table_id* names; None where it is not known."""


class PriceTable:
    """The table that comes with the installed version of genai-prices; nothing is fetched."""

    def __init__(self) -> None:
        """Load the table.

        Raises:
            ImportError: genai-prices is not installed.
        """
        import genai_prices.data_snapshot  # noqa: PLC0415 - comes with the server, not with the client library

        self._prices = genai_prices
        version = importlib.metadata.version("genai-prices")
        self._source = f"genai-prices {version}"
        self._date = _newest_price(genai_prices.data_snapshot.get_snapshot().providers)

    def cost(self, table_id: str, model: str, usage: Usage | None) -> Cost | None:
        """Return the cost; see `Prices.cost`."""
        if not table_id or usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        if not usage.input_tokens and not usage.output_tokens:  # nobody counted: an answer without tokens is none
            return None
        try:
            counted = self._prices.Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
            )
            price = self._prices.calc_price(counted, model, provider_id=table_id)
        except (LookupError, ValueError):  # a model that the table does not have, or counts that none can be
            return None
        nano_usd = round(price.total_price * _NANO)
        return Cost(nano_usd, self._source, self._date) if nano_usd <= _MOST else None


def _newest_price(providers: Iterable[Any]) -> str:
    """Return the newest day since which the table has a price. It has no date of its own."""
    today = dt.datetime.now(tz=dt.UTC).date()
    days = [
        start
        for provider in providers
        for model in provider.models
        if isinstance(model.prices, list)
        for price in model.prices
        if (start := getattr(price.constraint, "start_date", None)) is not None and start <= today
    ]
    return max(days).isoformat() if days else ""
