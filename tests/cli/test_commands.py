from __future__ import annotations

import asyncio
import json
import pathlib
import signal
import sys

import pytest
from cli.running import KEYSWITCH, environment, run
from google.protobuf import json_format
from keyswitch.v1 import event_pb2
from keyswitch_sandbox import Sandbox
from support import EGRESS, ServerProcess, server_process

ECHO = ("-m", "sandbox/echo", "--api-key", "sandbox=k")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("generate", "hi", *ECHO), 0, ""),
        (("generate", "hi", "-m", "sandbox/echo"), 4, "MISSING_CREDENTIAL"),
        (("generate", "hi", "-m", "sandbox/bad-key", "--api-key", "sandbox=k"), 4, "INVALID_CREDENTIAL"),
        (
            ("generate", "hi", "-m", "sandbox/rate-limited", "--api-key", "sandbox=k", "--max-attempts", "1"),
            64 + 8,
            "retry after 2 s",
        ),
        (
            ("generate", "hi", "-m", "sandbox/unavailable", "--api-key", "sandbox=k", "--max-attempts", "1"),
            64 + 14,
            "PROVIDER_UNAVAILABLE",
        ),
        (("generate", "hi", "-m", "no-such-model", "--api-key", "sandbox=k"), 64 + 3, "UNROUTABLE_MODEL"),
        (("explain", "-m", "sandbox/echo"), 4, "MISSING_CREDENTIAL"),
        (("generate", " "), 2, "prompt is empty"),
        (("generate", "hi", "--no-such-option"), 2, "no-such-option"),
        (("no-such-command",), 2, "there are completion, decode, doctor"),
        (("health",), 0, ""),
        (("health", "--service", "none"), 64 + 5, "unknown service"),
        (("health", "--server", "127.0.0.1:9", "--timeout", "1"), 64 + 14, "UNAVAILABLE"),
        (("sandbox", "--listen", "0.0.0.0:0"), 2, "loopback"),
        (("serve", "--listen", "0.0.0.0:0"), 2, "insecure_listen"),
        (("health", "--service", "x" * 200), 2, "at most 127 bytes"),
        (("health", "--timeout", "inf"), 2, "--timeout"),
        (("health", "--timeout", "nan"), 2, "--timeout"),
        (("generate", "hi", *ECHO, "--temperature", "nan"), 2, "--temperature"),
        (("generate", "hi", *ECHO, "--max-output-tokens", "4294967296"), 2, "--max-output-tokens"),
        (("generate", "hi", *ECHO, "--max-output-tokens", "4294967295"), 0, ""),
        (("sandbox", "--chunk-bytes", "1"), 2, "--replay"),
        (("decode",), 2, "one of BODY and --batch"),
        (("endpoints", "show"), 2, "Missing argument 'NAME'"),
    ],
)
async def test_the_exit_status_says_what_happened(
    server: ServerProcess, arguments: tuple[str, ...], status: int, words: str
) -> None:
    """Each kind of outcome has its exit status, and standard error says why."""
    code, _, err = await run(*arguments, server=server)
    assert code == status, err
    assert words in err


async def test_attempts_are_options_of_the_command_line(server: ServerProcess) -> None:
    """Fallbacks go on in their order after so many tries as are allowed, and the receipt shows each."""
    plan = ("--fallback", "sandbox/payment-required", "--fallback", "sandbox/echo", "--max-attempts", "1")
    out, err = (
        await run(
            "generate", "hi", "-m", "sandbox/unavailable", "--api-key", "sandbox=k-plan", *plan, "-v", server=server
        )
    )[1:]
    assert out == "hi\n"
    assert [line.split()[1:3] for line in err.splitlines() if line.startswith("attempt")] == [
        ["1", "failed"], ["2", "failed"], ["3", "succeeded"],
    ]  # fmt: skip
    assert "PROVIDER_UNAVAILABLE" in err
    refused = await run("generate", "hi", *ECHO, "--max-attempts", "1", "--hedge-after", "1", server=server)
    assert (refused[0], "limits.hedge_after" in refused[2]) == (64 + 3, True)


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


