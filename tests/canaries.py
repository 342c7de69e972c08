"""Keys that are looked for: how they are made, where clients may show them, and how they are found in any spelling."""

from __future__ import annotations

import base64
import itertools
import pathlib
import secrets
import traceback
from collections.abc import Iterator

import grpc
from google.protobuf import json_format
from keyswitch_client import Answer, KeyswitchError

__all__ = ["MARK", "canary", "found", "shown_answer", "shown_error"]

MARK = "c4n4ry"
"""What every key begins and ends with; letters and digits, so that quoting for URLs, JSON and HTML leaves it as it is."""

_NUMBERS = itertools.count(1)


def canary() -> str:
    """Return a key that no other call has, with every character in it that anything quotes."""
    number = next(_NUMBERS)
    return f"{MARK}{number:06d}+/=\"\\'<&%{secrets.token_hex(4)}{MARK}{number:06d}"


def _needles() -> tuple[str, ...]:
    """Return the mark raw, and in base64 at each of three offsets: of three bytes four characters are made."""
    raw = MARK.encode()
    cores = []
    for offset, begin in enumerate((0, 2, 3)):
        rest = (len(raw) + offset) % 3
        encoded = base64.b64encode(bytes(offset) + raw).decode()
        cores.append(encoded[begin : {0: None, 1: -3, 2: -2}[rest]])
    return (MARK, *cores)


NEEDLES = _needles()
_AROUND = 60


def found(where: str, text: str) -> list[str]:
    """Return every key in a text, each with what stands around it."""
    hits = []
    for needle in NEEDLES:
        place = text.find(needle)
        while place >= 0:
            hits.append(f"{where}: …{text[max(0, place - _AROUND) : place + _AROUND]!r}…")
            place = text.find(needle, place + len(needle))
    return hits


def shown_answer(answer: Answer) -> Iterator[str]:
    """Yield everything that shows an answer."""
    response = answer.response
    yield from (str(response), repr(response), repr(answer), json_format.MessageToJson(response))
    yield response.SerializeToString().decode("latin-1")


def shown_error(error: BaseException) -> Iterator[str]:
    """Yield everything that shows an exception and those behind it: texts, fields, metadata, variables of libraries."""
    seen: set[int] = set()
    behind: list[BaseException | None] = [error]
    while behind:
        each = behind.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        behind += [each.__cause__, each.__context__]
        yield from (str(each), repr(each), repr(each.args), repr(getattr(each, "__dict__", "")))
        if isinstance(each, KeyswitchError):
            yield str(each.receipt)
        if isinstance(each, grpc.aio.AioRpcError):
            yield from map(repr, (each.details(), each.initial_metadata(), each.trailing_metadata()))
            yield each.debug_error_string() or ""  # errors of calls made in this process have none
        for frame in traceback.TracebackException.from_exception(each, capture_locals=True).stack:
            if _PROJECT / "tests" not in pathlib.Path(frame.filename).parents:
                yield from (
                    f"{frame.filename}:{frame.lineno} {name}={value}" for name, value in (frame.locals or {}).items()
                )


_PROJECT = pathlib.Path(__file__).resolve().parents[1]
