"""Secrets that cannot be shown by accident."""

from __future__ import annotations

import hmac
import re
from typing import NoReturn, final

__all__ = ["Secret", "scrub"]


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
        """Return the value. Only `keyswitch_engine.auth` and scrubbing have a reason to call this."""
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
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0080-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


def scrub(text: str, secrets: tuple[Secret, ...] = (), limit: int = 300) -> str:
    """Make provider text fit to show: without *secrets*, key-shaped words and control characters, cut to *limit*.

    The secrets that the call itself used are removed literally, whatever their shape; anything else that looks like a
    key is removed by shape, since providers quote keys back masked and unmasked.
    """
    for secret in secrets:
        text = text.replace(secret.reveal(), "[redacted]")
    text = _CONTROL.sub(" ", _KEY_SHAPES.sub("[redacted]", text)).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
