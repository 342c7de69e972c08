from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OLDEST = {"grpcio": "1.76.0", "protobuf": "6.31.1", "googleapis-common-protos": "1.70.0"}
SCRIPT = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(root / "proto"), str(root / "clients/python")]
for file in sorted((root / "proto/keyswitch/v1").glob("*_pb2*.py")):
    importlib.import_module(f"keyswitch.v1.{file.stem}")
import keyswitch_client
from keyswitch.v1 import dispatch_service_pb2 as pb
request = pb.GenerateRequest(messages=[keyswitch_client.user("hi")])
assert pb.StreamGenerateRequest.FromString(request.SerializeToString()).messages[0].parts[0].text.text == "hi"
import google.protobuf, grpc
print(grpc.__version__, google.protobuf.__version__)
"""


def newest() -> dict[str, str]:
    """Return the locked versions."""
    lock = (ROOT / "requirements" / "dev.txt").read_text()
    return {name: re.findall(rf"^{name}==(\S+)", lock, re.MULTILINE)[0] for name in OLDEST}


@pytest.mark.parametrize("pair", ["oldest", "newest"])
def test_the_stubs_import_and_work(pair: str) -> None:
    """Stubs and client import without a warning and round-trip a message on the oldest and the newest supported pair."""
    versions = OLDEST if pair == "oldest" else newest()
    folder = ROOT / ".cache" / "stub-matrix" / "-".join(versions.values())
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pins = [f"{name}=={version}" for name, version in versions.items()]
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins], check=True
        )
        (folder / "ready").touch()
    result = subprocess.run(
        [str(python), "-W", "error", "-c", SCRIPT, str(ROOT)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [versions["grpcio"], versions["protobuf"]]
