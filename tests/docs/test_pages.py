from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import re
import shlex
import sys
from collections.abc import AsyncIterator

import pytest
from callers import secured
from keyswitch_sandbox import Sandbox
from keyswitch_server.settings import load

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
BIN = pathlib.Path(sys.executable).parent
SH, PYTHON, TOML = (re.compile(rf"```{kind}\n(.*?)```", re.DOTALL) for kind in ("sh", "python", "toml"))


async def run(*command: str, env: dict[str, str], folder: pathlib.Path) -> tuple[int, str]:
    """Run a command; return its status, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL,
        env={**os.environ, **env}, cwd=folder,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.fixture
async def ollama() -> AsyncIterator[Sandbox]:
    """A model server at Ollama's own port."""
    try:
        running = await Sandbox(port=11434, model_server=True).__aenter__()
    except OSError as error:
        assert error.errno == errno.EADDRINUSE
        pytest.skip("something listens at Ollama's port already")
    yield running
    await running.__aexit__(None, None, None)


async def test_the_commands_of_the_page_on_local_servers_work(ollama: Sandbox, tmp_path: pathlib.Path) -> None:
    """As they stand, but for the ports and addresses of servers that only their readers have."""
    text = (DOCS / "local.md").read_text(encoding="utf-8")
    rows = tmp_path / "providers"
    rows.mkdir()
    row = (DOCS.parent / "server/keyswitch_engine/providers/lmstudio.toml").read_text(encoding="utf-8")
    (rows / "lmstudio.toml").write_text(re.sub(r"http://localhost:\d+", ollama.url, row))
    env = {
        "KEYSWITCH_HOME": str(tmp_path),
        "KEYSWITCH_SERVER": "127.0.0.1:1",
        "KEYSWITCH_KEY_STORE": "file",
        "GATEWAY_KEY": "k",
    }
    said = []
    for line in "".join(SH.findall(text)).splitlines():
        command, *arguments = shlex.split(re.sub(r"http://(127\.0\.0\.1:8080|192\.168\.1\.20:8000)", ollama.url, line))
        code, out = await run(str(BIN / command), *arguments, env=env, folder=tmp_path)
        assert code == 0, (line, out)
        said.append(out)
    note = re.compile(r"note: no server is there; dispatched from this machine to http://[a-z0-9.]+:\d+\n")
    assert [note.sub("", out) for out in said if "hi" in out.split()] == ["hi\n"] * 4
    script = tmp_path / "example.py"
    script.write_text("".join(PYTHON.findall(text)).replace("http://127.0.0.1:8080", ollama.url))
    code, out = await run(sys.executable, str(script), env=env, folder=tmp_path)
    assert (code, out.splitlines()[-2:]) == (0, ["hi", "hi"])


async def test_what_the_page_on_security_shows_works(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """Its settings load, and its client and its command are let in, where the names are those of the test's server."""
    text = (DOCS / "security.md").read_text(encoding="utf-8")
    (settings,) = (found for found in TOML.findall(text) if "tls_certificate" in found)
    (tmp_path / "keyswitch.toml").write_text(settings)
    loaded = load(tmp_path / "keyswitch.toml")
    assert (loaded.listen, loaded.caller_limits["*"].concurrent_calls) == ("0.0.0.0:50551", 50)
    async with secured(tmp_path, sandbox) as made:
        (tmp_path / "token").write_text(made.tokens["blue"])
        address = made.server.address
        (command,) = (line for line in "".join(SH.findall(text)).splitlines() if "--token" in line)
        name, *arguments = shlex.split(command)
        code, out = await run(str(BIN / name), *arguments, env={"KEYSWITCH_SERVER": address}, folder=tmp_path)
        assert (code, out) == (0, "Say hello\n")
        (example,) = (found for found in PYTHON.findall(text) if "tls_credentials" in found)
        script = tmp_path / "example.py"
        script.write_text(
            f"token = open('token').read()\n{example}".replace("gateway.example:50551", address).replace(
                "    ...", "    print(client.registry_info().server_version)"
            )
        )
        code, out = await run(sys.executable, str(script), env={}, folder=tmp_path)
    assert code == 0, out
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", out)
