"""An issuer of JSON Web Tokens, made for a test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

__all__ = ["AUDIENCE", "ISSUER", "Issuer", "encoded"]

ISSUER, AUDIENCE = "https://issuer.example", "keyswitch"


class Issuer:
    """Signs tokens by an RSA key and an EC key."""

    def __init__(self, generation: str = "one") -> None:
        self.generation = generation
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())

    def keys(self) -> list[dict[str, Any]]:
        """Return the public keys, as a JWK Set has them."""
        return [
            RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True) | {"kid": f"rsa-{self.generation}", "use": "sig"},
            ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True) | {"kid": f"ec-{self.generation}", "alg": "ES256"},
        ]

    def token(self, caller: str = "backend", algorithm: str = "ES256", kid: str | None = None, **claims: Any) -> str:
        """Sign a token that is good for a minute; a claim of None is left out."""
        now = int(time.time())
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": caller, "iat": now, "exp": now + 60} | claims
        kind = "ec" if algorithm.startswith("ES") else "rsa"
        return jwt.encode(
            {name: value for name, value in body.items() if value is not None},
            self.ec if kind == "ec" else self.rsa,
            algorithm=algorithm,
            headers={"kid": f"{kind}-{self.generation}" if kid is None else kid},
        )

    def unsigned(self) -> str:
        """Return a token that claims to need no signature."""
        return f"{encoded({'alg': 'none', 'kid': f'ec-{self.generation}'})}.{self.token().split('.')[1]}."

    def confused(self) -> str:
        """Return a token whose signature is an HMAC with the public key, which everybody knows, as its secret."""
        public = self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signed = f"{encoded({'alg': 'HS256', 'kid': f'rsa-{self.generation}'})}.{self.token().split('.')[1]}"
        signature = hmac.new(public, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def encoded(part: object) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
