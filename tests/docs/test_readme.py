from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import shlex
import sys

import pytest
from keyswitch_client import AsyncClient
from keyswitch_sandbox import Sandbox
from support import EGRESS, ServerProcess, server_process

README = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
BIN = pathlib.Path(sys.executable).parent


async def run(*command: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode() + err.decode()


def block(language: str, word: str) -> str:
    """Return the one block of the README that holds a word."""
    (found,) = [text for kind, text in BLOCKS if kind == language and word in text]
    return found


async def test_the_command_of_the_readme_works(server: ServerProcess) -> None:
    """The CLI call of the README prints the answer, and the receipt."""
    command = shlex.split(block("sh", "keyswitch generate"))
    code, out = await run(str(BIN / command[0]), *command[1:], env={"KEYSWITCH_SERVER": server.address})
    assert code == 0
    assert out.startswith("Say hello\n")
    assert "succeeded at sandbox" in out


async def test_the_python_example_of_the_readme_works(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """The Python example of the README runs as it stands, but for the server's port."""
    script = tmp_path / "example.py"
    script.write_text(block("python", "Client(").replace("127.0.0.1:50551", server.address))
    code, out = await run(sys.executable, str(script))
    assert (code, out) == (0, "Say hello\nSTOP, 2 tokens\n")


@pytest.mark.parametrize(
    "path", ["keyswitch.v1.DispatchService/StreamGenerate", "keyswitch.v1.DispatchService/Generate"]
)
async def test_the_grpcurl_call_of_the_readme_works_with_its_twin(
    server: ServerProcess, tmp_path: pathlib.Path, path: str
) -> None:
    """The README's grpcurl request, sent by `buf curl` through reflection, is answered."""
    command = shlex.split(block("sh", "grpcurl").replace("\\\n", " "))
    body = command[command.index("-d") + 1]
    assert json.loads(body)
    code, out = await run(
        str(BIN / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", body,
        f"http://{server.address}/{path}",
        env={"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert code == 0, out
    assert '"hi"' in out
    assert "STOP_REASON_STOP" in out


async def test_the_settings_of_the_routing_page_are_good(tmp_path: pathlib.Path) -> None:
    """The operator's settings that the page on routing shows load, and its commands decide by them."""
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (tmp_path / "keyswitch.toml").write_text(settings)
    (tmp_path / "list.txt").write_text("gpt-4o-mini\nopenrouter-bedrock\n")
    files = {"FILE": str(tmp_path / "keyswitch.toml"), "LIST": str(tmp_path / "list.txt")}
    said = ""
    for line in commands.splitlines():
        command, *arguments = (files.get(word, word) for word in shlex.split(line))
        code, out = await run(str(BIN / command), *arguments)
        assert code == 0, out
        said += out
    assert "billing     PLATFORM" in said
    assert "2 of 2 resolve" in said


def test_every_target_that_the_readme_names_exists() -> None:
    """`make` targets in the README are in the Makefile."""
    makefile = (pathlib.Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


async def test_the_provider_of_contributing_is_one_file(sandbox: Sandbox, tmp_path: pathlib.Path) -> None:
    """The made-up provider of CONTRIBUTING, moved to the sandbox, is dispatched to without any code."""
    text = (pathlib.Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    row = row.replace("https://api.example.com", sandbox.url).replace('"large"', '"echo"')
    (tmp_path / "example.toml").write_text(row)
    env = {**EGRESS, "KEYSWITCH_PROVIDERS": json.dumps([str(tmp_path)])}
    async with server_process(tmp_path, env) as own, AsyncClient(own.address) as client:
        answer = await client.generate(provider="example", credentials={"example": "test"}, messages="hello there")
    assert answer.text == "hello there"
    assert answer.receipt.attempts[0].provider == "example"
