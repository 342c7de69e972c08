"""Names of the contract's enum values."""

from __future__ import annotations

from typing import Any

__all__ = ["value_name"]


def value_name(kind: Any, value: int, prefix: str) -> str:
    """Return a value's name without its prefix; a value of a newer server is shown as its number."""
    try:
        return str(kind.Name(value)).removeprefix(prefix)
    except ValueError:
        return str(value)
