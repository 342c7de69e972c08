from __future__ import annotations

import pathlib
import re

import pytest
from keyswitch_server.live_file import UnusableFileError, read_bytes
from keyswitch_server.tokens import hashed, new_token, read_tokens


def test_each_token_is_its_callers_alone(tmp_path: pathlib.Path) -> None:
    """A caller is known by any of its tokens, and by nothing like them."""
    first, second, third = new_token(), new_token(), new_token()
    file = tmp_path / "tokens.toml"
    file.write_text(
        f'backend = ["{hashed(first)}", "{hashed(second)}"]\n"ci job" = []\n'.replace('"ci job"', '"ci@job"')
    )
    tokens = read_tokens(file)
    assert [tokens.caller(token) for token in (first, second, third)] == ["backend", "backend", None]
    assert [tokens.caller(token) for token in ("", first[:-1], first + "x", first.upper(), hashed(first))] == [None] * 5


def test_a_token_is_random_and_its_hash_tells_nothing_of_it() -> None:
    """Tokens have 256 random bits behind a prefix that scanners find; of the hash no part is in the token."""
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"ksw_[A-Za-z0-9_-]{43}", token) for token in tokens)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", hashed(tokens.pop()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backend = [", "is not TOML"),
        ('backend = ["TOKEN"]', "'backend'.*a token itself does not belong here"),
        ("backend = [1]", "'backend'.*sha256:"),
        ('backend = "HASH"', "'backend'.*expected a list"),
        ('backend = ["HASH"]\nother = ["HASH"]', "entry 2 .'other'.: another caller has the same token"),
        ('"a/b" = ["HASH"]', "entry 1: a caller's name"),
        ('"*" = ["HASH"]', "entry 1: a caller's name"),
        ('anonymous = ["HASH"]', "entry 1: a caller's name"),
        ('TOKEN = ["TOKEN"]', "entry 1 .this.: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_without_repeating_it(tmp_path: pathlib.Path, text: str, words: str) -> None:
    """What is wrong is said by its place; a token that somebody pasted is not repeated."""
    token = new_token()
    file = tmp_path / "tokens.toml"
    file.write_text(text.replace("TOKEN", token).replace("HASH", hashed(token)))
    with pytest.raises(UnusableFileError, match=words) as raised:
        read_tokens(file)
    assert token not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    """A file that cannot be read says which one and why."""
    with pytest.raises(UnusableFileError, match=r"tokens: .*none\.toml cannot be read: No such file"):
        read_tokens(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["ksw_AtWh0vGc-pasted-token", "-----BEGIN PRIVATE KEY-----\nMIGHAgEA/MBMG\n"])
def test_a_secret_in_place_of_a_files_name_is_not_repeated(name: str) -> None:
    """Who pastes a token or a key where a path belongs reads which setting it was, and nothing of what was pasted."""
    with pytest.raises(UnusableFileError) as raised:
        read_bytes("tls_key", pathlib.Path(name))
    assert str(raised.value).split(" cannot be read")[0] == "tls_key: [redacted]"


def test_a_file_that_is_missing_in_a_folder_is_named_whatever_it_is_called(tmp_path: pathlib.Path) -> None:
    """What lies in a folder is a file, though its name begins as tokens do."""
    with pytest.raises(UnusableFileError) as raised:
        read_bytes("tokens", tmp_path / "ksw-tokens.toml")
    assert str(raised.value) == f"tokens: {tmp_path}/ksw-tokens.toml cannot be read: No such file or directory"
