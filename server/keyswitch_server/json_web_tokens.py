"""JSON Web Tokens: an issuer's word for who calls.

What is accepted is pinned by settings, never taken from a token: the algorithms, each only with a key that is made for
it, issuer, audience and time. No verdict is remembered: a check costs less than a tenth of a millisecond, and a memory
of tokens has let callers in under each other's names elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from jwt.types import Options

from keyswitch_server.caller import is_name
from keyswitch_server.caller_tables import JwtTable
from keyswitch_server.live_file import LiveFile, UnusableFileError, read_bytes

__all__ = ["JwtVerifier", "KeySet", "RefusedTokenError", "read_key_set"]

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_LOOK_SECONDS = 1.0
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


class RefusedTokenError(Exception):
    """A token proves nothing; the message is for the operator's log, and holds nothing of the token."""


class _Key(msgspec.Struct, frozen=True):
    """A public key, with what it may be used for."""

    key: Any
    algorithms: tuple[str, ...]


KeySet = Mapping[str, _Key]
"""Keys by their ids."""


def read_key_set(path: pathlib.Path, algorithms: tuple[str, ...]) -> KeySet:
    """Read a JWK Set; keys that are for encryption, or for none of the *algorithms*, are left out.

    Raises:
        UnusableFileError: it cannot be read, is malformed, holds a secret, or leaves no key.
    """
    try:
        document = json.loads(read_bytes("jwt.keys", path))
        rows = list(document["keys"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UnusableFileError(f"jwt.keys: {path} is not a JWK Set: an object with a list of 'keys'") from None
    found: dict[str, _Key] = {}
    for number, row in enumerate(rows):
        where = f"jwt.keys: {path}: keys[{number}]"
        if not isinstance(row, dict):
            raise UnusableFileError(f"{where}: expected an object")
        if row.get("kty") == "oct" or "d" in row:
            raise UnusableFileError(f"{where}: this is a secret; public keys alone belong here")
        uses = row.get("key_ops", ["verify"])
        if not isinstance(uses, list):
            raise UnusableFileError(f"{where}: its 'key_ops' is no list")
        suited = [name for name in _suited(row) if name in algorithms and row.get("alg", name) == name]
        if not suited or row.get("use", "sig") != "sig" or "verify" not in uses:
            continue
        if not isinstance(row.get("kid"), str):
            raise UnusableFileError(f"{where}: it has no 'kid', which tokens name their key by")
        if row["kid"] in found:
            raise UnusableFileError(f"{where}: another key has the same 'kid'")
        try:
            key = jwt.PyJWK(row, suited[0])
        except jwt.PyJWTError:  # its message holds the row
            raise UnusableFileError(f"{where}: not a key of its kind") from None
        if key.Algorithm.check_key_length(key.key) is not None:
            raise UnusableFileError(f"{where}: too short to be safe")
        found[row["kid"]] = _Key(key.key, tuple(suited))
    if not found:
        raise UnusableFileError(f"jwt.keys: {path} has no key for any of {', '.join(algorithms)}")
    return found


def _suited(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the algorithms that a key is made for, by its kind."""
    if row.get("kty") == "RSA":
        return _RSA
    curve = _CURVES.get(str(row.get("crv")))
    return (curve,) if curve is not None and row.get("kty") in ("EC", "OKP") else ()


class JwtVerifier:
    """Checks tokens of one issuer."""

    def __init__(self, table: JwtTable, keys: LiveFile[KeySet]) -> None:
        """Check what *table* says with the *keys* in force."""
        self._table = table
        self._keys = keys
        self._options: Options = {"require": ["iss", "aud", "exp", table.caller_claim]}

    async def caller(self, token: str) -> str:
        """Return the caller whom a token names.

        Raises:
            RefusedTokenError: it is malformed, not by the issuer, not for this service, expired, or names nobody.
        """
        table = self._table
        try:
            key = await self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                options=self._options,
                issuer=table.issuer,
                audience=table.audience,
                leeway=table.leeway_seconds,
            )
        except (jwt.PyJWTError, ValueError, OverflowError) as error:  # the latter two: of numbers that are no times
            raise RefusedTokenError(type(error).__name__) from None
        name = claims[table.caller_claim]
        if not isinstance(name, str) or not is_name(table.caller_prefix + name):
            raise RefusedTokenError(f"{table.caller_claim} is no caller's name")
        return table.caller_prefix + name

    async def _key(self, header: Mapping[str, Any]) -> _Key:
        """Return the key that a token names; one that is not known may have come to the file just now.

        Raises:
            RefusedTokenError: there is none.
        """
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise RefusedTokenError("it names no key")
        key = self._keys().get(kid)
        if key is None:
            with contextlib.suppress(TimeoutError):  # of a file system that hangs
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._keys.look()
            key = self._keys().get(kid)
        if key is None:
            raise RefusedTokenError("it names a key that is not known")
        return key
