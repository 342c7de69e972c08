"""Access tokens for Google service accounts (RFC 7523): an assertion signed with the account's key buys one.

Only the key, its id and the account's address come from the caller; where the assertion goes is a fact of the
provider's file. Tokens are kept in memory until shortly before they expire, by a digest of the key.
"""

from __future__ import annotations

import asyncio
import collections
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlencode

import msgspec

from keyswitch_engine.credential import GoogleServiceAccount
from keyswitch_engine.error_rules import ErrorRule, reason_of
from keyswitch_engine.errors import ProtocolError, ProviderError, Reason, Unavailable
from keyswitch_engine.secret import Secret, digest, label
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["GoogleTokens", "Post"]

Post: TypeAlias = Callable[[str, dict[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""Posts a body to a URL with headers; returns status and body."""

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFETIME = 3600
_MARGIN = 120.0
_KEEP = 1024
_DIGEST_BYTES = 32
_LONGEST_CODE = 100
_TOKEN = re.compile(r"[\x21-\x7e]+")
_ERRORS = (
    ErrorRule(Reason.INVALID_CREDENTIAL, code="invalid_grant|invalid_client|unauthorized_client"),
    ErrorRule(Reason.PROVIDER_UNAVAILABLE, status=(404,)),  # what was not found is the endpoint, no model
)
"""What the token endpoint means by an error, where the general table would misread it."""


class _Answer(msgspec.Struct):
    """An answer of the token endpoint, RFC 6749; it may hold anything."""

    access_token: Any = None
    expires_in: Any = None
    error: Any = None


class GoogleTokens:
    """Buys tokens and keeps them until they expire; at most 1,024, the least used ones go first."""

    def __init__(self, post: Post) -> None:
        """Buy through *post*."""
        self._post = post
        self._digest_key = secrets.token_bytes(_DIGEST_BYTES)
        self._tokens: collections.OrderedDict[bytes, tuple[Secret, float]] = collections.OrderedDict()
        self._locks: dict[bytes, _Lock] = {}

    async def token(self, account: GoogleServiceAccount, url: str) -> Secret:
        """Return a token that is valid for at least two more minutes.

        Calls that need the same one wait for each other: one buys, and if it is cancelled the next one does.

        Raises:
            DispatchError: Google refused the key, or cannot be reached.
        """
        whose = (Secret(url), Secret(account.client_email), Secret(account.private_key_id), account.private_key)
        known_by = digest(whose, self._digest_key, _DIGEST_BYTES)
        if (token := self._kept(known_by)) is not None:
            return token
        lock = self._locks.setdefault(known_by, _Lock())
        lock.waiting += 1
        try:
            async with lock.lock:
                return self._kept(known_by) or await self._buy(known_by, account, url)
        finally:
            lock.waiting -= 1
            if not lock.waiting:
                self._locks.pop(known_by, None)

    def forget(self, refused: Sequence[Secret]) -> None:
        """Keep none of *refused* any longer: the provider has refused a call with them."""
        for known_by, (token, _) in tuple(self._tokens.items()):
            if any(token is secret for secret in refused):
                del self._tokens[known_by]

    def _kept(self, known_by: bytes) -> Secret | None:
        """Return a token that is still good."""
        token, expires = self._tokens.get(known_by, (None, 0.0))
        if token is None or time.monotonic() > expires - _MARGIN:
            return None
        self._tokens.move_to_end(known_by)
        return token

    async def _buy(self, known_by: bytes, account: GoogleServiceAccount, url: str) -> Secret:
        """Buy a token. Signing takes milliseconds of arithmetic, so it has a thread of its own."""
        assertion = await asyncio.to_thread(_assertion, account, url)
        body = urlencode({"grant_type": _GRANT, "assertion": assertion}).encode()
        status, content = await self._post(url, {"content-type": "application/x-www-form-urlencoded"}, body)
        if status >= 300:  # noqa: PLR2004 - RFC 9110
            raise _refusal(status, content, (Secret(assertion),))
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except MALFORMED_JSON:
            raise ProtocolError("the token endpoint answered with something that is not JSON") from None
        if not isinstance(answer.access_token, str) or not _TOKEN.fullmatch(answer.access_token):
            raise ProtocolError("the token endpoint answered without a token that can stand in a header")
        token = Secret(answer.access_token)
        lifetime = _seconds(answer.expires_in)
        if lifetime > _MARGIN:
            self._tokens[known_by] = token, time.monotonic() + lifetime
        while len(self._tokens) > _KEEP:
            self._tokens.popitem(last=False)
        return token


def _refusal(status: int, content: bytes, sent: tuple[Secret, ...]) -> ProviderError:
    """Read an answer with a status of 300 or more; whose fault it is shows in the status before the body.

    What was *sent* is not shown where it quotes that.
    """
    code = ""
    if 400 <= status < 500:  # noqa: PLR2004 - RFC 9110
        try:
            error = msgspec.json.decode(content, type=_Answer).error
        except MALFORMED_JSON:
            error = None
        code = error if isinstance(error, str) else ""
    refusal = ProviderError(
        reason_of(status, [code], "", _ERRORS), f"the token endpoint refused the service account with status {status}"
    )
    refusal.upstream_status, refusal.upstream_code = status, label(code, sent, _LONGEST_CODE)
    return refusal


def _seconds(value: object) -> float:
    """Return for how long a token is good; 0 if that is not known."""
    if not isinstance(value, int | float | str):
        return 0.0
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return min(seconds, _LIFETIME) if seconds > 0 else 0.0


class _Lock:
    """A lock that is forgotten when nobody waits for it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def _assertion(account: GoogleServiceAccount, url: str) -> str:
    """Sign an assertion."""
    try:
        from google.auth import crypt, jwt  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable(
            Reason.UNSUPPORTED_FEATURE, "this installation lacks the extra 'vertex', which signs for service accounts"
        ) from error
    now = int(time.time())
    claims = {"iss": account.client_email, "scope": _SCOPE, "aud": url, "iat": now, "exp": now + _LIFETIME}
    try:
        signer = crypt.RSASigner.from_string(  # type: ignore[no-untyped-call] # the library has no types here
            account.private_key.reveal(), account.private_key_id or None
        )
        return bytes(jwt.encode(signer, claims)).decode()  # type: ignore[no-untyped-call] # likewise
    except (ValueError, TypeError):  # TypeError: the library's word for keys that are encrypted or not RSA
        message = "the service account's private key is no unencrypted RSA key in PEM"
        raise ProviderError(Reason.INVALID_CREDENTIAL, message) from None
