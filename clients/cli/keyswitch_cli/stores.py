"""Where keys of endpoints are kept: the system's credential store, or a file where the user says so.

Nothing is ever moved from one to the other, and a file is never chosen in silence.
"""

from __future__ import annotations

import json
import pathlib
import stat
from typing import Any, Protocol

import click

from keyswitch_cli.home import home, locked, write

__all__ = ["STORES", "KeyStore", "key_store"]

STORES = ("keyring", "file")
"""The kinds of stores."""

_SERVICE = "keyswitch"
_OR_A_FILE = "--store file keeps keys in a file that only you can read"


class KeyStore(Protocol):
    """Keeps keys by names. Every method raises `click.ClickException` if it cannot."""

    def get(self, name: str) -> str | None:
        """Return a key, None if there is none."""

    def set(self, name: str, key: str) -> None:
        """Keep a key, and make sure that it is kept."""

    def remove(self, name: str) -> None:
        """Forget a key, if there is one."""


def key_store(kind: str) -> KeyStore:
    """Return the store of a kind.

    Raises:
        click.ClickException: there is none here.
    """
    return _System() if kind == "keyring" else _File(home() / "keys.json")


class _System:
    """The system's credential store, through the library keyring."""

    def __init__(self) -> None:
        try:
            import keyring  # noqa: PLC0415 - an extra, and slow to import
            from keyring.errors import KeyringError  # noqa: PLC0415
        except ModuleNotFoundError:
            raise click.ClickException(
                f"the system's credential store needs: pip install 'keyswitch[keyring]'; {_OR_A_FILE}"
            ) from None
        self._backend: Any = keyring.get_keyring()
        self._failure = KeyringError
        if self._backend.priority <= 0:  # the library's stand-ins for none
            raise click.ClickException(f"there is no credential store on this system; {_OR_A_FILE}")

    def get(self, name: str) -> str | None:
        try:
            key: str | None = self._backend.get_password(_SERVICE, name)
        except self._failure as error:
            raise _failed(error) from None
        return key

    def set(self, name: str, key: str) -> None:
        try:
            self._backend.set_password(_SERVICE, name, key)
        except self._failure as error:
            raise _failed(error) from None
        if self.get(name) != key:
            raise click.ClickException("the system's credential store did not keep the key")

    def remove(self, name: str) -> None:
        if self.get(name) is not None:
            try:
                self._backend.delete_password(_SERVICE, name)
            except self._failure as error:
                raise _failed(error) from None


def _failed(error: Exception) -> click.ClickException:
    """Return what is told of a failure; its own text is not."""
    return click.ClickException(f"the system's credential store failed: {type(error).__name__}")


class _File:
    """A file of one's own."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def get(self, name: str) -> str | None:
        return self._read().get(name)

    def set(self, name: str, key: str) -> None:
        with locked():
            self._write(self._read() | {name: key})

    def remove(self, name: str) -> None:
        with locked():
            keys = self._read()
            if keys.pop(name, None) is not None:
                self._write(keys)

    def _read(self) -> dict[str, str]:
        """Return the keys; a file that is not understood is never taken for an empty one, which would replace it."""
        try:
            with self._path.open(encoding="utf-8") as file:
                if stat.S_IMODE(self._path.stat().st_mode) & 0o077:
                    raise click.ClickException(f"{self._path}: others can read it; chmod 600 it, and change the keys")
                keys = json.load(file)["keys"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            raise click.ClickException(f"{self._path}: it is no file of keys that could be read") from None
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            raise click.ClickException(f"{self._path}: it is no file of keys that could be read")
        return keys

    def _write(self, keys: dict[str, str]) -> None:
        write(self._path, json.dumps({"schema": 1, "keys": keys}, indent=1, sort_keys=True) + "\n")
