"""The matchers of all providers, of which an id tries only those that it could fit.

Nearly every matcher begins with some plain characters or a group of them, which is read off its text. One that does not
is right all the same: every id tries it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from keyswitch_engine.provider import Provider

__all__ = ["Matchers", "starts_of"]

_START = re.compile(
    r"(?:\(\?i\))?\^(?:\((?P<group>[A-Za-z0-9_:/-]+(?:\|[A-Za-z0-9_:/-]+)*)\)|(?P<one>[A-Za-z0-9_:/-]+))(?![?*{])"
)
_MISLEADING = re.compile(r"\\[][()]|\[\^?\]|\[[^]]*\[|\(\?#")
"""Brackets that open and close nothing, and comments, behind which a quantifier may follow what stands before them."""
_GROUP = re.compile(r"\([^()]*\)|\[[^][]*\]")


def starts_of(matcher: re.Pattern[str]) -> tuple[str, ...]:
    """Return what every id of ASCII that fits begins with, one of these, in lower case; none if that is not plain."""
    found = _START.match(matcher.pattern)
    if found is None or _may_have_alternatives(matcher.pattern[found.end() :]):
        return ()
    return tuple((found["group"] or found["one"]).lower().split("|"))


def _may_have_alternatives(rest: str) -> bool:
    """Tell whether something else than *rest* may follow, or stand instead of the whole; if in doubt it may."""
    if _MISLEADING.search(rest):
        return True
    before = ""
    while rest != before:
        rest, before = _GROUP.sub("", rest), rest
    return "|" in rest


class Matchers:
    """An index of matchers, so that an id costs the same among fifty providers as among a thousand."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        """Index those of *providers*."""
        self._all = [(matcher, provider) for provider in providers for matcher in provider.matchers]
        self._anyhow: list[int] = []
        self._by_start: dict[str, list[int]] = {}
        for number, (matcher, _) in enumerate(self._all):
            starts = starts_of(matcher)
            for start in starts:
                self._by_start.setdefault(start, []).append(number)
            if not starts:
                self._anyhow.append(number)
        self._lengths = sorted({len(start) for start in self._by_start})

    def fitting(self, model: str) -> list[Provider]:
        """Return the providers with a matcher that fits a model id, in their order; some more than once."""
        return [provider for matcher, provider in self._candidates(model) if matcher.search(model)]

    def _candidates(self, model: str) -> Iterable[tuple[re.Pattern[str], Provider]]:
        """Return the matchers to try."""
        if not model.isascii():  # letters of other scripts can be the same as ASCII ones where case does not matter
            return self._all
        lower = model.lower()
        numbers = set(self._anyhow)
        for length in self._lengths:
            numbers.update(self._by_start.get(lower[:length], ()))
        return [self._all[number] for number in sorted(numbers)]
