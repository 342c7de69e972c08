"""The registry: what is known of each provider, loaded from one TOML file each.

Loading is strict and fails closed: an unknown key, a bad pattern, a name claimed twice or a wrong schema version raises
`RegistryError` naming file and line, since a row that is read half could send a key to the wrong place.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec

from keyswitch_engine.claims import Claims, folded
from keyswitch_engine.operator import Operator
from keyswitch_engine.provider import Provider
from keyswitch_engine.provider_file import (
    ProviderFile,
    RowError,
    SurfaceTable,
    build_provider,
    check_parameters,
    schema_error,
)
from keyswitch_engine.secret import without_keys
from keyswitch_engine.toml_lines import line_of, syntax_problem

__all__ = ["Registry", "RegistryError", "load"]


class RegistryError(Exception):
    """A provider file or a setting is invalid; the message names file and line, or the setting."""

    def __init__(self, message: str, where: str = "") -> None:
        """Say so in *message*, which may quote what is wrong: without what looks like a key, unlike *where* that is."""
        super().__init__(where + without_keys(message))


_UNGOVERNED = Operator()


class Registry:
    """Every provider, by id, and what the operator lays down beside them; immutable once built."""

    def __init__(self, providers: Iterable[Provider], fingerprint: str, operator: Operator = _UNGOVERNED) -> None:
        """Index *providers*, no two of which claim the same name; *operator* speaks of these providers."""
        by_id = {provider.id: provider for provider in sorted(providers, key=lambda provider: provider.id)}
        self.providers: Mapping[str, Provider] = MappingProxyType(by_id)
        self.fingerprint = fingerprint
        """16 hexadecimal digits over the data; comments and order do not change it."""
        self.operator = operator
        self.claims = Claims(by_id.values(), {name: model.provider for name, model in operator.virtual_models.items()})
        """Who claims which model."""
        self._names = {
            folded(name): provider for provider in by_id.values() for name in (provider.id, *provider.aliases)
        }

    def find(self, name: str) -> Provider | None:
        """Return the provider with this id or alias, however it is `folded`; None if there is none."""
        return self._names.get(folded(name))

    @property
    def names(self) -> tuple[str, ...]:
        """Every id and alias, sorted."""
        return tuple(sorted(self._names))


def load(directories: Sequence[pathlib.Path] = (), base_urls: Mapping[str, str] = MappingProxyType({})) -> Registry:
    """Load the built-in rows, then the operator's, which add to them or replace those of the same id.

    *base_urls* moves providers, by id: a sandbox on another port, or a proxy. Surfaces elsewhere than the provider's
    base URL keep their paths and move to the same origin.

    Raises:
        RegistryError: a file is invalid or cannot be read, or *base_urls* names no provider.
    """
    built_in = pathlib.Path(str(importlib.resources.files("keyswitch_engine") / "providers"))
    files: dict[str, _File] = {}
    for directory in (built_in, *directories):
        seen: dict[str, _File] = {}
        for path in _listed(directory):
            file = _read(path)
            other = seen.setdefault(file.row.id, file)
            if other is not file:
                raise file.error(RowError("id", f"the id {file.row.id!r} is taken by {other.path}"))
        files = {key: file for key, file in files.items() if key not in seen} | seen
    _check_claims(files.values())
    rows = {provider_id: file.row for provider_id, file in files.items()}
    for provider_id, url in base_urls.items():
        if provider_id not in rows:
            raise RegistryError(f"a base URL is set for {provider_id!r}, which is no provider")
        try:
            rows[provider_id] = _moved(rows[provider_id], url)
            build_provider(rows[provider_id])
        except ValueError as error:
            raise RegistryError(f"the base URL set for {provider_id}: {error}") from error
    digest = hashlib.sha256(msgspec.json.encode([rows[key] for key in sorted(rows)], order="sorted"))
    return Registry([build_provider(row) for row in rows.values()], digest.hexdigest()[:16])


class _File(NamedTuple):
    """A provider file that is valid by itself."""

    path: pathlib.Path
    text: str
    row: ProviderFile

    def error(self, problem: RowError) -> RegistryError:
        """Return an error that says where in the file the *problem* is."""
        return _located(self.path, line_of(self.text, problem.key), problem)


def _listed(directory: pathlib.Path) -> list[pathlib.Path]:
    """Return the provider files of a directory, sorted; one that cannot be listed is not an empty one."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RegistryError(f"{directory}: no such directory of provider files") from error
    except OSError as error:
        raise RegistryError(f"{directory}: the directory cannot be listed: {error.strerror}") from error


def _read(path: pathlib.Path) -> _File:
    """Read one provider file and check all that can be checked of it alone."""
    text = _text(path)
    try:
        row = msgspec.toml.decode(text, type=ProviderFile)
        check_parameters(row)
        build_provider(row)
    except msgspec.ValidationError as error:
        problem = schema_error(error)
        raise _located(path, line_of(text, problem.key), problem) from error
    except RowError as error:
        raise _located(path, line_of(text, error.key), error) from error
    except (ValueError, RecursionError) as error:  # what is no TOML; brackets in brackets end in the second
        raise _located(path, *syntax_problem(text, str(error))) from error
    return _File(path, text, row)


def _text(path: pathlib.Path) -> str:
    """Return what is in a file."""
    data = b""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise RegistryError(f"{path}: it is no regular file")
        data = path.read_bytes()
        return data.decode()
    except OSError as error:
        raise RegistryError(f"{path}: it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _located(path, data.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from error


def _located(path: pathlib.Path, line: int, problem: RowError | str) -> RegistryError:
    """Return an error that says where a problem is."""
    return RegistryError(str(problem), f"{path}:{line}: ")


def _check_claims(files: Iterable[_File]) -> None:
    """Check files against each other: a name, a vendor token and a listed model each belong to one provider.

    Between two that list an id nothing would decide. Routers list what others have, and claim none of it.
    """
    names: dict[str, _File] = {}
    tokens: dict[str, _File] = {}
    models: dict[str, _File] = {}
    for file in files:
        row = file.row
        for key, claimed, owners in (
            ("id", (row.id,), names),
            ("aliases", row.aliases, names),
            ("vendor_token", (row.vendor_token,) if row.vendor_token else (), tokens),
            ("models", () if row.router else row.models, models),
        ):
            for name in claimed:
                owner = owners.setdefault(name, file)
                if owner is not file:
                    raise file.error(RowError(key, f"{name!r} belongs to {owner.row.id} already, see {owner.path}"))


def _moved(row: ProviderFile, url: str) -> ProviderFile:
    """Return a row whose every address is at another origin; parameters stay in the paths that have them."""
    origin = urlsplit(url)

    def move(table: SurfaceTable) -> SurfaceTable:
        path = urlsplit(table.base_url).path
        moved = urlunsplit((origin.scheme, origin.netloc, path, "", "")) if table.base_url else ""
        return msgspec.structs.replace(table, base_url=moved)

    others = {
        name: move(table) if (table := getattr(row, name)) is not None else None
        for name in ("model_listing", "embeddings", "token_counting")
    }
    dialects = tuple(move(table) for table in row.dialects)
    return msgspec.structs.replace(row, base_url=url, dialects=dialects, regional_base_urls={}, **others)
