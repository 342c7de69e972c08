from __future__ import annotations

import errno
import json
import pathlib
import re
import sys
from collections.abc import AsyncIterator

import pytest
from cli.running import run
from keyswitch_sandbox import Sandbox
from support import server_process

ROWS = pathlib.Path(__file__).parents[2] / "server/keyswitch_engine/providers"


def noted(model_server: Sandbox, why: str = "no server is there") -> str:
    """Return the line about a call that the command makes itself."""
    return f"note: {why}; dispatched from this machine to {model_server.url}\n"


@pytest.fixture
async def model_server() -> AsyncIterator[Sandbox]:
    async with Sandbox(model_server=True) as running:
        yield running


@pytest.fixture
def home(tmp_path: pathlib.Path, model_server: Sandbox) -> dict[str, str]:
    """A user whose model servers listen elsewhere than usual, which rows of the user's own say."""
    rows = tmp_path / "home" / "providers"
    rows.mkdir(parents=True)
    for provider in ("ollama", "lmstudio", "vllm", "llamacpp"):
        text = (ROWS / f"{provider}.toml").read_text()
        (rows / f"{provider}.toml").write_text(
            re.sub(r'(?m)^base_url = "http://localhost:\d+', f'base_url = "{model_server.url}', text)
        )
    return {"KEYSWITCH_HOME": str(tmp_path / "home"), "KEYSWITCH_SERVER": "127.0.0.1:1"}


@pytest.mark.parametrize("model", ["ollama/llama3", "lmstudio/qwen3", "vllm/qwen3", "llamacpp/qwen3"])
async def test_a_local_model_answers_without_a_server(home: dict[str, str], model_server: Sandbox, model: str) -> None:
    """The command says in one line that it did the server's work, and standard output has the answer alone."""
    assert await run("generate", "-m", model, "hi", env=home) == (0, "hi\n", noted(model_server))
    status, out, err = await run("generate", "-m", model, "--json", "--no-stream", "hi", env=home)
    assert (status, json.loads(out)["message"]["parts"][0]["text"]["text"], err) == (0, "hi", noted(model_server))
    status, out, err = await run("explain", "-m", model, env=home)
    assert (status, err) == (0, noted(model_server))
    assert "credential  none" in out


async def test_ollama_works_out_of_the_box(tmp_path: pathlib.Path) -> None:
    """With a model server at Ollama's own port nothing has to be set up at all."""
    try:
        ollama = await Sandbox(port=11434, model_server=True).__aenter__()
    except OSError as error:
        assert error.errno == errno.EADDRINUSE
        pytest.skip("something listens at Ollama's port already")
    try:
        env = {"KEYSWITCH_HOME": str(tmp_path / "nothing"), "KEYSWITCH_SERVER": "127.0.0.1:1"}
        assert await run("generate", "-m", "ollama/llama3", "hi", env=env) == (
            0, "hi\n", "note: no server is there; dispatched from this machine to http://localhost:11434\n",
        )  # fmt: skip
        assert [entry.key_sha256 for entry in ollama.journal] == [""]
    finally:
        await ollama.__aexit__(None, None, None)


async def test_the_server_refuses_what_the_command_does_itself(
    home: dict[str, str], model_server: Sandbox, tmp_path: pathlib.Path
) -> None:
    """A server that opens nothing is asked first; told never to, the command passes on its refusal and hint."""
    async with server_process(
        tmp_path, {"KEYSWITCH_PROVIDERS": json.dumps([f"{home['KEYSWITCH_HOME']}/providers"])}
    ) as server:
        env = {"KEYSWITCH_HOME": home["KEYSWITCH_HOME"]}
        note = noted(model_server, "the server does not call local endpoints")
        assert await run("generate", "-m", "ollama/llama3", "hi", server=server, env=env) == (0, "hi\n", note)
        for never in (("--local", "never"), ()):
            status, out, err = await run(
                "generate", "-m", "ollama/llama3", *never, "hi", server=server, env=env | {"KEYSWITCH_LOCAL": "never"}
            )
            assert (status, out) == (64 + 7, "")
            assert err.startswith("error: BLOCKED_ENDPOINT: ")
            assert "dispatched by your client" in err


