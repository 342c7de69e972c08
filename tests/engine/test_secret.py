from __future__ import annotations

import base64
import copy
import json
import pickle
from urllib.parse import quote, quote_plus

import pytest
from keyswitch_engine.secret import Secret, label, scrub


def test_a_secret_shows_itself_to_nobody() -> None:
    """No repr, str, format, pickle, copy or hash of a secret gives it away; equal ones are equal."""
    secret = Secret("hidden")
    assert "hidden" not in f"{secret} {secret!r} {secret!s} {secret:>20} {[secret]}"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leak(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert secret == Secret("hidden") != Secret("other")
    assert secret != "hidden"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("bad key my-own-key!", "bad key [redacted]!"),
        ("Incorrect key: sk-proj-abc***********xyz.", "Incorrect key: [redacted]"),
        ("Bearer abcdef123456 refused", "[redacted] refused"),
        ("line\r\n\x1b[31mbreak\u202e", "line [31mbreak"),
        ("skateboarding is fine", "skateboarding is fine"),
    ],
)
def test_provider_text_is_fit_to_show(text: str, scrubbed: str) -> None:
    """The call's own key, other keys by shape, and control characters go; words stay."""
    assert scrub(text, (Secret("my-own-key"),)) == scrubbed


def test_long_provider_text_is_cut() -> None:
    """An excerpt has a bound."""
    assert len(scrub("x" * 5000)) == 300


KEY = 'own"key\\with/all+of=it-0123456789'
"""A key that every way of quoting changes."""


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        quote(KEY, safe=""),
        quote_plus(KEY),
        json.dumps(KEY)[1:-1],
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        base64.b64encode(b"u:" + KEY.encode()).decode(),
        base64.b64encode(b"u:" + KEY.encode() + b"more").decode(),
        base64.b64encode(b"us:" + KEY.encode()).decode(),
        base64.b64encode(b"use:" + KEY.encode()).decode(),
        KEY[:16] + "***",
    ],
)
def test_a_key_is_removed_however_it_is_spelt(spelling: str) -> None:
    """Quoted for a URL or JSON, in base64 at any offset, or cut off: next to nothing of it stays, in texts and labels."""
    shown = scrub(f"bad {spelling} here", (Secret(KEY),))
    assert "[redacted]" in shown
    assert len(shown) < len("bad [redacted] here") + 16  # of base64: what belongs to others, and a bit or two
    assert not label(f"bad {spelling} here", (Secret(KEY),), 200)


def test_a_label_is_short_plain_text() -> None:
    """Codes and ids pass as they are, cut; what is not printable, or has the shape of any key, is left out."""
    assert label("rate_limit_exceeded", (Secret(KEY),), 200) == "rate_limit_exceeded"
    assert label("x" * 300, (), 200) == "x" * 200
    for odd in ("a\udcffb", "a\nb", "id sk-proj-abcdefghijkl"):
        assert not label(odd, (), 200)


def test_a_short_key_does_not_tear_words_apart() -> None:
    """A key of one letter is replaced where it stands; no more of the text than that goes."""
    assert scrub("ok", (Secret("zz"),)) == "ok"
