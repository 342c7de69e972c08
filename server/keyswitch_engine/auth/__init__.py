"""How calls are authenticated: the one place where secrets are opened."""

from __future__ import annotations

from keyswitch_engine.auth.authenticator import Authenticated, Authenticator

__all__ = ["Authenticated", "Authenticator"]
