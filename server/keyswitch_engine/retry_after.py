"""How long a provider asks to wait, from the headers of its answer.

`Retry-After` decides wherever it stands. Most providers count windows beside it, one for requests and one for tokens or
one a minute and one a day, and some tell only of these: `x-ratelimit-reset-requests: 6m0s` with
`x-ratelimit-remaining-requests: 0`. What follows `reset` names the window; the header's value is a span (OpenAI, Groq),
seconds (Cerebras, Mistral), a time (Anthropic) or an epoch in seconds or milliseconds (OpenRouter). Where no header
helps, the message may: "Please try again in 7.66s" (Groq, OpenAI), "wait 36 seconds" (GitHub Models).
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
import time
from collections.abc import Mapping

__all__ = ["retry_after", "told_delay", "window_reset"]

_LONGEST = 31 * 86_400.0
"""Seconds; a limit a month is the longest that any provider documents. What is longer is no delay but a mistake."""
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{0,15})?", re.ASCII)
_SPAN = re.compile(
    r"(?:(?P<days>\d{1,4})d)?(?:(?P<hours>\d{1,6})h)?(?:(?P<minutes>\d{1,8})m(?!s))?"
    r"(?:(?P<seconds>\d{1,9}(?:\.\d{1,15})?)s)?(?:(?P<milliseconds>\d{1,12}(?:\.\d{1,15})?)ms)?",
    re.ASCII,
)
_UNITS = {"days": 86_400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0, "milliseconds": 0.001}
_EPOCH, _EPOCH_MILLISECONDS = 1e9, 1e12
"""From here on a number is a time: 2001 in seconds, and the same in milliseconds."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `retry-after` (both forms of RFC 9110) ask for; None if neither.

    Header names are lower-case.
    """
    milliseconds, value = (headers.get(name, "").strip() for name in ("retry-after-ms", "retry-after"))
    if _NUMBER.fullmatch(milliseconds) and float(milliseconds):  # Azure sends 0 beside a whole second
        return _sensible(float(milliseconds) / 1000)
    if _NUMBER.fullmatch(value):
        return _sensible(float(value))
    try:
        return _sensible(email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


_NOTHING = re.compile(r"\s*(-.*|0+(\.0*)?)\s*")


def _remaining(headers: Mapping[str, str], reset: str) -> str:
    """Return what remains of the window whose reset a header tells; empty if no header says so."""
    return headers.get(reset.replace("reset", "remaining"), "")


def window_reset(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until the last of the used-up windows opens again; None if the headers name none.

    Of a rate limit's answer only: other answers count the same windows without asking to wait. A window of which
    something remains is not what was hit, unless no other is known.
    """
    windows = {
        name: delay
        for name, value in headers.items()
        if "ratelimit" in name and "reset" in name and (delay := _until(value.strip())) is not None
    }
    used_up = [delay for name, delay in windows.items() if _NOTHING.fullmatch(_remaining(headers, name))]
    return max(used_up, default=next(iter(windows.values())) if len(windows) == 1 else None)


_LONG_UNITS = re.compile(r"(?<=\d) ?(milliseconds?|seconds?|minutes?|hours?)\b(?: (?:and )?(?=\d))?", re.ASCII)
_ASKED = re.compile(r"(?:try again|retry|wait) (?:in |after )?(\d[\dhms.]*[hms])\b", re.ASCII | re.IGNORECASE)


def told_delay(message: str) -> float | None:
    """Return the seconds that a rate limit's own words ask for, "try again in 9m38.016s"; None if they name none."""
    short = _LONG_UNITS.sub(lambda unit: "ms" if unit[1].startswith("milli") else unit[1][0], message)
    found = _ASKED.search(short)
    return None if found is None else _until(found[1])


def _until(value: str) -> float | None:
    """Return the seconds that a window's header names, in whatever form; None if it makes no sense."""
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _EPOCH_MILLISECONDS:
            return _sensible(number / 1000 - time.time())
        return _sensible(number - time.time() if number >= _EPOCH else number)
    if value and (span := _SPAN.fullmatch(value)) is not None:
        return _sensible(sum(float(span[unit]) * seconds for unit, seconds in _UNITS.items() if span[unit]))
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return _sensible(moment.timestamp() - time.time()) if moment.tzinfo else None


def _sensible(seconds: float) -> float | None:
    """Return a delay that has passed as none to wait for, and None for one that nobody means."""
    return max(0.0, seconds) if seconds <= _LONGEST else None
