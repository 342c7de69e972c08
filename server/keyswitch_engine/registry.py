"""The registry: what is known of each provider, loaded from one TOML file each.

Loading is strict and fails closed: an unknown key, a bad pattern, a name claimed twice or a wrong schema version raises
`RegistryError` naming the file, since a row that is read half could send a key to the wrong place.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit, urlunsplit

import msgspec

from keyswitch_engine.provider import Provider, ProviderFile, SurfaceTable, build_provider, check_parameters

__all__ = ["Registry", "RegistryError", "load"]


class RegistryError(Exception):
    """A provider file is invalid; the message names the file, and where possible the key."""


class Registry:
    """Every provider, by id; immutable once built."""

    def __init__(self, providers: Iterable[Provider], fingerprint: str) -> None:
        """Index *providers*.

        Raises:
            RegistryError: two of them claim a name.
        """
        by_id = {provider.id: provider for provider in sorted(providers, key=lambda provider: provider.id)}
        self.providers: Mapping[str, Provider] = MappingProxyType(by_id)
        self.fingerprint = fingerprint
        """16 hexadecimal digits over the data; comments and order do not change it."""
        self._names: dict[str, Provider] = {}
        for provider in by_id.values():
            for name in (provider.id, *provider.aliases):
                other = self._names.setdefault(name.lower(), provider)
                if other is not provider:
                    raise RegistryError(f"{provider.id}: the name {name!r} belongs to {other.id} already")

    def find(self, name: str) -> Provider | None:
        """Return the provider with this id or alias, in any case; None if there is none."""
        return self._names.get(name.lower())

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
    rows: dict[str, ProviderFile] = {}
    for directory in (built_in, *directories):
        if not directory.is_dir():
            raise RegistryError(f"{directory}: no such directory of provider files")
        seen: dict[str, pathlib.Path] = {}
        for file in sorted(directory.glob("*.toml")):
            row = _read(file)
            if row.id in seen:
                raise RegistryError(f"{file}: the id {row.id!r} is taken by {seen[row.id]}")
            seen[row.id] = file
            rows[row.id] = row
    for provider_id, url in base_urls.items():
        if provider_id not in rows:
            raise RegistryError(f"a base URL is set for {provider_id!r}, which is no provider")
        rows[provider_id] = _moved(rows[provider_id], url)
    digest = hashlib.sha256(msgspec.json.encode([rows[key] for key in sorted(rows)], order="sorted"))
    try:
        providers = [build_provider(row) for row in rows.values()]
    except ValueError as error:  # files were checked one by one, so this is a base URL of the operator's
        raise RegistryError(str(error)) from error
    return Registry(providers, digest.hexdigest()[:16])


def _read(file: pathlib.Path) -> ProviderFile:
    """Read one provider file and check all that can be checked of it alone."""
    try:
        row = msgspec.toml.decode(file.read_bytes(), type=ProviderFile)
        check_parameters(row)
        build_provider(row)
    except (OSError, ValueError) as error:  # msgspec's and tomllib's errors are ValueErrors
        raise RegistryError(f"{file}: {error}") from error
    return row


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
