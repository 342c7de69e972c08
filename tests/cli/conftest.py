from __future__ import annotations

import pathlib

import pytest
from cli.homes import NOBODY


@pytest.fixture
def home(tmp_path: pathlib.Path) -> dict[str, str]:
    """The environment of a user who has set up nothing yet."""
    return {"KEYSWITCH_HOME": str(tmp_path / "home"), **NOBODY}
