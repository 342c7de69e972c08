"""Secrets that cannot be shown by accident."""

from __future__ import annotations

import base64
import hmac
import json
import re
from typing import NoReturn, final
from urllib.parse import quote, quote_plus

__all__ = ["Secret", "label", "scrub"]


@final
class Secret:
    """A key or token that is opened in one place only, where request headers are built.

    It shows itself as `[secret]`, cannot be pickled, copied into JSON or formatted, and compares in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Wrap *value*."""
        self._value = value

    def reveal(self) -> str:
        """Return the value. Only `keyswitch_engine.auth`, scrubbing, key shapes and fingerprints have a reason to."""
        return self._value

    def __repr__(self) -> str:
        """Hide the value."""
        return "[secret]"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        """Hide the value."""
        return "[secret]"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        """Refuse: a hash of a secret tells about the secret."""
        raise TypeError("a secret is not hashable")

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a secret cannot be pickled or copied")


_KEY_SHAPES = re.compile(
    r"(?i:bearer)\s+[\x21-\x7e]{6,}"
    r"|\b(?:sk|pk|rk|gsk|xai|pplx|csk|nvapi|hf|fw|vck|tgp)[-_][A-Za-z0-9*_.\-]{6,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{20,}|\bya29\.[\w.-]{10,}"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0080-\u009f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


_REDACTED = "[redacted]"
_SHORT = 12
"""Characters of a secret that give it away: what begins like one is one, cut off as it may be."""


def scrub(text: str, secrets: tuple[Secret, ...] = (), limit: int = 300) -> str:
    """Make provider text fit to show: without *secrets*, key-shaped words and control characters, cut to *limit*.

    The secrets that the call itself used are removed whatever their shape, in the spellings in which a provider may
    quote them: cut off, URL-quoted, JSON-escaped, or in base64 at any offset, as Basic authentication has it. Anything
    else that looks like a key is removed by shape, since providers quote keys back masked and unmasked.
    """
    for secret in secrets:
        for spelling in _spellings(secret.reveal()):
            text = text.replace(spelling, _REDACTED)
        if len(secret.reveal()) > _SHORT:
            text = re.sub(re.escape(secret.reveal()[:_SHORT]) + r"\S*", _REDACTED, text)
    text = _CONTROL.sub(" ", _KEY_SHAPES.sub(_REDACTED, text)).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def label(text: str, secrets: tuple[Secret, ...], limit: int) -> str:
    """Return a provider's short text, a code or an id, cut to *limit*; none at all if it has a secret or is odd."""
    if not _PRINTABLE.fullmatch(text) or _KEY_SHAPES.search(text):
        return ""
    for secret in secrets:
        value = secret.reveal()
        if value[:_SHORT] in text or (len(text) >= len(value) and any(s in text for s in _spellings(value))):
            return ""
    return text[:limit]


_ESCAPE = re.compile(r"%[0-9A-F]{2}")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


def _spellings(value: str) -> list[str]:
    """Return a secret in each spelling in which it may come back, the longest ones first."""
    raw = value.encode()
    spellings = {
        value,
        quote(value, safe=""),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value)[1:-1].replace("/", "\\/"),
    }
    spellings |= {_ESCAPE.sub(lambda found: found[0].lower(), spelling) for spelling in tuple(spellings)}
    for offset, begin in enumerate((0, 2, 3)):  # of three bytes four characters are made: these are of the key alone
        end = -3 if (len(raw) + offset) % 3 == 1 else -2 if (len(raw) + offset) % 3 else None
        for encoded in (base64.b64encode(bytes(offset) + raw), base64.urlsafe_b64encode(bytes(offset) + raw)):
            core = encoded[begin:end].decode()
            if len(core) >= _SHORT:
                spellings.add(core)
    return sorted(spellings, key=len, reverse=True)
