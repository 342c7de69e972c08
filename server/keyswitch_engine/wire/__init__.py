"""Framing: bytes in, frames out. Nothing here knows a provider or awaits."""
