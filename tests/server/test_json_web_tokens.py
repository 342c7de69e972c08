from __future__ import annotations

import base64
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from certificates import put
from hypothesis import given
from hypothesis import strategies as st
from issuer import AUDIENCE, ISSUER, Issuer, encoded
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from keyswitch_server import logging
from keyswitch_server.caller_tables import JwtTable
from keyswitch_server.json_web_tokens import JwtVerifier, RefusedTokenError, read_key_set
from keyswitch_server.live_file import LiveFile, UnusableFileError

ALICE, MALLORY = Issuer(), Issuer()


def verifier(path: pathlib.Path, **settings: Any) -> JwtVerifier:
    """Return a verifier of Alice's tokens, with her keys in the file *path*."""
    table = JwtTable(issuer=ISSUER, audience=AUDIENCE, keys=str(path), **settings)
    if not path.exists():
        put(path, json.dumps({"keys": ALICE.keys()}))
    log = logging.configure("info", io.StringIO())
    return JwtVerifier(table, LiveFile("jwt.keys", [path], lambda: read_key_set(path, table.algorithms), log))


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_good_token_names_its_caller(tmp_path: pathlib.Path, algorithm: str) -> None:
    """A token that the issuer signed for this service is its subject's."""
    assert await verifier(tmp_path / "jwks").caller(ALICE.token("svc", algorithm)) == "svc"


async def test_the_operator_says_which_claim_names_callers(tmp_path: pathlib.Path) -> None:
    """Another claim may name them, behind a prefix that keeps them apart from other callers."""
    named = verifier(tmp_path / "jwks", caller_claim="client_id", caller_prefix="jwt:")
    assert await named.caller(ALICE.token("svc", client_id="app")) == "jwt:app"
    with pytest.raises(RefusedTokenError):
        await named.caller(ALICE.token("svc"))


async def test_one_audience_of_several_is_enough_and_clocks_may_differ(tmp_path: pathlib.Path) -> None:
    """A list of audiences has to have ours; half a minute is forgiven."""
    now = int(time.time())
    for claims in ({"aud": ["other", AUDIENCE]}, {"exp": now - 20}, {"nbf": now + 20}):
        assert await verifier(tmp_path / "jwks").caller(ALICE.token(**claims)) == "backend"


def encoded_text(text: str) -> str:
    """Return text as a part of a token."""
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def inline_key() -> str:
    """Return Mallory's token, which brings the key to check it with."""
    row = ECAlgorithm.to_jwk(MALLORY.ec.public_key(), as_dict=True)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "backend", "exp": int(time.time()) + 60}
    return jwt.encode(claims, MALLORY.ec, algorithm="ES256", headers={"kid": "ec-mallory", "jwk": row})


def exchanged() -> str:
    """Return the claims of one of Alice's tokens under the signature of another."""
    header, _, signature = ALICE.token("backend").split(".")
    return f"{header}.{ALICE.token('admin').split('.')[1]}.{signature}"


