"""The index of matchers finds what trying every one of them would."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keyswitch_engine import registry
from keyswitch_engine.matchers import Matchers, starts_of
from keyswitch_engine.provider import Provider

BUILT_IN = registry.load().providers["openai"]
PIECES = [
    "a",
    "b",
    "ab",
    "-",
    "/",
    "1",
    "[ab]",
    "[^/|]",
    ".",
    r"\.",
    r"\(",
    "(a|b)",
    "(a|(b|c))",
    "(?!b)",
    "(?:ab)",
    "|",
]
ENDS = ["", "?", "*", "+", "{2}", "$"]

patterns = st.builds(
    lambda flag, anchor, parts: f"{flag}{anchor}" + "".join(piece + end for piece, end in parts),
    st.sampled_from(["", "(?i)"]),
    st.sampled_from(["^", ""]),
    st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(ENDS)), min_size=1, max_size=5),
)
ids = st.text(alphabet="abcABC-/1.()[]\u017f", max_size=6)


def compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a pattern, if it is one: a quantifier may stand where none can."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def row(number: int, *matchers: re.Pattern[str]) -> Provider:
    """Return a provider with these matchers."""
    return msgspec.structs.replace(BUILT_IN, id=f"row-{number}", matchers=matchers)


@example([re.compile("(?i)^s")], "\u017f")
@example([re.compile("^a[](]|b[])]")], "b]")
@example([re.compile("^ab(?#)*")], "a")
@given(st.lists(patterns.map(compiled).filter(bool), max_size=6), ids)
def test_whatever_matchers_look_like_the_index_finds_the_same(matchers: list[re.Pattern[str]], model: str) -> None:
    """For any patterns and any id, those that fit are found, in the order of their rows."""
    rows = [row(number, matcher) for number, matcher in enumerate(matchers)]
    fitting = [provider for provider in rows if provider.matchers[0].search(model)]
    assert Matchers(rows).fitting(model) == fitting


@pytest.mark.parametrize(
    ("pattern", "starts"),
    [
        ("^claude-[^/:]+$", ("claude-",)),
        ("(?i)^MiniMax-", ("minimax-",)),
        ("^(kimi|moonshot)-[^/:]+$", ("kimi", "moonshot")),
        ("^gpt-(?!oss:)[^/]*$", ("gpt-",)),
        ("^o[1-9](-[^/]*)?$", ("o",)),
        ("^abc?", ("ab",)),
        ("^(abc)?d", ()),
        ("^abc|d", ()),
        (r"^abc\(|\)d", ()),
        ("^(a|b(c|d))", ()),
        ("claude-", ()),
    ],
)
def test_starts_are_read_off_plain_patterns_and_no_others(pattern: str, starts: tuple[str, ...]) -> None:
    """What a pattern begins with is told where its text says so plainly, and nothing is guessed elsewhere."""
    assert starts_of(re.compile(pattern)) == starts


def test_no_id_tries_the_matchers_of_every_built_in_provider() -> None:
    """Each matcher of a built-in row begins plainly, which keeps a decision as cheap among many providers."""
    matchers = [matcher for provider in registry.load().providers.values() for matcher in provider.matchers]
    assert [matcher.pattern for matcher in matchers if not starts_of(matcher)] == []
