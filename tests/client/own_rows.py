"""Rows of a user's own, for clients that call by themselves."""

from __future__ import annotations

import json
import pathlib
import re

from keyswitch_client import LocalOptions

__all__ = ["NOBODY", "rows_at", "with_rows"]

NOBODY = "127.0.0.1:1"
"""Where no server is."""
ROWS = pathlib.Path(__file__).parents[2] / "server/keyswitch_engine/providers"


def rows_at(folder: pathlib.Path, url: str, *providers: str) -> LocalOptions:
    """Lay down rows of the user's own that move *providers* to *url*."""
    for provider in providers:
        text = (ROWS / f"{provider}.toml").read_text()
        at = re.search(r'(?m)^base_url = "https?://[^/"]+([^"]*)"', text)
        assert at is not None
        (folder / f"{provider}.toml").write_text(text.replace(at[0], f'base_url = "{url}{at[1]}"'))
    return LocalOptions(providers=(folder,))


def with_rows(options: LocalOptions) -> dict[str, str]:
    """Return what the environment says to a server that has the same rows."""
    return {"KEYSWITCH_PROVIDERS": json.dumps([str(options.providers[0])])}
