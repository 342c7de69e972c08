"""Generates the stubs of the contract, or with --check compares them with the committed ones.

Runs in the environment of requirements/proto.txt: the oldest supported toolchain, so that the stubs import on every
supported grpcio and protobuf.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(out: pathlib.Path) -> None:
    """Generate all stubs below *out*."""
    files = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("keyswitch/*/*.proto"))
    services = [file for file in files if file.endswith("_service.proto")]
    scripts = pathlib.Path(sys.executable).parent
    base = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}"]
    base += [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    runs = (
        [f"--python_out={out}", f"--mypy_out=quiet:{out}", *files],
        [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services],
    )
    for arguments in runs:
        subprocess.run([*base, *arguments], check=True)


def stubs(folder: pathlib.Path) -> dict[str, bytes]:
    """Return every stub below a folder by its path."""
    found = (file for pattern in PATTERNS for file in folder.rglob(pattern))
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def main() -> None:
    """Generate, or check."""
    if sys.argv[1:] != ["--check"]:
        generate(PROTO)
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(pathlib.Path(scratch))
        fresh, committed = stubs(pathlib.Path(scratch)), stubs(PROTO)
    differing = sorted(path for path in fresh.keys() | committed.keys() if fresh.get(path) != committed.get(path))
    if differing:
        sys.exit(f"stubs differ from the .proto files, run `make proto`: {', '.join(differing)}")


if __name__ == "__main__":
    main()
