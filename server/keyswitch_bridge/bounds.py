"""What calls may take, wherever they are dispatched."""

from __future__ import annotations

import msgspec
from keyswitch_engine.deadline import TimeLimits

__all__ = ["Bounds"]

_MEBIBYTE = 1024 * 1024


class Bounds(msgspec.Struct, frozen=True):
    """What calls may take; the defaults are those of the server's settings."""

    limits: TimeLimits = TimeLimits(connect=10.0, first_token=120.0, idle=60.0, total=600.0)
    """Limits of a call that asks for none."""
    max_total: float = 3600.0
    """Seconds that no call exceeds."""
    max_attempts: int = 2
    """Tries at one target of a call that does not say how many."""
    max_calls: int = 1000
    """Calls in flight at once."""
    max_message_bytes: int = 32 * _MEBIBYTE
    """Largest whole answer."""
