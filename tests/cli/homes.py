"""A user's own folder, with the definitions of endpoints and their keys."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

from cli.running import run

__all__ = ["CANARY", "FILE", "NOBODY", "files", "listed", "write"]

NOBODY = {"KEYSWITCH_SERVER": "127.0.0.1:1"}
CANARY = "canary-Zq7/+endpoint=key"
FILE = ("--store", "file")


def files(home: Mapping[str, str]) -> pathlib.Path:
    return pathlib.Path(home["KEYSWITCH_HOME"])


def write(home: Mapping[str, str], text: str) -> pathlib.Path:
    """Write the definitions as a user would."""
    files(home).mkdir(parents=True, exist_ok=True)
    path = files(home) / "endpoints.toml"
    path.write_text(text)
    return path


async def listed(home: Mapping[str, str]) -> dict[str, dict[str, object]]:
    status, out, err = await run("endpoints", "list", "--json", env=home)
    assert status == 0, err
    return {entry["name"]: entry for entry in json.loads(out)}
