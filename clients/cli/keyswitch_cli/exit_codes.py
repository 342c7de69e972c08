"""What the exit status of every command means."""

from __future__ import annotations

__all__ = ["CREDENTIAL", "ERROR", "INTERRUPTED", "RPC", "USAGE", "of_rpc"]

ERROR = 1
"""Something failed that has no status of its own."""
USAGE = 2
"""The command line is malformed."""
CREDENTIAL = 4
"""A key is missing or was refused, a provider's or the server's token."""
RPC = 64
"""A call failed: this plus the number of its gRPC status, as grpcurl does."""
INTERRUPTED = 130
"""Ctrl-C."""

_CREDENTIAL_REASONS = frozenset({"MISSING_CREDENTIAL", "INVALID_CREDENTIAL", "CALLER_UNAUTHENTICATED"})


def of_rpc(status: int, reason: str) -> int:
    """Return the exit status for a failed call."""
    return CREDENTIAL if reason in _CREDENTIAL_REASONS else RPC + status
