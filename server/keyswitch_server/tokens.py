"""Bearer tokens of callers, which the server keeps as hashes alone.

A token is 256 random bits, so one plain SHA-256 keeps it: there is nothing to guess that a salt or a slow hash would
protect, and a call does not wait for one.
"""

from __future__ import annotations

import hashlib
import hmac
import pathlib
import re
import secrets
import tomllib
from collections.abc import Iterable

from keyswitch_engine.operator_tables import quoted

from keyswitch_server.caller import is_name
from keyswitch_server.live_file import UnusableFileError, read_bytes

__all__ = ["Tokens", "hashed", "new_token", "read_tokens"]

_PREFIX = "ksw_"
"""What scanners for secrets can find our tokens by."""
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_INDEXED = 4


def new_token() -> str:
    """Return a token that nobody had before."""
    return _PREFIX + secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """Return what the server keeps of a token."""
    return f"sha256:{_digest(token).hex()}"


class Tokens:
    """The tokens of all callers."""

    def __init__(self, tokens: Iterable[tuple[bytes, str]]) -> None:
        """Know callers by the digests of their tokens."""
        self._by_start: dict[bytes, list[tuple[bytes, str]]] = {}
        for digest, caller in tokens:
            self._by_start.setdefault(digest[:_INDEXED], []).append((digest, caller))

    def caller(self, token: str) -> str | None:
        """Return whose token it is; None if it is nobody's.

        All of the digest is compared, in constant time; what the look-up before that takes depends on four bytes of a
        digest, which nobody can choose.
        """
        digest = _digest(token)
        found = None
        for known, caller in self._by_start.get(digest[:_INDEXED], ()):
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def read_tokens(path: pathlib.Path) -> Tokens:
    """Read a TOML file of lines such as `backend = ["sha256:…"]`, as `keyswitch token backend` prints them.

    Raises:
        UnusableFileError: it cannot be read, or something in it is wrong; the message repeats no value.
    """
    try:
        table = tomllib.loads(read_bytes("tokens", path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):  # the parser's message could quote a token
        raise UnusableFileError(f"tokens: {path} is not TOML") from None
    found: dict[bytes, str] = {}
    for number, (caller, hashes) in enumerate(table.items(), 1):
        where = f"tokens: {path}: entry {number}"
        if not is_name(caller):
            raise UnusableFileError(f"{where}: a caller's name is visible ASCII without '*' and '/', not 'anonymous'")
        if not isinstance(hashes, list):
            raise UnusableFileError(f"{where} ({quoted(caller)}): expected a list of hashes")
        for text in hashes:
            match = _HASH.fullmatch(text) if isinstance(text, str) else None
            if match is None:
                raise UnusableFileError(
                    f"{where} ({quoted(caller)}): expected 'sha256:' and 64 hexadecimal digits, as `keyswitch token` "
                    "prints them; a token itself does not belong here"
                )
            if found.setdefault(bytes.fromhex(match[1]), caller) != caller:
                raise UnusableFileError(f"{where} ({quoted(caller)}): another caller has the same token")
    return Tokens(found.items())


def _digest(token: str) -> bytes:
    """Return the digest of all of a token: two that begin alike are different."""
    return hashlib.sha256(token.encode()).digest()
