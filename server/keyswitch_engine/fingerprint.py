"""Keys told apart without being kept."""

from __future__ import annotations

import secrets
from typing import Final

from keyswitch_engine.credential import Credential, secrets_of
from keyswitch_engine.secret import digest

__all__ = ["Fingerprints"]

_BYTES: Final = 8
"""Enough to tell keys apart, too little to check a guess by without the secret."""


class Fingerprints:
    """Makes fingerprints of keys with a secret that never leaves this process and ends with it."""

    def __init__(self) -> None:
        """Draw a new secret."""
        self._secret = secrets.token_bytes(32)

    def of(self, credential: Credential) -> str:
        """Return the fingerprint of all secrets of a credential, 16 hexadecimal digits; empty if it has none."""
        values = secrets_of(credential)
        return digest(values, self._secret, _BYTES).hex() if values else ""
