from __future__ import annotations

import ast
import base64
import copy
import dataclasses
import html
import json
import pathlib
import pickle
import pprint
import traceback
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyswitch_engine.auth import Authenticated
from keyswitch_engine.auth.headers import auth_headers
from keyswitch_engine.credential import ApiKey
from keyswitch_engine.provider import Auth
from keyswitch_engine.secret import Secret, digest, holds_key, label, quotes, scrub, without_keys
from multidict import CIMultiDict

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Held:
    """Something that holds a secret."""

    secret: Secret


def test_a_secret_shows_itself_to_nobody() -> None:
    """No repr, str, format, pickle, copy or hash of a secret gives it away; equal ones are equal."""
    secret = Secret("hidden")
    assert "hidden" not in f"{secret} {secret!r} {secret!s} {secret:>20} {[secret]}"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leak(secret)
    for leak in (
        json.dumps, msgspec.json.encode, msgspec.to_builtins, msgspec.msgpack.encode, vars, iter, len, str.__len__,
        lambda held: held.__getstate__(), lambda held: held + "", lambda held: dataclasses.asdict(Held(held)),
    ):  # fmt: skip
        with pytest.raises(TypeError) as raised:
            leak(secret)
        assert "hidden" not in str(raised.value)
    assert "hidden" not in "%s %r" % (secret, Held(secret)) + repr(ApiKey(secret)) + pprint.pformat({"a": [secret]})  # noqa: UP031
    try:
        raise ValueError(secret)
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "secret = [secret]" in shown
    assert "ValueError: [secret]" in shown
    assert secret == Secret("hidden") != Secret("other")
    assert secret != "hidden"


@pytest.mark.parametrize("auth", [Auth(), Auth(style="header", header="x-key")])
def test_headers_hide_what_is_sent_in_them(auth: Auth) -> None:
    """No mapping of them shows a key, the transport's own included, and what travels is the key."""
    headers = auth_headers(auth, ApiKey(Secret("hidden"))) or {}
    for held in (headers, {**headers}, headers | {"a": "b"}, CIMultiDict(headers), list(headers.items())):
        assert "[secret]" in repr(held)
        assert "hidden" not in repr(held)
    (value,) = headers.values()
    assert str(value).removeprefix("Bearer ") == "hidden"
    assert repr(value[:3]) == repr(value[-1]) == "[secret]"
    assert "hidden" not in repr(Authenticated({"Authorization": "Bearer hidden"}, ()))


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
        KEY[-16:],
        f"{KEY[:14]}\n{KEY[14:]}",
        html.escape(KEY),
        "".join(f"&#x{ord(character):x};" for character in KEY),
        "".join(f"&#{ord(character)};" for character in KEY),
        "".join(f"\\u{ord(character):04x}" for character in KEY),
        "".join(f"%{ord(character):02x}" for character in KEY),
        quote(KEY).replace("%2B", "+").replace("%3D", "="),
        quote(quote(KEY, safe=""), safe=""),
        json.dumps(json.dumps(KEY))[3:-3],
        f"{KEY[:3]}…{KEY[-4:]}",
        f"{KEY[:6]}*******",
        f"****{KEY[-4:]}",
    ],
)
def test_a_key_is_removed_however_it_is_spelt(spelling: str) -> None:
    """Quoted for a URL or JSON, in base64 at any offset, or cut off: next to nothing of it stays, in texts and labels."""
    shown = scrub(f"bad {spelling} here", (Secret(KEY),))
    assert "[redacted]" in shown
    assert len(shown) < len("bad [redacted] here") + 16  # of base64: what belongs to others, and a bit or two
    if KEY[:12] in spelling or "*" not in spelling + "…":
        assert not label(f"bad {spelling} here", (Secret(KEY),), 200)


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=60)


@given(KEYS.filter(lambda key: sum(map(str.isalnum, key)) > 5), st.integers(0, 5))
def test_any_key_is_removed_in_any_spelling(key: str, number: int) -> None:
    """No key, whatever characters it is made of, is left over in any way of quoting it."""
    spelling = [
        key, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key), quote_plus(quote_plus(key)),
        base64.b64encode(b"xy"[: number % 3] + key.encode()).decode(),
    ][number]  # fmt: skip
    shown = scrub(f"({spelling})", (Secret(key),), 10_000)
    assert "[redacted]" in shown
    assert key not in shown
    assert len(shown) <= len("([redacted])") + 10
    assert quotes(f"({spelling})", (Secret(key),))


def test_what_an_answer_says_of_itself_is_judged_by_real_keys_alone() -> None:
    """Ids and names are told from keys that are quoted in them; stand-ins of fewer than 12 characters are no keys."""
    assert quotes(f"chatcmpl-{KEY}", (Secret(KEY),))
    assert not quotes("chatcmpl-0123456789abcdefghij", (Secret(KEY),))
    assert not quotes("ollama/llama3", (Secret("ollama"),))


