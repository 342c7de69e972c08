"""Secrets that cannot be shown by accident, and text of others without them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn, SupportsIndex, final

__all__ = ["HiddenText", "Secret", "digest", "holds_key", "label", "quotes", "scrub", "without_keys"]


@final
class Secret:
    """A key or token that is opened in one place only, where request headers are built.

    It shows itself as `[secret]`, cannot be pickled, copied into JSON or formatted, and compares in constant time.
    """

    __slots__ = ("_spelt", "_value")

    def __init__(self, value: str) -> None:
        """Wrap *value*."""
        self._value = value
        self._spelt: tuple[str, ...] | None = None

    def reveal(self) -> str:
        """Return the value. Only `keyswitch_engine.auth`, key shapes and this module have a reason to."""
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
        return isinstance(other, Secret) and hmac.compare_digest(_bytes(self._value), _bytes(other._value))

    def __hash__(self) -> int:
        """Refuse: a hash of a secret tells about the secret."""
        raise TypeError("a secret is not hashable")

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a secret cannot be pickled or copied")

    def __getstate__(self) -> NoReturn:
        """Refuse likewise: whatever copies by state would hold the value."""
        raise TypeError("a secret cannot be pickled or copied")

    def _spellings(self) -> tuple[str, ...]:
        """Return what to look for, kept as long as the secret itself: its value unquoted, and in base64."""
        if self._spelt is None:
            plain = _unquoted(self._value)[0] or self._value
            self._spelt = (plain, *(core for core in _base64(_bytes(self._value)) if len(core) >= _SHORT))
        return self._spelt


class HiddenText(str):
    """Text with a secret in it where a library takes nothing but a string, as the value of a header.

    Its `repr` alone hides it, which is what mappings show, and tracebacks of their variables, also the transport's. The
    bytes that the transport makes of it show it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Hide the text."""
        return "[secret]"

    def __getitem__(self, index: SupportsIndex | slice[Any, Any, Any]) -> HiddenText:
        """Hide a part of it likewise: tools that cut long texts show those."""
        return HiddenText(super().__getitem__(index))


def digest(secrets: Iterable[Secret], key: bytes, size: int) -> bytes:
    """Return *size* bytes that tell secrets apart, and tell nothing of them to whoever lacks the *key*."""
    values = [_bytes(secret.reveal()) for secret in secrets]
    told_apart = b"".join(b"%d:%b" % (len(value), value) for value in values)  # `a` and `bc` are not `ab` and `c`
    return hashlib.blake2b(told_apart, key=key, digest_size=size).digest()


_KEY_SHAPES = re.compile(
    r"(?i:bearer)\s+[\x21-\x7e]{6,}"
    r"|(?<![A-Za-z0-9])(?:"
    r"(?:(?:sk|pk|rk|gsk|xai|pplx|csk|nvapi|hf|fw|vck|tgp|ksw)[-_]|(?:r8|gh[opsur]|github_pat|api_org)_)"
    r"[A-Za-z0-9*_.\-]{6,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{12,}|AIza[\w-]{20,}|ya29\.[\w.-]{10,}|eyJ[\w-]{12,})"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0080-\u009f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


_REDACTED: Final = "[redacted]"
_SHORT: Final = 12
"""Characters of a secret that give it away, wherever in it they stand."""
_LONGEST: Final = 8192
"""Characters of a text beside an answer that are worth their time: quoting is undone character by character."""


def scrub(text: str, secrets: tuple[Secret, ...] = (), limit: int = 300) -> str:
    """Make provider text fit to show: without *secrets*, key-shaped words and control characters, cut to *limit*.

    The secrets that the call itself used are removed whatever their shape, in the spellings in which a provider may
    quote them: cut off at either end, masked, quoted for a URL, JSON or HTML, or in base64 at any offset, as Basic
    authentication has it. Anything else that looks like a key is removed by shape, since providers quote keys back
    masked and unmasked.
    """
    for secret in secrets:
        text = _unmasked(text.replace(secret.reveal() or "\0", _REDACTED), secret.reveal())
        for spelling in secret._spellings():  # noqa: SLF001 - of this module
            text = _without(text, spelling)
    text = _CONTROL.sub(" ", _KEY_SHAPES.sub(_REDACTED, text)).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def label(text: str, secrets: tuple[Secret, ...], limit: int) -> str:
    """Return a provider's short text, a code or an id, cut to *limit*; none at all if it has a secret or is odd."""
    if not _PRINTABLE.fullmatch(text) or _KEY_SHAPES.search(text) or _has(text, secrets, least=1):
        return ""
    return text[:limit]


def quotes(text: str, secrets: tuple[Secret, ...]) -> bool:
    """Tell whether text of an answer that is none of the model's own words quotes one of *secrets*, or may.

    What is too long to be an id or a count is not looked into. Secrets of fewer than twelve characters are stand-ins
    that no provider checks, and would be found in any word.
    """
    return len(text) > _LONGEST or _has(text, secrets, least=_SHORT)


def without_keys(text: str) -> str:
    """Return a message about settings or files without what looks like a key that somebody put in the wrong place.

    There is nothing to compare it with, so it goes by looks: shapes of keys that are known, what PEM files hold, and
    letters and digits mixed in a row that no name has.
    """
    return _RANDOM.sub(_REDACTED, _KEY_SHAPES.sub(_REDACTED, _PEM.sub(_REDACTED, text)))


