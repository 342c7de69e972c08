"""What reading an answer has in common in every dialect."""

from __future__ import annotations

from typing import Final

from keyswitch_engine.errors import ProtocolError

__all__ = ["MAX_ANSWER_BYTES", "MAX_USAGE_JSON", "bound", "first_count", "including", "usage_json"]

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""Largest whole answer that is accepted, in bytes."""

MAX_USAGE_JSON: Final = 2048
"""Largest usage object that is passed on, in bytes."""


def bound(size: int) -> None:
    """Refuse an answer that has grown too large.

    Raises:
        ProtocolError: *size* is above `MAX_ANSWER_BYTES`.
    """
    if size > MAX_ANSWER_BYTES:
        raise ProtocolError(f"the provider's answer exceeds {MAX_ANSWER_BYTES >> 20} MiB")


def first_count(*counts: float | None) -> int | None:
    """Return the first count that was reported; some providers write whole numbers as floats."""
    for count in counts:
        if count is not None:
            return int(count)
    return None


def including(total: int | None, includes: str, part: int | None) -> int | None:
    """Return a total that includes its part; *includes* says whether it does already: `yes`, `no` or `unknown`.

    None if that cannot be known.
    """
    if total is None or not part or includes == "yes":
        return total
    return total + part if includes == "no" else None


def usage_json(raw: bytes) -> str:
    """Return a usage object as it was sent, nothing if it is unreasonably large."""
    return raw.decode("utf-8", "replace") if len(raw) <= MAX_USAGE_JSON else ""