async def test_standard_input_gives_one_thing(server: ServerProcess) -> None:
    """A second thing from standard input is refused by the names of both, and what was read goes nowhere."""
    named = ("--base-url", "http://127.0.0.1:9", "-m", "m")
    for before, arguments, first, second in (
        ((), ("--api-key", "sandbox=-"), "the prompt", "--api-key (number 1)"),
        ((), ("-", "--api-key", "sandbox= - "), "the prompt", "--api-key (number 1)"),
        ((), ("-f", "-", "--credential", "sandbox.key=-"), "the prompt", "--credential (number 1)"),
        ((), (*named, "--endpoint-key", " - "), "the prompt", "--endpoint-key"),
        (("--token", "-"), ("-m", "sandbox/echo"), "the prompt", "--token"),
        (("--token", "-"), ("hi", "--api-key", "sandbox=-"), "--api-key (number 1)", "--token"),
        ((), ("hi", "--api-key", "sandbox=-", "--api-key", "openai=-"), "--api-key (number 1)", "--api-key (number 2)"),
    ):
        code, out, err = await run(*before, "generate", *arguments, server=server, stdin="k-of-stdin")
        assert (code, out) == (2, "")
        assert err.splitlines()[0] == f"error: {second}: standard input gives {first} already, and one thing only"
    code, _, err = await run("generate", "hi", "-f", "-", *ECHO, server=server, stdin="hi")
    assert (code, "not both" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "stdin", "where"),
    [
        (("generate", "-f", "FILE"), b"", "--file"),
        (("generate", "hi", "--json-schema", "FILE"), b"", "--json-schema"),
        (("generate", "hi", "--api-key", "sandbox=@FILE"), b"", "--api-key (number 1)"),
        (("generate",), b"\xff", "the prompt"),
        (("generate", "\udcff", *ECHO), b"", "an argument"),
    ],
)
async def test_input_that_is_no_text_is_refused(
    tmp_path: pathlib.Path, arguments: tuple[str, ...], stdin: bytes, where: str
) -> None:
    """Bytes that are not UTF-8 are a usage error that says where they were."""
    file = tmp_path / "file"
    file.write_bytes(b"\xff")
    code, _, err = await run(*(argument.replace("FILE", str(file)) for argument in arguments), stdin=stdin)
    assert (code, err.splitlines()[0]) == (
        2,
        f"error: {where}{' is' if where == 'an argument' else ':'} not UTF-8 text",
    )


async def test_events_as_json_are_the_contracts(server: ServerProcess) -> None:
    """`--json` prints one event of the contract a line, in order."""
    code, out, _ = await run("generate", "hi there", *ECHO, "--json", server=server)
    events = [json_format.Parse(line, event_pb2.Event()) for line in out.splitlines()]
    assert code == 0
    assert events[0].WhichOneof("event") == "started"
    assert events[-1].finished.stop_reason == event_pb2.STOP_REASON_STOP
    assert "".join(event.block_delta.text for event in events) == "hi there"


async def test_the_receipt_goes_to_standard_error(server: ServerProcess) -> None:
    """`-v` adds reasoning and receipt, of failures too, to standard error; standard output stays the answer."""
    code, out, err = await run(
        "generate", "hi", "-m", "sandbox/reasoning", "--api-key", "sandbox=k", "-v", server=server
    )
    assert (code, out) == (0, "You said: hi\n")
    assert err.startswith("The user says something.\nmodel ")
    assert "succeeded at sandbox" in err
    code, _, err = await run("generate", "hi", "-m", "sandbox/html", "--api-key", "sandbox=k", "-v", server=server)
    assert (code, err.splitlines()[0].startswith("attempt 1   failed at sandbox")) == (64 + 13, True)


