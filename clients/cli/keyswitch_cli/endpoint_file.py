"""The file of named endpoints: read, and changed so that all else in it stays as it is.

It is its user's, who may write it in every way that TOML has, and the library that edits it does not master all of
them. So what it made is read again, and written only if it says what the file said before and the one change.
"""

from __future__ import annotations

import json
import pathlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import click

from keyswitch_cli.home import check_writable, home, locked, write

__all__ = ["change", "check", "path", "read"]

_WHERE = re.compile(r"\(at [a-z0-9, ]+\)")


def path() -> pathlib.Path:
    """Return the file."""
    return home() / "endpoints.toml"


def read() -> tuple[str, dict[str, Any]]:
    """Return the file's text and what it says, nothing if there is none.

    Raises:
        click.ClickException: it cannot be read.
    """
    try:
        text = path().read_bytes().decode()  # line ends as they are
        return text, tomllib.loads(text)
    except FileNotFoundError:
        return "", {}
    except tomllib.TOMLDecodeError as error:
        where = _WHERE.search(str(error))  # the rest may be a part of the file
        raise click.ClickException(f"{path()}: it is not TOML {where[0] if where else ''}".rstrip()) from None
    except (OSError, UnicodeDecodeError):
        raise click.ClickException(f"{path()}: it cannot be read") from None


def check(name: str, values: Mapping[str, str] | None) -> None:
    """Make sure that a definition can be changed so, before anything else is that goes with it.

    Raises:
        click.ClickException: the file cannot be read or written, or only be changed by hand; what to change is said.
    """
    if _changed(name, values) is not None:
        check_writable(path())


def change(name: str, values: Mapping[str, str] | None) -> None:
    """Set *values* of a definition, made if it is missing, or remove it if they are None.

    Raises:
        click.ClickException: as for `check`; the file is as it was.
    """
    with locked():
        text = _changed(name, values)
        if text is not None:
            write(path(), text)


def _changed(name: str, values: Mapping[str, str] | None) -> str | None:
    """Return the file's text with a change, None if it says so already."""
    text, content = read()
    try:
        wanted = _with(content, name, values)
        if wanted == content:
            return None
        changed = _edited(text, name, values)
        is_right = _compared(tomllib.loads(changed)) == _compared(wanted)
    except Exception:  # noqa: BLE001 - whatever the library stumbles over, the file is left alone
        is_right, changed = False, ""
    if not is_right:
        raise click.ClickException(
            f"{path()}: this command cannot change what is written in that way; it was left as it was. "
            f"By hand, {_in_words(name, values)}"
        )
    return changed


def _with(content: Mapping[str, Any], name: str, values: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what the file is to say."""
    endpoints = dict(content.get("endpoints", {}))
    if values is None:
        del endpoints[name]
    else:
        endpoints[name] = endpoints.get(name, {}) | values
    return {**content, "endpoints": endpoints}


def _edited(text: str, name: str, values: Mapping[str, str] | None) -> str:
    """Return the text as the library changes it, with comments and order kept."""
    import tomlkit  # noqa: PLC0415 - slow to import, and only changes need it

    document = tomlkit.parse(text)
    endpoints: Any = document.setdefault("endpoints", tomlkit.table(is_super_table=True))
    if values is None:
        del endpoints[name]
        return _with_what_introduces(text, _with_line_ends(text, tomlkit.dumps(document)))
    if name in endpoints:
        _update(endpoints[name], values)
    else:
        table = tomlkit.table()
        table.update(values)
        endpoints[name] = table
    return _with_line_ends(text, tomlkit.dumps(document))


def _update(entry: Any, values: Mapping[str, str]) -> None:
    """Set values of a definition; new ones come before the comments at its end, which are about what follows it."""
    from tomlkit.items import Comment, Table, Whitespace  # noqa: PLC0415 - as above

    last = []
    if isinstance(entry, Table):
        while entry.value.body and isinstance(entry.value.body[-1][1], Comment | Whitespace):
            last.append(entry.value.body.pop())
    entry.update(values)
    if last:
        entry.value.body.extend(reversed(last))


def _with_line_ends(before: str, after: str) -> str:
    """Return a text with the line ends that all lines had before; the library's own are those of Unix."""
    ends = before.count("\n")
    return re.sub(r"(?<!\r)\n", "\r\n", after) if ends and ends == before.count("\r\n") else after


def _with_what_introduces(before: str, after: str) -> str:
    """Return a text without a definition, but with the comments at its end: they are about what follows it."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    start = next((number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), len(new))
    end = start + len(old) - len(new)
    if old[end:] != new[start:]:
        return after
    first = end
    for number in range(end - 1, start, -1):
        if old[number].lstrip().startswith("#"):
            first = number
        elif old[number].strip():
            break
    return "".join((*new[:start], *old[first:end], *new[start:]))


def _compared(content: Mapping[str, Any]) -> str:
    """Return what a file says in a form that tells apart 1, 1.0 and true, and has one NaN; no endpoints are none."""
    said = {name: value for name, value in content.items() if value or name != "endpoints"}
    return json.dumps(said, sort_keys=True, default=repr)


def _in_words(name: str, values: Mapping[str, str] | None) -> str:
    """Return what is left to do."""
    where = f"endpoints.{json.dumps(name)}"
    if values is None:
        return f"take {where} out"
    fields = (f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in values.items())
    return f"set in {where}: {', '.join(fields)}"
