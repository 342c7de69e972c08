from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys

import pytest
from google.protobuf import json_format
from keyswitch.v1 import event_pb2
from keyswitch_sandbox import Sandbox
from support import ServerProcess

KEYSWITCH = [sys.executable, "-m", "keyswitch_cli"]


async def run(
    *arguments: str, server: ServerProcess | None = None, stdin: str = "", env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run the command; return exit status, standard output and standard error."""
    environment = {**os.environ, **({"KEYSWITCH_SERVER": server.address} if server else {}), **(env or {})}
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


ECHO = ("-m", "sandbox/echo", "--api-key", "sandbox=k")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("generate", "hi", *ECHO), 0, ""),
        (("generate", "hi", "-m", "sandbox/echo"), 4, "MISSING_CREDENTIAL"),
        (("generate", "hi", "-m", "sandbox/bad-key", "--api-key", "sandbox=k"), 4, "INVALID_CREDENTIAL"),
        (("generate", "hi", "-m", "sandbox/rate-limited", "--api-key", "sandbox=k"), 64 + 8, "retry after 2 s"),
        (("generate", "hi", "-m", "sandbox/unavailable", "--api-key", "sandbox=k"), 64 + 14, "PROVIDER_UNAVAILABLE"),
        (("generate", "hi", "-m", "no-such-model", "--api-key", "sandbox=k"), 64 + 3, "UNROUTABLE_MODEL"),
        (("explain", "-m", "sandbox/echo"), 4, "MISSING_CREDENTIAL"),
        (("generate", " "), 2, "prompt is empty"),
        (("generate", "hi", "--no-such-option"), 2, "no-such-option"),
        (("no-such-command",), 2, "no-such-command"),
        (("health",), 0, ""),
        (("health", "--service", "none"), 64 + 5, "unknown service"),
        (("health", "--server", "127.0.0.1:9", "--timeout", "1"), 64 + 14, "UNAVAILABLE"),
        (("sandbox", "--listen", "0.0.0.0:0"), 2, "loopback"),
        (("serve", "--listen", "0.0.0.0:0"), 2, "insecure_listen"),
        (("decode",), 2, "one of BODY and --batch"),
    ],
)
async def test_the_exit_status_says_what_happened(
    server: ServerProcess, arguments: tuple[str, ...], status: int, words: str
) -> None:
    """Each kind of outcome has its exit status, and standard error says why."""
    code, _, err = await run(*arguments, server=server)
    assert code == status, err
    assert words in err


BARE = "sk-a-bare-key-by-mistake"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--api-key", BARE),
        ("--api-key", f"={BARE}"),
        ("--api-key", f"{BARE}="),
        ("--api-key", f"{BARE} {BARE}=x"),
        ("--api-key", f"openai={BARE} with spaces"),
        ("--api-key", f"openai={BARE}", "--api-key", f"OpenAI={BARE}"),
        ("--credential", BARE),
        ("--credential", f"openai={BARE}"),
        ("--credential", f"openai.color={BARE}"),
        ("--api-key", f"openai=@/nowhere/{BARE}"),
        ("--api-key", f"openai=env:{BARE}"),
        ("--api-key", "a=-", "--api-key", "b=-"),
        ("--api-key", f"openai={BARE}", "--credential", f"openai.key={BARE}"),
        ("--credential", f"openai.key={BARE}", "--credential", f"openai.resource={BARE}"),
    ],
)
async def test_a_malformed_key_is_never_repeated(server: ServerProcess, arguments: tuple[str, ...]) -> None:
    """Malformed credentials exit 2, naming option and position, and never show the argument."""
    code, out, err = await run("generate", "hi", *arguments, server=server)
    assert code == 2
    assert "--api-key" in err or "--credential" in err or "standard input" in err
    assert BARE not in out + err


@pytest.mark.parametrize(
    ("arguments", "stdin", "env"),
    [
        (("--api-key", " SANDBOX = k=1 "), "", {}),
        (("--api-key", "sandbox=env:MY_KEY"), "", {"MY_KEY": "k=1"}),
        (("--api-key", "sandbox=-"), "k=1\n", {}),
        (("--credential", "sandbox.key=k=1"), "", {}),
        (("--credential", "sandbox.key=k=1", "--credential", "sandbox.project=p"), "", {}),
    ],
)
async def test_a_key_comes_from_where_it_is_said(
    server: ServerProcess, sandbox: Sandbox, arguments: tuple[str, ...], stdin: str, env: dict[str, str]
) -> None:
    """Literal, environment, standard input and field forms all give the same key to the provider."""
    import hashlib  # noqa: PLC0415 - here alone

    code, out, err = await run("generate", "hi", "-m", "sandbox/echo", *arguments, server=server, stdin=stdin, env=env)
    assert (code, out) == (0, "hi\n"), err
    last = list(sandbox.journal)[-1]
    assert last.key_sha256 == hashlib.sha256(b"Bearer k=1").hexdigest()


async def test_a_key_comes_from_a_file(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """`@FILE` reads the key, without its line end."""
    (tmp_path / "key").write_text("k\n")
    code, out, _ = await run(
        "generate", "hi", "-m", "sandbox/echo", "--api-key", f"sandbox=@{tmp_path}/key", server=server
    )
    assert (code, out) == (0, "hi\n")


async def test_the_prompt_comes_from_argument_file_or_stdin(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """Each source of the prompt is read as it is."""
    (tmp_path / "prompt").write_text("from a file")
    for arguments, stdin, text in (
        (("from an argument",), "", "from an argument"),
        (("-f", str(tmp_path / "prompt")), "", "from a file"),
        ((), "from stdin", "from stdin"),
        (("-",), "from stdin", "from stdin"),
    ):
        assert (await run("generate", *arguments, *ECHO, server=server, stdin=stdin))[:2] == (0, text + "\n")


async def test_the_server_is_named_before_or_after_the_command(server: ServerProcess) -> None:
    """`--server` works on either side, and wins over the environment."""
    wrong = {"KEYSWITCH_SERVER": "127.0.0.1:9"}
    assert (await run("--server", server.address, "health", env=wrong))[0] == 0
    assert (await run("health", "--server", server.address, env=wrong))[0] == 0


async def test_events_as_json_are_the_contracts(server: ServerProcess) -> None:
    """`--json` prints one event of the contract a line, in order."""
    code, out, _ = await run("generate", "hi there", *ECHO, "--json", server=server)
    events = [json_format.Parse(line, event_pb2.Event()) for line in out.splitlines()]
    assert code == 0
    assert events[0].WhichOneof("event") == "started"
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_STOP
    assert "".join(event.block_delta.text for event in events) == "hi there"


async def test_the_receipt_goes_to_standard_error(server: ServerProcess) -> None:
    """`-v` adds reasoning and receipt to standard error; standard output stays the answer."""
    code, out, err = await run(
        "generate", "hi", "-m", "sandbox/reasoning", "--api-key", "sandbox=k", "-v", server=server
    )
    assert (code, out) == (0, "You said: hi\n")
    assert "The user says something." in err
    assert "succeeded at sandbox" in err


async def test_what_came_before_a_failure_is_printed(server: ServerProcess) -> None:
    """A stream that breaks off leaves its text, a line end, the reason, and a failing status."""
    code, out, err = await run(
        "generate", "one two three four five", "-m", "sandbox/truncated", "--api-key", "sandbox=k", server=server
    )
    assert (code, out) == (64 + 10, "one two three\n")
    assert err.startswith("error: STREAM_TRUNCATED")


async def test_tool_calls_and_whole_answers_are_printed(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """Without streaming the answer is the same; a JSON Schema shapes it."""
    assert (await run("generate", "hi", *ECHO, "--no-stream", server=server))[:2] == (0, "hi\n")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type":"object","properties":{"n":{"type":"integer"}}}')
    code, out, _ = await run(
        "generate", "hi", "-m", "sandbox/json", "--api-key", "sandbox=k", "--json-schema", str(schema), server=server
    )
    assert (code, json.loads(out)) == (0, {"n": 1})


async def test_lists_are_made_for_pipes(server: ServerProcess) -> None:
    """Piped, providers are lines of tab-separated columns; with --json objects; explain likewise."""
    _, out, _ = await run("providers", "grok", server=server)
    assert out.split("\t")[0] == "xai"
    _, out, _ = await run("providers", "--json", server=server)
    assert all(json.loads(line)["id"] for line in out.splitlines())
    code, out, _ = await run("explain", *ECHO, "--json", server=server)
    assert (code, json.loads(out)["routes"][0]["provider"]) == (0, "sandbox")


async def test_ctrl_c_in_the_middle_of_a_stream(server: ServerProcess, sandbox: Sandbox) -> None:
    """Ctrl-C ends the command at once with 130."""
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, "generate", "a b c d e", "-m", "sandbox/stall-mid-stream", "--api-key", "sandbox=k",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KEYSWITCH_SERVER": server.address},
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readexactly(1) == b"a"
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 5)
    assert (process.returncode, err.strip()) == (130, b"interrupted")


async def test_a_reader_that_leaves_is_no_crash(server: ServerProcess) -> None:
    """When whoever reads the output goes away, the command ends without a traceback."""
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, "generate", "word", "-m", "sandbox/endless", "--api-key", "sandbox=k",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "KEYSWITCH_SERVER": server.address},
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readexactly(4)
    process.stdout._transport.close()  # type: ignore[attr-defined] # there is no public way to close a pipe of a process
    assert process.stderr is not None
    err = await asyncio.wait_for(process.stderr.read(), 10)
    assert await process.wait() == 1
    assert b"Traceback" not in err


@pytest.mark.parametrize("command", ["serve", "sandbox"])
async def test_a_server_prints_one_line_and_stops_on_a_signal(command: str) -> None:
    """`serve` and `sandbox` print where they listen, nothing else, and exit 0 on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, command, "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = json.loads(await process.stdout.readline())
    assert list(line) == ["listening"]
    assert line["listening"].startswith("127.0.0.1:")
    process.terminate()
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out) == (0, b"")


async def test_help_imports_nothing_heavy() -> None:
    """`--help` costs click and nothing else."""
    script = (
        "import sys; from keyswitch_cli.__main__ import _run; _run(['--help']); "
        "print([name for name in ('grpc', 'google.protobuf', 'aiohttp', 'msgspec', 'structlog') if name in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().splitlines()[-1] == "[]"