def test_digests_tell_secrets_apart() -> None:
    """The same secrets have the same digest under a key; others, cut elsewhere, or under another key have another."""
    one = digest((Secret("a"), Secret("bc")), b"k", 8)
    assert one == digest((Secret("a"), Secret("bc")), b"k", 8)
    assert len({one, digest((Secret("ab"), Secret("c")), b"k", 8), digest((Secret("a"), Secret("bc")), b"x", 8)}) == 3


def test_messages_about_settings_lose_what_looks_like_a_key() -> None:
    """What is mixed like a key or has the shape of one goes, names of models and files stay."""
    assert without_keys("x.'sk-proj-abcdefgh' is no provider") == "x.'[redacted]' is no provider"
    assert without_keys("menus.c4n4ry0Ab1Cd2Ef3Gh4Ij: no") == "menus.[redacted] no"
    said = "/etc/keyswitch.toml:5: 'claude-3-5-sonnet-20241022' and egress_private_networks[0] are well"
    assert without_keys(said) == said


def test_a_long_text_is_looked_through_once() -> None:
    """A run of letters without end costs its length and not its square, which would be an hour."""
    assert without_keys("a" * 1_000_000 + " " + "b" * 20 + "1") == "a" * 1_000_000 + " [redacted]"


BEGINNINGS = (
    "sk-", "pk-", "rk_", "gsk_", "xai-", "pplx-", "csk-", "nvapi-", "hf_", "api_org_", "fw_", "vck_", "tgp_v1_", "r8_",
    "ghp_", "gho_", "github_pat_", "AKIA", "ASIA", "AIza", "ya29.", "eyJ",
)  # fmt: skip
SOME_KEY = "A7QX2" * 5
"""What follows them: of letters and digits that each of them has, and too short to be told by itself."""


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_whole_key_is_told_by_its_shape(beginning: str) -> None:
    """Keys of every known kind are found in a text and taken out of messages, wherever they stand, also in a URL."""
    for before in ("", "x: ", "# ", "https://h.example/v1/", "key_", "'"):
        text = f"{before}{beginning}{SOME_KEY}"
        assert holds_key(text, in_url=True)
        assert SOME_KEY not in scrub(text)
    assert not holds_key(SOME_KEY)


def test_a_long_run_of_letters_and_digits_is_a_key_of_an_unknown_kind() -> None:
    """Names and addresses have no such runs, except for the paths of URLs; what is short only begins like a key."""
    assert holds_key("id 0123456789abcdef0123456789abcdef")
    assert not holds_key("https://h.example/accounts/0123456789abcdef0123456789abcdef", in_url=True)
    for name in ("hf-mirror.com", "sk-learn", "fw-1", "claude-3-5-sonnet-20241022", "skywork-or1-preview", "abcd" * 10):
        assert not holds_key(name)
    for name in (
        "hf-text-gen-server",
        "fw-llama-v3p1-8b-instruct",
        "xai-grok-4-fast-reasoning",
        "pk-berlin-datacenter",
    ):
        assert not holds_key(name)


ROOMS = {"server/keyswitch_engine/secret.py", "server/keyswitch_engine/key_shapes.py"}
ROOMS |= {f"server/keyswitch_engine/auth/{name}.py" for name in ("authenticator", "google", "headers")}


def test_secrets_are_opened_in_few_places() -> None:
    """Only where headers are built, keys are recognised and texts are scrubbed is a secret ever opened."""
    opened = set()
    for folder in ("server", "clients", "proto"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                named = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
                others = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") != "self"
                if named in ("reveal", "_spellings", "_spelt") or (named == "_value" and others):
                    opened.add(str(file.relative_to(ROOT)))
    assert opened == ROOMS


def test_a_label_is_short_plain_text() -> None:
    """Codes and ids pass as they are, cut; what is not printable, or has the shape of any key, is left out."""
    assert label("rate_limit_exceeded", (Secret(KEY),), 200) == "rate_limit_exceeded"
    assert label("x" * 300, (), 200) == "x" * 200
    for odd in ("a\udcffb", "a\nb", "id sk-proj-abcdefghijkl"):
        assert not label(odd, (), 200)


def test_a_short_key_does_not_tear_words_apart() -> None:
    """A key of one letter is replaced where it stands; no more of the text than that goes."""
    assert scrub("ok", (Secret("zz"),)) == "ok"


def test_what_is_too_long_to_be_an_id_is_not_looked_into() -> None:
    """Quoting is undone character by character, and an endpoint may send megabytes of it: it is left out unseen."""
    assert quotes("%25" * 3000, (Secret(KEY),))
    assert not quotes("%25" * 2000, (Secret(KEY),))
