"""Framing: bytes in, frames out. Nothing here knows a provider or awaits."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["MALFORMED_JSON"]

MALFORMED_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding foreign JSON may raise: it is none, is not of the type, is not UTF-8, or is nested too deeply."""