async def test_the_receipt_says_only_what_is_known(tmp_path: pathlib.Path) -> None:
    """An attempt that never reached its provider has no HTTP status, no connection's time and no first token's."""
    async with server_process(tmp_path, {**EGRESS, "KEYSWITCH_SANDBOX_URL": "http://127.0.0.1:9"}) as server:
        code, _, err = await run("generate", "hi", *ECHO, "-v", server=server)
    assert code == 64 + 14
    attempt = err.splitlines()[0]
    assert attempt.startswith("attempt 1   failed at sandbox (127.0.0.1:9), billing BYOK, total ")
    assert attempt.endswith(" ms, PROVIDER_UNAVAILABLE")
    assert attempt.count(",") == 3


async def test_what_came_before_a_failure_is_printed(server: ServerProcess) -> None:
    """A stream that breaks off leaves its text, a line end, the reason, and a failing status."""
    code, out, err = await run(
        "generate", "one two three four five", "-m", "sandbox/truncated", "--api-key", "sandbox=k", server=server
    )
    assert (code, out) == (64 + 10, "one two three\n")
    assert err.startswith("error: STREAM_TRUNCATED")


TOOLS = '{"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"n":{"type":"integer"}}}}}]}'


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (("-m", "sandbox/echo"), "hi\n"),
        (("-m", "sandbox/refusal"), "I cannot help with that.\n"),
        (("-m", "sandbox/empty"), ""),
        (
            ("-m", "sandbox/tools", "--options", TOOLS),
            '{"id": "call_sandbox_0", "name": "f", "argumentsJson": "{\\"n\\":1}"}\n',
        ),
    ],
)
async def test_an_answer_prints_the_same_streamed_and_whole(
    server: ServerProcess, arguments: tuple[str, ...], out: str
) -> None:
    """Text and refusals are printed with one line end, tool calls as one JSON object a line, nothing as nothing."""
    for mode in ("--stream", "--no-stream"):
        assert (await run("generate", "hi", *arguments, "--api-key", "sandbox=k", mode, server=server))[:2] == (0, out)