async def test_a_server_without_tls_is_no_hindrance_to_local_calls(home: dict[str, str], model_server: Sandbox) -> None:
    """What is called from this machine needs no TLS to a server elsewhere; what is not is a usage error, as ever."""
    env = home | {"KEYSWITCH_SERVER": "gateway.example:50551"}
    endpoint = ("--base-url", model_server.url, "-m", "echo", "hi")
    for local in ("always", "auto"):
        assert await run("generate", "--local", local, *endpoint, env=env) == (0, "hi\n", "")
    for refused in (("generate", "--local", "never", *endpoint), ("generate", "-m", "ollama/x", "hi"), ("health",)):
        status, out, err = await run(*refused, env=env)
        assert (status, out) == (2, "")
        assert err.startswith("error: without TLS, keys and tokens are sent to this machine and nowhere else; ")
        assert "give --tls or --tls-ca, or --insecure to" in err


async def test_what_to_do_is_said_in_options(
    home: dict[str, str], model_server: Sandbox, tmp_path: pathlib.Path
) -> None:
    """Advice of the library names the command's options, where rows lead elsewhere than the server's."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    row = pathlib.Path(home["KEYSWITCH_HOME"], "providers", "ollama.toml").read_text()
    (theirs / "ollama.toml").write_text(row.replace(model_server.url, "https://gateway.corp.internal"))
    async with server_process(tmp_path, {"KEYSWITCH_PROVIDERS": json.dumps([str(theirs)])}) as server:
        env = {"KEYSWITCH_HOME": home["KEYSWITCH_HOME"]}
        status, _, err = await run("generate", "-m", "ollama/x", "hi", server=server, env=env)
    assert status == 64 + 7
    assert err.endswith(
        f"  not dispatched from this machine: its rows lead to {model_server.url}, and the server's to "
        "https://gateway.corp.internal; name an endpoint of your own, or dispatch all from this machine "
        "(--local always)\n"
    )


@pytest.mark.parametrize(
    ("dialect", "path", "forms"),
    [
        ("openai-chat", "/v1/chat/completions", ("", "/", "/v1", "/v1/", "/v1/chat/completions")),
        ("openai-responses", "/v1/responses", ("", "/v1", "/v1/", "/v1/responses")),
        ("anthropic-messages", "/v1/messages", ("", "/v1", "/v1/", "/v1/messages")),
        ("openai-chat", "/api/v4/chat/completions", ("/api/v4", "/api/v4/chat/completions/")),
    ],
)
async def test_every_form_of_a_url_reaches_the_right_path(
    home: dict[str, str], model_server: Sandbox, dialect: str, path: str, forms: tuple[str, ...]
) -> None:
    """A base URL with or without its version, and a whole one, are joined with the dialect's path once."""
    for form in forms:
        asked = ("generate", "--base-url", model_server.url + form, "--dialect", dialect, "-m", "m", "hi")
        assert await run(*asked, env=home) == (0, "hi\n", ""), form
    assert [entry.path for entry in model_server.journal] == [path] * len(forms)


async def test_a_key_for_a_url_comes_from_everywhere_but_the_command_line(
    home: dict[str, str], sandbox: Sandbox, tmp_path: pathlib.Path
) -> None:
    """A file, a variable and standard input give the key of an endpoint; without one the endpoint refuses."""
    asked = ("generate", "--base-url", sandbox.url, "-m", "sandbox/echo")
    (tmp_path / "key").write_text("k\n")
    for key in (f"@{tmp_path / 'key'}", "env:MY_KEY", "-"):
        given = await run(*asked, "--endpoint-key", key, "hi", env=home | {"MY_KEY": "k"}, stdin="k")
        assert given == (0, "hi\n", "")
    status, _, err = await run(*asked, "hi", env=home)
    assert (status, err) == (4, "error: INVALID_CREDENTIAL: Invalid API key for custom\n")
    assert (await run(*asked, "--endpoint-key", "-", env=home, stdin="k"))[0] == 2
    assert (await run("generate", "--endpoint-key", "k", "-m", "m", "hi", env=home))[0] == 2
    assert (await run("generate", "--base-url", sandbox.url, "hi", env=home))[0] == 2


async def test_a_request_to_a_server_starts_no_engine() -> None:
    """Help and a call by a server import neither the engine nor what only changes of definitions need."""
    code = (
        "import sys; import keyswitch_cli.commands.generate; from keyswitch_client import Client; Client('localhost').close();"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'keyswitch_engine', 'keyswitch_bridge', 'aiohttp', 'yarl', 'tomlkit', 'tomllib', 'keyring'}))"
    )
    assert await run("-c", code, executable=(sys.executable,)) == (0, "[]\n", "")
