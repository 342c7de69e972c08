"""Where in a TOML file something stands, for messages to those who wrote it."""

from __future__ import annotations

import re

__all__ = ["line_of", "syntax_problem"]

_HEADING = re.compile(r"\s*(\[\[?)([^\]]+)\]")
_ENTRY = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def line_of(text: str, key: str) -> int:
    """Return the line of a key such as `dialects[0].path`, or of the innermost table around it; else the first one."""
    line, longest, table = 1, -1, ""
    arrays: dict[str, int] = {}
    for number, content in enumerate(text.split("\n"), 1):
        if heading := _HEADING.match(content):
            names = [name.strip(" \t\"'") for name in heading[2].split(".")]
            found = table = _entered(names, arrays, another=heading[1] == "[[")
        elif entry := _ENTRY.match(content):
            found = f"{table}.{entry[1]}" if table else entry[1]
        else:
            continue
        if len(found) > longest and (key == found or key.startswith((f"{found}.", f"{found}["))):
            line, longest = number, len(found)
    return line


def _entered(names: list[str], arrays: dict[str, int], *, another: bool) -> str:
    """Return the path of the table whose heading has these *names*; `[[…]]` begins *another* one of its array.

    In *arrays* is the number of the current table of each, by its path: those of an outer table begin anew with it.
    """
    path = ""
    for depth, name in enumerate(names, 1):
        path = f"{path}.{name}" if path else name
        if another and depth == len(names):
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = f"{path}[{arrays[path]}]"
    return path


def syntax_problem(text: str, problem: str) -> tuple[int, str]:
    """Return the line that an error of the parser is about, and what it says apart from that.

    At the end of the text that is the last line; of the text as a whole, the first one.
    """
    place = _PLACE.search(problem)
    if place is None:
        return 1, problem
    return int(place[1] or text.rstrip("\n").count("\n") + 1), problem[: place.start()]
