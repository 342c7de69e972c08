"""Lists of models in files: as text, JSON or TOML, and as model servers answer when they are asked for theirs.

Nothing in a list is guessed at. Routing lets ids through that nobody listed, so that a file of another format, read as
text, would pass for a list of models that lead somewhere.
"""

from __future__ import annotations

import json
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import click

from keyswitch_cli.inputs import read_file, read_stdin

__all__ = ["read_models"]

_LISTS = ("models", "data")
"""Where an object has its list: our own form, Gemini, Cohere and Ollama; and OpenAI and those who follow it."""
_NO_ID = re.compile(r"[-*\[{]|.*[\s,\"'`]")
"""How a line begins that is another format's, or has more than an id on it."""


def read_models(file: str) -> list[dict[str, str]]:
    """Return what *file* lists, or standard input for `-`: each entry has a `model`, and a `provider` if given.

    The ending says what a file is; without one that is known here, `[` or `{` begin JSON, and anything else is text.

    Raises:
        click.UsageError: it is no list, or lists nothing; the message says where.
    """
    ending = pathlib.PurePath(file).suffix.lower()
    if ending in {".yaml", ".yml"}:
        raise click.UsageError("FILE: YAML is not read; give the list as JSON or TOML, or as text with an id a line")
    text = read_stdin("FILE") if file == "-" else read_file(file, "FILE")
    where = "standard input" if file == "-" else file  # which was read, and so is no key by mistake
    if ending == ".toml":
        entries = _of_document(_parsed(tomllib.loads, text, where), where)
    elif ending == ".json" or text.lstrip().startswith(("[", "{")):
        entries = _of_document(_parsed(_parse_json, text, where), where)
    else:
        entries = list(_of_text(text, where))
    if not entries:
        raise click.UsageError(f"{where}: lists no model")
    return entries


def _of_text(text: str, where: str) -> Iterator[dict[str, str]]:
    """Yield the entries of a text: an id a line, and behind `#` what is for people."""
    for number, line in enumerate(text.splitlines(), 1):
        model = line.partition("#")[0].strip()
        if _NO_ID.match(model):
            raise click.UsageError(
                f"{where}, line {number}: this is no model id; text has one a line, without bullet, quotes, commas or "
                "spaces. Let the name of a JSON or TOML file end in .json or .toml"
            )
        if model:
            yield {"model": model}


def _parse_json(text: str) -> Any:
    """Parse JSON, or a list that has an object a line, if only of one model.

    Of a key that comes twice readers disagree which one counts.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n")) if line.strip()]
    if len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for _, line in lines):
        return [json.loads("\n" * number + line, object_pairs_hook=_unrepeated) for number, line in lines]
    document = json.loads(text, object_pairs_hook=_unrepeated)
    if isinstance(document, dict) and not document.keys() & set(_LISTS) and isinstance(_id_of(document), str):
        return [document]
    return document


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises `ValueError` if a key of it came twice."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            from keyswitch_engine.secret import without_keys  # noqa: PLC0415 - not needed for anything else here

            raise ValueError(without_keys(f"the key {name!r} comes twice in one object"))
        fields[name] = value
    return fields


def _parsed(parse: Callable[[str], Any], text: str, where: str) -> Any:
    """Parse a document."""
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:  # both formats' errors are ValueErrors, and say where
        raise click.UsageError(f"{where}: {error}") from None


def _of_document(document: Any, where: str) -> list[dict[str, str]]:
    """Return the entries of a document: a list of them, or an object that has it."""
    name = "models"
    listed = document
    if isinstance(document, dict):
        names = [name for name in _LISTS if name in document]
        if len(names) > 1:
            raise click.UsageError(f"{where}: has both `models` and `data`, and only one of them can be the list")
        name = names[0] if names else name
        listed = document.get(name)
    if not isinstance(listed, list):
        raise click.UsageError(
            f"{where}: expected a list of models, or an object with such a list as `models` or `data`"
        )
    return [_of_entry(entry, f"{where}: {name}[{number}]") for number, entry in enumerate(listed)]


def _of_entry(entry: Any, where: str) -> dict[str, str]:
    """Return an entry of a document; a template or an answer may say more of each."""
    fields = {"model": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
    model = _id_of(fields)
    if not fields.keys() & {"model", "id"} and isinstance(fields.get("name"), str):
        model = fields["name"].removeprefix("models/")  # which is what Gemini begins it with
    if not isinstance(model, str) or not model.strip():
        raise click.UsageError(f"{where} is neither an id nor an object with one as `model`, `id` or `name`")
    provider = fields.get("provider")
    if not isinstance(provider, str | None):
        raise click.UsageError(f"{where}.provider is no text")
    return {"model": model, "provider": provider or ""}


def _id_of(fields: dict[str, Any]) -> Any:
    """Return what is a model's id for sure; a `name` is one only in a list of models."""
    return fields.get("model", fields.get("id"))
