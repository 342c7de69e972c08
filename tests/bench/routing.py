"""What deciding a route costs, among the built-in providers and among a thousand.

Prints microseconds, the median of several rounds, and how much dearer the large registry is. Its rows are the built-in
ones over and over under other names, each with its own models, prefix and patterns.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time

import msgspec
from keyswitch_engine import registry
from keyswitch_engine.credential import ApiKey, PlatformConsent, ProviderCredential
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, govern
from keyswitch_engine.provider import Provider
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

__all__ = ["main"]

ROUNDS, CALLS, LARGE, MENU_LINES = 9, 2000, 1000, 1500
REQUESTS = {
    "provider and model": (Target(provider="groq", model="openai/gpt-oss-120b"), ("groq",)),
    "vendor's model": (Target(model="anthropic/claude-sonnet-4.5"), ("anthropic",)),
    "vendor's model, router's key": (Target(model="anthropic/claude-sonnet-4.5"), ("openrouter",)),
    "bare model, four keys": (Target(model="gpt-4o-mini"), ("openai", "anthropic", "groq", "openrouter")),
    "single key": (Target(), ("openrouter",)),
    "bare model, never seen": (Target(model="claude-{}"), ("anthropic",)),
    "vendor's model, never seen": (Target(model="anthropic/claude-{}"), ("openrouter",)),
    "operator's bill, long menu": (Target(model="anthropic/claude-sonnet-4.5"), ("",)),
}
"""What is asked, and for which providers a key comes; for the empty one a consent to the operator's. What stands in
braces is another number in every call, since the claims on an id are remembered."""
KEYS = {"openrouter": "sk-or-v1-" + "0" * 64, "anthropic": "sk-ant-" + "0" * 32, "groq": "gsk_" + "0" * 52}
"""Keys in the shapes of their providers, since others lead to a search for whose they are."""


def renamed(row: Provider, number: int) -> Provider:
    """Return a row like this one that claims other names and models."""
    return msgspec.structs.replace(
        row,
        id=f"{row.id}-{number}",
        aliases=tuple(f"{alias}-{number}" for alias in row.aliases),
        vendor_token=f"{row.vendor_token}-{number}" if row.vendor_token else "",
        models=tuple(f"{model}-{number}" for model in row.models),
        matchers=tuple(re.compile(matcher.pattern.replace("^", f"^m{number}/", 1)) for matcher in row.matchers),
    )


def enlarged(rows: Registry) -> Registry:
    """Return a registry of a thousand providers that has the given ones in it."""
    copies = (renamed(row, number) for number in itertools.count(1) for row in rows.providers.values())
    return Registry(
        itertools.islice(itertools.chain(rows.providers.values(), copies), LARGE), rows.fingerprint, rows.operator
    )


def microseconds(rows: Registry, target: Target, keyed: tuple[str, ...]) -> float:
    """Return what one decision costs."""
    credentials = [
        ProviderCredential(name, ApiKey(Secret(KEYS.get(name, "sk-" + "0" * 48))) if name else PlatformConsent())
        for name in keyed
    ]
    found, numbers = [], itertools.count()
    for _ in range(ROUNDS):
        targets = [msgspec.structs.replace(target, model=target.model.format(next(numbers))) for _ in range(CALLS)]
        begin = time.perf_counter()
        for each in targets:
            resolve(rows, each, credentials)
        found.append((time.perf_counter() - begin) / CALLS * 1e6)
    return statistics.median(found)


def main() -> None:
    """Measure and print."""
    lines = tuple(f"{name}/model-{number}" for name in ("anthropic", "openai") for number in range(MENU_LINES // 2))
    tables = OperatorTables(menus={"long": MenuTable(("*",), (*lines, "anthropic/claude-sonnet-*"))})
    key = ApiKey(Secret("the-operators"))
    small = govern(registry.load(), tables, {"anthropic": key, "openai": key})
    large = enlarged(small)
    print(f"{'one decision among':30} {len(small.providers):>8} {len(large.providers):>8}   ratio")
    for name, (target, keyed) in REQUESTS.items():
        few, many = microseconds(small, target, keyed), microseconds(large, target, keyed)
        print(f"{name:30} {few:6.1f}us {many:6.1f}us   {many / few:.2f}")


if __name__ == "__main__":
    main()
