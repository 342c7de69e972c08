"""The main job on embedded defaults: CLI -> gRPC -> HTTP -> sandbox, with tokens as they come."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

KEYSWITCH = str(pathlib.Path(sys.executable).parent / "keyswitch")
PROMPT = "Every token of this sentence travels from the sandbox over HTTP, through the server, over gRPC, to you."


@contextlib.contextmanager
def running(name: str, env: Mapping[str, str], log: pathlib.Path) -> Iterator[str]:
    """Run a command that serves; yield where it listens, and stop it in the end. On failure, show its log."""
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [KEYSWITCH, name, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **env},
        ) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout is not None else b""
            if not line:
                sys.exit(1)
            yield json.loads(line)["listening"]
        except SystemExit:
            print(f"--- {name}\n{log.read_text(errors='replace')}", file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    """Run the demo; exit 0 if everything worked."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        logs = pathlib.Path(scratch)
        sandbox = stack.enter_context(running("sandbox", {}, logs / "sandbox.log"))
        egress = {
            "KEYSWITCH_SANDBOX_URL": f"http://{sandbox}",
            "KEYSWITCH_EGRESS_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
            "KEYSWITCH_EGRESS_PLAIN_HTTP_HOSTS": '["127.0.0.1"]',
        }
        server = stack.enter_context(running("serve", egress, logs / "server.log"))
        print(f"sandbox on {sandbox}, server on {server}", file=sys.stderr)
        command = [KEYSWITCH, "generate", PROMPT, "--server", server, "-m", "sandbox/slow", "-v"]
        with subprocess.Popen(
            [*command, "--api-key", "sandbox=env:DEMO_KEY"], env={**os.environ, "DEMO_KEY": "demo"}
        ) as generate:
            try:
                status = generate.wait()
            finally:
                generate.terminate()
        if status:
            sys.exit(1)


if __name__ == "__main__":
    # whatever stops the demo, what it started stops with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
