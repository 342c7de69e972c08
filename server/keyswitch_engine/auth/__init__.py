"""How calls are authenticated: the one place where secrets are opened."""

from __future__ import annotations

from keyswitch_engine.auth.headers import auth_headers

__all__ = ["auth_headers"]
