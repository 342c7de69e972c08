"""Decodes every recorded answer with `keyswitch decode` and compares it with what the vendors' own SDKs make of it.

The folder of recordings, in $RECORDINGS, brings the comparison along (`compare.py`). Each answer is decoded whole, byte
by byte and at random cuts, and every stream that is cut in its middle has to come back as truncated. Exits 1 on any
disagreement.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

from keyswitch_engine.dialects import DIALECTS

KEYSWITCH = str(pathlib.Path(sys.executable).parent / "keyswitch")
MODES = {
    "whole": [],
    "byte by byte": ["--chunk-bytes", "1"],
    "random cuts": ["--chunk-bytes", "random:1"],
    "other random cuts": ["--chunk-bytes", "random:2"],
    "cut in the middle": ["--cut"],
}


def main() -> None:
    """Run every mode."""
    recordings = os.environ.get("RECORDINGS", "")
    if not recordings:
        print("conformance skipped: there is no folder of recordings; set RECORDINGS")
        return
    compare = [sys.executable, str(pathlib.Path(recordings) / "compare.py")]
    protocols = [argument for name in DIALECTS for argument in ("--protocol", name)]
    failed = False
    for mode, arguments in MODES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            batch, results = folder / "batch.jsonl", folder / "results.jsonl"
            cut = [str(folder / "cut")] if mode == "cut in the middle" else []
            with batch.open("wb") as out:
                subprocess.run([*compare, "batch", *protocols, *arguments, *cut], stdout=out, check=True)
            with results.open("wb") as out:
                subprocess.run([KEYSWITCH, "decode", "--batch", str(batch)], stdout=out, check=True)
            print(f"== {mode}", flush=True)
            against = ["--cut", str(batch)] if cut else []
            failed |= (
                subprocess.run([*compare, "score", str(results), *protocols, *against], check=False).returncode != 0
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