BAD: dict[str, Callable[[], str]] = {
    "expired": lambda: ALICE.token(exp=int(time.time()) - 40),
    "not yet valid": lambda: ALICE.token(nbf=int(time.time()) + 60),
    "wrong audience": lambda: ALICE.token(aud="other"),
    "no audience": lambda: ALICE.token(aud=None),
    "wrong issuer": lambda: ALICE.token(iss="https://mallory.example"),
    "no issuer": lambda: ALICE.token(iss=None),
    "no expiry": lambda: ALICE.token(exp=None),
    "infinite expiry": lambda: ALICE.token(exp=float("inf")),
    "no subject": lambda: ALICE.token(sub=None),
    "subject is a number": lambda: ALICE.token(sub=7),
    "subject is a list": lambda: ALICE.token(sub=["backend"]),
    "subject is empty": lambda: ALICE.token(""),
    "subject has a tenant": lambda: ALICE.token("backend/blue"),
    "subject is everybody": lambda: ALICE.token("*"),
    "subject is nobody": lambda: ALICE.token("anonymous"),
    "subject has a line end": lambda: ALICE.token("backend\n"),
    "no signature": ALICE.unsigned,
    "signature cut off": lambda: ALICE.token().rpartition(".")[0] + ".",
    "public key as secret": ALICE.confused,
    "EC key for RS256": lambda: ALICE.token(algorithm="RS256", kid="ec-one"),
    "RSA key for ES256": lambda: ALICE.token(algorithm="ES256", kid="rsa-one"),
    "algorithm that is not pinned": lambda: ALICE.token(algorithm="RS384"),
    "another's key by the same name": MALLORY.token,
    "unknown key": lambda: ALICE.token(kid="rsa-two"),
    "key by a path": lambda: ALICE.token(kid="../../dev/null"),
    "key in the token": inline_key,
    "claims exchanged": exchanged,
    "critical extension": lambda: f"{encoded({'alg': 'ES256', 'kid': 'ec-one', 'crit': ['exp']})}.e30.AA",
    "deep header": lambda: f"{encoded_text('[' * 5000)}.e30.AA",
    "empty": lambda: "..",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused_without_a_word_of_it(tmp_path: pathlib.Path, name: str) -> None:
    """Whatever is wrong with a token, it names nobody, and what is logged repeats no part of it."""
    token = BAD[name]()
    with pytest.raises(RefusedTokenError) as raised:
        await verifier(tmp_path / "jwks").caller(token)
    assert str(raised.value)
    assert not any(part and part in str(raised.value) for part in token.split("."))
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


PARTS = st.one_of(st.text(max_size=20), st.sampled_from(MALLORY.token().split(".")))


@given(st.one_of(st.text(max_size=60), st.tuples(PARTS, PARTS, PARTS).map(".".join)))
async def test_garbage_is_refused_and_nothing_else(token: str) -> None:
    """No text makes a verifier fail in another way."""
    with tempfile.TemporaryDirectory() as folder, pytest.raises(RefusedTokenError):
        await verifier(pathlib.Path(folder) / "jwks").caller(token)


async def test_a_key_that_came_just_now_is_looked_up(tmp_path: pathlib.Path) -> None:
    """An unknown key id reads the file again, so that a new key works from its first token on; the old one is gone."""
    path = tmp_path / "jwks"
    checking, renewed = verifier(path), Issuer("two")
    put(path, json.dumps({"keys": renewed.keys()}))
    assert await checking.caller(renewed.token()) == "backend"
    with pytest.raises(RefusedTokenError):
        await checking.caller(ALICE.token())


async def test_a_file_that_becomes_bad_leaves_the_keys_in_force(tmp_path: pathlib.Path) -> None:
    """A key file that does not load changes nothing for the keys that were known."""
    path = tmp_path / "jwks"
    checking = verifier(path)
    put(path, "{}")
    with pytest.raises(RefusedTokenError):
        await checking.caller(ALICE.token(kid="other"))
    assert await checking.caller(ALICE.token()) == "backend"


RSA_ROW, EC_ROW = ALICE.keys()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "is not a JWK Set"),
        ("[]", "is not a JWK Set"),
        ('{"keys": 1}', "is not a JWK Set"),
        ({"keys": []}, "has no key for any of"),
        ({"keys": [EC_ROW | {"use": "enc"}]}, "has no key for any of"),
        ({"keys": [EC_ROW | {"alg": "ES384"}]}, "has no key for any of"),
        ({"keys": ["x"]}, r"keys\[0\].*expected an object"),
        ({"keys": [{"kty": "RSA"}]}, r"keys\[0\].*'kid'"),
        ({"keys": [{"kty": "oct", "k": "hidden", "kid": "a"}]}, r"keys\[0\]: this is a secret"),
        ({"keys": [RSAAlgorithm.to_jwk(ALICE.rsa, as_dict=True) | {"kid": "a"}]}, r"keys\[0\]: this is a secret"),
        ({"keys": [RSA_ROW, EC_ROW | {"kid": "rsa-one"}]}, r"keys\[1\]: another key has the same 'kid'"),
        ({"keys": [RSA_ROW | {"n": "hidden"}]}, r"keys\[0\]: too short to be safe"),
        ({"keys": [EC_ROW | {"x": 7}]}, r"keys\[0\]: not a key of its kind"),
    ],
)
def test_a_key_file_that_is_wrong_says_where(tmp_path: pathlib.Path, document: object, words: str) -> None:
    """Secrets, doubles and nonsense are refused by their place, without repeating them."""
    path = put(tmp_path / "jwks", document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(UnusableFileError, match=words) as raised:
        read_key_set(path, ("RS256", "ES256", "EdDSA"))
    assert "hidden" not in str(raised.value)


ODD: tuple[Any, ...] = (None, True, 0, -1, 5, 1.5, "", "A", "=", "verify", [], {}, ["verify", 5], [[]], {"verify": 1})
FIELDS = ("kty", "kid", "use", "key_ops", "alg", "crv", "n", "e", "x", "y", "x5c")


@pytest.mark.parametrize("field", FIELDS)
def test_a_key_of_an_odd_form_is_read_or_refused(tmp_path: pathlib.Path, field: str) -> None:
    """Whatever JSON stands in a field of a key, reading the file ends in keys or in the one error that says where."""
    for row in (RSA_ROW, EC_ROW):
        for odd in ODD:
            path = put(tmp_path / "jwks", json.dumps({"keys": [row | {field: odd}]}))
            try:
                assert read_key_set(path, ("RS256", "ES256"))
            except UnusableFileError as error:
                assert str(error).startswith("jwt.keys: ")


@pytest.mark.parametrize("uses", [None, 5, True, "verify", {"verify": 1}])
def test_what_a_key_is_for_is_a_list(tmp_path: pathlib.Path, uses: object) -> None:
    """A key whose `key_ops` is anything else is refused, not taken for one that may be used or may not."""
    path = put(tmp_path / "jwks", json.dumps({"keys": [RSA_ROW, EC_ROW | {"key_ops": uses}]}))
    with pytest.raises(UnusableFileError, match=r"keys\[1\]: its 'key_ops' is no list"):
        read_key_set(path, ("RS256", "ES256"))


def test_keys_are_used_for_what_they_are_made_for(tmp_path: pathlib.Path) -> None:
    """Each key has the pinned algorithms of its kind, and where it names one, that one."""
    nameless = {name: value for name, value in EC_ROW.items() if name != "kid"} | {"use": "enc"}
    encrypting = RSA_ROW | {"kid": "other", "key_ops": ["encrypt"]}
    rows = [RSA_ROW, EC_ROW | {"kid": "enc", "use": "enc"}, nameless, encrypting, EC_ROW]
    path = put(tmp_path / "jwks", json.dumps({"keys": rows}))
    keys = read_key_set(path, ("RS256", "PS256", "ES256"))
    assert {kid: key.algorithms for kid, key in keys.items()} == {"rsa-one": ("RS256", "PS256"), "ec-one": ("ES256",)}
