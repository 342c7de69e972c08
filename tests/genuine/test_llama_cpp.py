"""A genuine engine: a model of random weights behind llama.cpp's own OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from keyswitch_client import AsyncClient, KeyswitchError
from keyswitch_engine import registry
from support import EGRESS, server_process

HERE = pathlib.Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "engine"
PYTHON = CACHE / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not os.environ.get("TEST_ENGINE"), reason="the engine takes minutes to build; run `make test-engine`"
)


@pytest.fixture(scope="module")
def model() -> pathlib.Path:
    """Build the engine, and write its model, unless a run before did."""
    file = CACHE / "random.gguf"
    if not file.exists():
        requirements = HERE.parents[1] / "requirements" / "engine.txt"
        for command in (
            [sys.executable, "-m", "venv", str(CACHE)],
            [str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(requirements)],
            [str(PYTHON), str(HERE / "write_model.py"), str(file)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
            assert done.returncode == 0, done.stdout + done.stderr
    return file


@pytest.fixture(scope="module")
async def engine(
    model: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, pathlib.Path]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("engine") / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(PYTHON), "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", "256", "--host", "127.0.0.1",
            "--port", str(port), stdout=output, stderr=output,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(60):
            while True:
                assert process.returncode is None, log.read_text()
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{url}/models") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.1)
        yield url, log
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
async def client(
    engine: tuple[str, pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncClient]:
    folder = tmp_path_factory.mktemp("server")
    row = (pathlib.Path(registry.__file__).parent / "providers" / "llamacpp.toml").read_text()
    (folder / "llamacpp.toml").write_text(re.sub(r'(?m)^base_url = ".*"$', f'base_url = "{engine[0]}"', row))
    async with (
        server_process(folder, {**EGRESS, "KEYSWITCH_PROVIDERS": json.dumps([str(folder)])}) as server,
        AsyncClient(server.address) as running,
    ):
        yield running


async def test_a_genuine_stream_is_read_to_its_end(client: AsyncClient) -> None:
    """Text comes in pieces, ends for the reason that was asked for, and is the same when asked again."""
    texts = []
    for _ in range(2):
        async with client.stream(
            provider="llamacpp", model="random", messages="hello there", max_output_tokens=24, temperature=0.0
        ) as stream:
            pieces = [piece async for piece in stream.text_deltas()]
            texts.append("".join(pieces))
            assert stream.stop_reason == "LENGTH"
            assert stream.receipt.attempts[0].upstream_status == 200
    assert texts[0] == texts[1]
    print(f"the engine said {texts[0]!r}")


async def test_a_whole_answer_counts_tokens(client: AsyncClient) -> None:
    """Counts are those of the engine."""
    answer = await client.generate(
        provider="llamacpp", model="random", messages="hello there", max_output_tokens=8, temperature=0.0
    )
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8


async def test_the_engine_stops_when_the_caller_does(client: AsyncClient, engine: tuple[str, pathlib.Path]) -> None:
    """Leaving a stream in its middle closes the engine's socket, which it notes in its log."""
    before = engine[1].read_text().lower().count("disconnected")
    async with client.stream(
        provider="llamacpp", model="random", messages="hello there", max_output_tokens=200
    ) as stream:
        async for _ in stream:
            break
    async with asyncio.timeout(5):
        while engine[1].read_text().lower().count("disconnected") == before:
            await asyncio.sleep(0.05)


async def test_an_overflow_of_the_context_is_told(client: AsyncClient) -> None:
    """A prompt that the engine's context cannot hold has its reason."""
    with pytest.raises(KeyswitchError) as raised:
        await client.generate(provider="llamacpp", model="random", messages="hello there " * 200)
    assert raised.value.reason == "CONTEXT_OVERFLOW"
