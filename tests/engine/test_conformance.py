from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from keyswitch_engine.dialects import DIALECTS

PROTOCOLS = [argument for name in DIALECTS for argument in ("--protocol", name)]
KEYSWITCH = [sys.executable, "-m", "keyswitch_cli"]


@pytest.mark.parametrize("cuts", [[], ["--chunk-bytes", "1"], ["--chunk-bytes", "random:3"]])
def test_recorded_answers_decode_as_the_vendors_own_sdks_read_them(
    recordings_folder: pathlib.Path, tmp_path: pathlib.Path, cuts: list[str]
) -> None:
    """Every recorded answer of every dialect, whole, byte by byte and at random cuts, agrees with what is expected of it."""
    compare = [sys.executable, str(recordings_folder / "compare.py")]
    batch, results = tmp_path / "batch.jsonl", tmp_path / "results.jsonl"
    with batch.open("wb") as out:
        subprocess.run([*compare, "batch", *PROTOCOLS, *cuts], stdout=out, check=True)
    with results.open("wb") as out:
        subprocess.run([*KEYSWITCH, "decode", "--batch", str(batch)], stdout=out, check=True)
    score = subprocess.run([*compare, "score", str(results), *PROTOCOLS], capture_output=True, text=True, check=False)
    assert score.returncode == 0, score.stdout


def test_streams_cut_in_the_middle_are_truncated(recordings_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The first half of a recorded stream is never a finished answer."""
    compare = [sys.executable, str(recordings_folder / "compare.py")]
    batch, results = tmp_path / "batch.jsonl", tmp_path / "results.jsonl"
    with batch.open("wb") as out:
        arguments = ["batch", *PROTOCOLS, "--cut", str(tmp_path / "cut")]
        subprocess.run([*compare, *arguments], stdout=out, check=True)
    with results.open("wb") as out:
        subprocess.run([*KEYSWITCH, "decode", "--batch", str(batch)], stdout=out, check=True)
    outcomes = [json.loads(line)["outcome"] for line in results.read_text().splitlines()]
    assert len(outcomes) > 450
    assert set(outcomes) == {"truncated"}
