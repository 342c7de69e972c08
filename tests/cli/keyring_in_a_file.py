"""A credential store for the library keyring, as a desktop has one; what it holds is in the file that KEYRING_FILE names."""

from __future__ import annotations

import json
import os
import pathlib

from keyring.backend import KeyringBackend

__all__ = ["Keyring"]


class Keyring(KeyringBackend):
    """Keeps passwords in a file."""

    priority = 1  # type: ignore[assignment] # as every backend of the library does it

    def _read(self) -> dict[str, str]:
        path = pathlib.Path(os.environ["KEYRING_FILE"])
        return json.loads(path.read_text()) if path.exists() else {}  # type: ignore[no-any-return] # it is one

    def _write(self, passwords: dict[str, str]) -> None:
        if "KEYRING_FORGETS" not in os.environ:
            pathlib.Path(os.environ["KEYRING_FILE"]).write_text(json.dumps(passwords))

    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write(self._read() | {f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        passwords = self._read()
        del passwords[f"{service}/{username}"]
        self._write(passwords)