def holds_key(text: str, *, in_url: bool = False) -> bool:
    """Tell whether a text that is to hold no key has what looks like a whole one.

    That is a known shape, or more letters and digits in a row than names have, which the paths of URLs have too. It
    takes more than to be left out of a message: what begins as keys do, and goes on in words, is a name, like
    `hf-mirror` or `fw-llama3-70b`.
    """
    known = any(_is_whole(found[0]) for found in _KEY_SHAPES.finditer(text))
    return known or (not in_url and _WHOLE_RANDOM.search(text) is not None)


def _is_whole(shaped: str) -> bool:
    """Tell whether what is shaped like a key has a row of letters and digits that is no word."""
    return len(shaped) >= _WHOLE and any(not (row.isalpha() and row.islower()) for row in _ROW.findall(shaped))


_WHOLE: Final = 16
_ROW = re.compile(r"[A-Za-z0-9]{12,}")
_WHOLE_RANDOM = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{28,}")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*(?:.*-----END [A-Z0-9 ]*-----|.*)", re.DOTALL)
_RANDOM = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20,}[^\s'\"`,)]*")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


def _has(text: str, secrets: tuple[Secret, ...], *, least: int) -> bool:
    """Tell whether text has the beginning or the end of a secret of at least so many characters, in any spelling."""
    if not text:
        return False
    plain = _unquoted(text)[0]
    return any(
        spelling[:_SHORT] in plain or spelling[-_SHORT:] in plain
        for secret in secrets
        if len(secret.reveal()) >= least
        for spelling in (secret.reveal(), *secret._spellings())  # noqa: SLF001 - of this module
    )


def _bytes(value: str) -> bytes:
    """Encode a secret, also one that is no text: an error about it would show it."""
    return value.encode("utf-8", "surrogatepass")


def _without(text: str, spelling: str) -> str:
    """Return text without any piece of a spelling that gives it away, however it is quoted."""
    plain, places = _unquoted(text)
    size = min(_SHORT, len(spelling))
    block = max(1, size // 2)
    if not any(spelling[start : start + block] in plain for start in range(0, len(spelling), block)):
        return text  # of so many characters in a row one whole block would be there
    pieces = {spelling[start : start + size] for start in range(len(spelling) - size + 1)}
    kept: list[str] = []
    done = start = 0
    while start <= len(plain) - size:
        end = start
        while plain[end : end + size] in pieces:
            end += 1
        if end > start:
            end += size - 1
            kept += (text[done : places[start]], _REDACTED)
            done, start = places[end], end
        else:
            start += 1
    return "".join(kept) + text[done:]


_QUOTINGS: Final = 5
"""How often a text may have been quoted."""
_ESCAPE = re.compile(
    r"%(?P<url>[0-9A-Fa-f]{2})|\\+(?:u(?P<json>[0-9A-Fa-f]{4}))?|&#[xX]0*(?P<hex>[0-9A-Fa-f]{1,6});"
    r"|&#0*(?P<decimal>[0-9]{1,7});|&(?P<name>quot|amp|lt|gt|apos);"
)
_NAMED: Final = {"quot": '"', "amp": "&", "lt": "<", "gt": ">", "apos": "'"}
_MOST: Final = 0x10FFFF


def _unquoted(text: str) -> tuple[str, list[int] | range]:
    """Undo quoting for URLs, JSON and HTML; return the text, and where each of its characters stood, and the end."""
    places: list[int] | range = range(len(text) + 1)
    for _ in range(_QUOTINGS):
        if not ("%" in text or "\\" in text or "&" in text):
            break
        pieces: list[str] = []
        stood: list[int] = []
        done = 0
        for found in _ESCAPE.finditer(text):
            pieces.append(text[done : found.start()])
            stood += places[done : found.start()]
            if character := _character(found):
                pieces.append(character)
                stood.append(places[found.start()])
            done = found.end()
        if not done:
            break
        text = "".join((*pieces, text[done:]))
        places = [*stood, *places[done:]]
    return text, places


def _character(found: re.Match[str]) -> str:
    """Return what an escape stands for; a backslash alone stands for nothing, and belongs to what follows."""
    if found["name"]:
        return _NAMED[found["name"]]
    code = found["url"] or found["json"] or found["hex"]
    number = int(code, 16) if code else int(found["decimal"] or 0)
    return chr(number) if 0 < number <= _MOST else ""


_MASKED = re.compile(r"(?P<head>[\x21-\x29\x2b-\x7e]{0,64}?)(?:\*{2,}|•+|…|\.{3,})(?P<tail>[\x21-\x29\x2b-\x7e]{0,64})")
_TOLD: Final = 4
"""Characters of a masked secret beside the mask that make it a masked secret."""


def _unmasked(text: str, value: str) -> str:
    """Return text without what is left of a secret whose middle is masked, as in `sk-…abcd`."""

    def hide(found: re.Match[str]) -> str:
        head, tail = found["head"], found["tail"]
        begins = next((size for size in range(len(head), 0, -1) if value.startswith(head[-size:])), 0)
        ends = next((size for size in range(len(tail), 0, -1) if value.endswith(tail[:size])), 0)
        if begins + ends < _TOLD:
            return found[0]
        return head[: len(head) - begins] + _REDACTED + tail[ends:]

    return _MASKED.sub(hide, text) if len(value) >= _SHORT else text


def _base64(raw: bytes) -> Iterable[str]:
    """Yield what is of a secret alone in its base64, at each offset at which it may stand in what was encoded."""
    for offset, begin in enumerate((0, 2, 3)):  # of three bytes four characters are made
        end = -3 if (len(raw) + offset) % 3 == 1 else -2 if (len(raw) + offset) % 3 else None
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(offset) + raw)[begin:end].decode()
