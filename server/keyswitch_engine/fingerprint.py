"""Keys told apart without being kept."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from keyswitch_engine.credential import Credential, secrets_of

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
        values = [secret.reveal().encode() for secret in secrets_of(credential)]
        if not values:
            return ""
        told_apart = b"".join(b"%d:%b" % (len(value), value) for value in values)  # `a` and `bc` are not `ab` and `c`
        return hashlib.blake2b(told_apart, key=self._secret, digest_size=_BYTES).hexdigest()