async def test_a_json_schema_shapes_the_answer(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """`--json-schema` sends the schema that the file holds."""
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
    code, out, err = await run("explain", *ECHO, server=server)
    assert code == 0
    assert "the server's providers are not those of this installation" in err  # its sandbox is elsewhere
    lines = out.splitlines()
    assert {"asked       sandbox/echo", "provider    sandbox", "credential  caller", "billing     BYOK"} <= set(lines)
    (flags,) = (line for line in lines if line.startswith("flags "))
    assert "reasoning_control=effort, " in flags


@pytest.mark.parametrize(
    ("arguments", "decision"),
    [
        (("--api-key", "openrouter=k"),
         ("openrouter", "openrouter/auto", "openai-chat", "openrouter.ai", "caller", "BYOK")),
        (("-m", "anthropic/claude-sonnet-4.5", "--api-key", "openrouter=k"),
         ("openrouter", "anthropic/claude-sonnet-4.5", "openai-chat", "openrouter.ai", "caller", "BYOK")),
        (("-m", "anthropic/claude-sonnet-4.5", "--api-key", "openrouter=k", "--api-key", "anthropic=j"),
         ("anthropic", "claude-sonnet-4.5", "anthropic-messages", "api.anthropic.com", "caller", "BYOK")),
        (("--api-key", "minimax=k"), ("minimax", "MiniMax-M3", "anthropic-messages", "api.minimax.io", "caller", "BYOK")),
        (("-p", "ollama", "-m", "llama3"), ("ollama", "llama3", "openai-chat", "localhost:11434", "none", "BYOK")),
    ],
)  # fmt: skip
async def test_a_route_is_decided_offline(arguments: tuple[str, ...], decision: tuple[str, ...]) -> None:
    """Without any server the decision is the one that a server would make, in a stable shape."""
    code, out, _ = await run("explain", "--offline", "--json", *arguments)
    names = ("provider", "model", "dialect", "host", "credential", "billing")
    assert (code, json.loads(out)) == (0, dict(zip(names, decision, strict=True)))


async def test_fallbacks_are_explained_too(server: ServerProcess) -> None:
    """Where a request would go on is told in order, by a server and offline, in words and as JSON."""
    arguments = ("-m", "groq/a", "--api-key", "groq=k", "--fallback", "groq/b", "--fallback", "groq/c")
    code, asked, _ = await run("explain", *arguments, server=server)
    assert (code, [line for line in asked.splitlines() if line.startswith("asked")]) == (
        0, ["asked       groq/a", "asked       groq/b", "asked       groq/c"],
    )  # fmt: skip
    assert (await run("explain", "--offline", *arguments))[:2] == (0, asked)
    code, out, _ = await run("explain", "--offline", "--json", *arguments)
    shown = json.loads(out)
    assert (code, shown["model"], [each["model"] for each in shown["fallbacks"]]) == (0, "groq/a", ["groq/b", "groq/c"])


async def test_help_says_what_a_hedge_may_cost() -> None:
    """Nobody asks for a second try without having been told that both may be billed."""
    _, out, _ = await run("generate", "--help")
    assert "both may be billed" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "status", "code", "reason"),
    [
        (("-p", "nobody"), 67, "INVALID_ARGUMENT", "UNKNOWN_PROVIDER"),
        (("-p", "nobody", "-m", "openai/gpt-4o", "--api-key", "openai=k"), 67, "INVALID_ARGUMENT", "UNKNOWN_PROVIDER"),
        (("-m", "openai/gpt-4o"), 4, "FAILED_PRECONDITION", "MISSING_CREDENTIAL"),
        ((), 67, "INVALID_ARGUMENT", "PROVIDER_REQUIRED"),
    ],
)
async def test_what_goes_nowhere_is_told_offline(
    arguments: tuple[str, ...], status: int, code: str, reason: str
) -> None:
    """Status, code and reason are those of the call, as JSON on standard output or as a line on standard error."""
    returned, out, _ = await run("explain", "--offline", "--json", *arguments)
    error = json.loads(out)["error"]
    assert (returned, error["code"], error["reason"]) == (status, code, reason)
    returned, out, err = await run("explain", "--offline", *arguments)
    assert (returned, out, err) == (status, "", f"error: {reason}: {error['message']}\n")


@pytest.mark.parametrize("place", [(), ("--offline",)])
async def test_the_request_that_would_be_sent_is_shown(server: ServerProcess, place: tuple[str, ...]) -> None:
    """--body shows it, by the server and offline."""
    arguments = ("explain", "-m", "anthropic/claude-sonnet-4.5", "--api-key", "anthropic=k", "--body", *place)
    body = {"model": "claude-sonnet-4.5", "max_tokens": 8192, "messages": [], "stream": True}
    code, out, _ = await run(*arguments, server=server)
    line = next(line for line in out.splitlines() if line.startswith("body"))
    assert (code, json.loads(line.removeprefix("body"))) == (0, body)
    code, out, _ = await run(*arguments, "--json", server=server)
    shown = json.loads(out)
    assert (code, shown["body"] if place else json.loads(shown["routes"][0]["bodyJson"])) == (0, body)


async def test_the_operators_settings_apply_offline(server: ServerProcess, tmp_path: pathlib.Path) -> None:
    """--config brings the operator's own providers, and belongs to --offline; its variable is read there alone."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "own.toml").write_text(
        'schema = 1\nid = "own"\nname = "Own"\nbase_url = "https://own.example.com:8443/v1"\ndefault_model = "big"\n'
        '[[dialects]]\nname = "openai-chat"\npath = "/chat/completions"\n'
    )
    config = tmp_path / "keyswitch.toml"
    config.write_text(f'providers = ["{tmp_path / "rows"}"]\n')
    arguments = ("explain", "--json", "--api-key", "own=k", "--config", str(config))
    code, out, _ = await run(*arguments, "--offline")
    assert (code, json.loads(out)["host"], json.loads(out)["model"]) == (0, "own.example.com:8443", "big")
    code, _, err = await run(*arguments)
    assert code == 2
    assert "--offline" in err
    nowhere = {"KEYSWITCH_CONFIG": str(tmp_path / "nowhere.toml")}
    assert (await run("explain", "-m", "sandbox/echo", "--api-key", "sandbox=k", server=server, env=nowhere))[0] == 0
    config.write_text("no_such_setting = 1\n")
    code, _, err = await run(*arguments, "--offline")
    assert code == 2
    assert "no_such_setting" in err


async def test_ctrl_c_in_the_middle_of_a_stream(server: ServerProcess) -> None:
    """Ctrl-C ends the command at once with 130, after the text that came while more was still to come."""
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, "generate", "a b c d e", "-m", "sandbox/stall-mid-stream", "--api-key", "sandbox=k",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment(server),
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readexactly(1) == b"a"
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 5)
    assert (process.returncode, err.strip()) == (130, b"interrupted")


async def test_ctrl_c_before_a_whole_answer(server: ServerProcess, sandbox: Sandbox) -> None:
    """Ctrl-C ends a call that has nothing to show yet just as well, all the way to the provider."""
    before = {entry.number for entry in sandbox.journal}
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, "generate", "hi", "-m", "sandbox/stall", "--api-key", "sandbox=k", "--no-stream",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment(server),
    )  # fmt: skip
    await sandbox.journal.wait_for(lambda journal: any(entry.number not in before for entry in journal))
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 5)
    assert (process.returncode, out, err.strip()) == (130, b"", b"interrupted")
    (entry,) = [entry for entry in sandbox.journal if entry.number not in before]
    await sandbox.journal.wait_for(lambda _: entry.state == "closed_by_client")


@pytest.mark.parametrize("command", ["serve", "sandbox"])
async def test_a_server_prints_one_line_and_stops_on_a_signal(command: str) -> None:
    """`serve` and `sandbox` print where they listen, nothing else, and exit 0 on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH,
        command,
        "--listen",
        "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    line = json.loads(await process.stdout.readline())
    assert list(line) == ["listening"]
    assert line["listening"].startswith("127.0.0.1:")
    process.terminate()
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out) == (0, b"")


@pytest.mark.parametrize("command", ["serve", "sandbox"])
async def test_a_port_in_use_is_said(server: ServerProcess, command: str) -> None:
    """`serve` and `sandbox` exit 1 with a clear line where the port is taken, and print no address."""
    code, out, err = await run(command, "--listen", server.address)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: cannot listen on {server.address}: ")


@pytest.mark.parametrize(("command", "missing"), [("serve", "structlog"), ("sandbox", "aiohttp")])
async def test_a_missing_extra_is_named(command: str, missing: str) -> None:
    """Without the server's packages `serve` and `sandbox` say what to install."""
    hide = f"import sys; sys.modules[{missing!r}] = None; from keyswitch_cli.__main__ import main; main()"
    code, _, err = await run(command, executable=(sys.executable, "-c", hide))
    assert code == 1
    assert "pip install 'keyswitch[server]'" in err


async def test_help_costs_click_and_nothing_else() -> None:
    """`--help` imports of ours the entry point alone, and none of what commands need."""
    script = (
        "import sys; from keyswitch_cli.__main__ import _run; _run(['--help']); "
        "print(sorted(name for name in sys.modules if name.split('.')[0] in "
        "('keyswitch_cli', 'keyswitch', 'keyswitch_client', 'grpc', 'google', 'aiohttp', 'asyncio', 'msgspec', 'structlog')))"
    )
    code, out, _ = await run(executable=(sys.executable, "-c", script))
    assert (code, out.splitlines()[-1]) == (
        0,
        "['keyswitch_cli', 'keyswitch_cli.__main__', 'keyswitch_cli.exit_codes']",
    )
