from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator

import grpc
import pytest
from cli.running import KEYSWITCH, environment, run, run_on_terminal
from keyswitch.v1 import dispatch_service_pb2, event_pb2, registry_service_pb2, usage_pb2
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceServicer, add_DispatchServiceServicer_to_server
from keyswitch.v1.registry_service_pb2_grpc import RegistryServiceServicer, add_RegistryServiceServicer_to_server
from keyswitch_sandbox import Sandbox
from support import ServerProcess

ECHO = ("-m", "sandbox/echo", "--api-key", "sandbox=env:KEY")
HOSTILE = "\x1b]0;title\x07 \x1b[2Jgone\x7f\x9b1m\r!"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k")


async def test_a_pipe_gets_every_byte(server: ServerProcess) -> None:
    """What the model wrote is piped as it is, control characters included, whole or streamed."""
    for mode in ("--stream", "--no-stream"):
        assert await run("generate", HOSTILE, *ECHO, mode, server=server) == (0, HOSTILE + "\n", "")


async def test_a_terminal_is_shown_nothing_that_commands_it(server: ServerProcess) -> None:
    """On a terminal control characters are shown as pictures, while tabs and line ends do what they do."""
    code, shown = await run_on_terminal("generate", f"a\tb\r\n{HOSTILE}", *ECHO, server=server)
    assert (code, shown) == (0, "a\tb\n␛]0;title␇ ␛[2Jgone␡\ufffd1m!\n")


async def test_a_terminal_gets_a_table(server: ServerProcess) -> None:
    """On a terminal providers are a table with a heading."""
    code, shown = await run_on_terminal("providers", "grok", server=server)
    heading, row = shown.splitlines()
    assert (code, heading.split()[0], row.split()[0]) == (0, "PROVIDER", "xai")
    assert heading.index("HOST") == row.index("api.x.ai")


async def test_an_encoding_that_lacks_a_character_is_no_failure(server: ServerProcess) -> None:
    """Characters that standard output cannot encode are escaped."""
    code, out, _ = await run("generate", "π = 3", *ECHO, server=server, env={"PYTHONIOENCODING": "latin-1"})
    assert (code, out) == (0, "\\u03c0 = 3\n")


async def test_a_reader_that_leaves_is_no_crash(server: ServerProcess) -> None:
    """When whoever reads the output goes away, the command ends with 1 and says nothing."""
    process = await asyncio.create_subprocess_exec(
        *KEYSWITCH, "generate", "word", "-m", "sandbox/endless", "--api-key", "sandbox=env:KEY",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment(server),
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readexactly(4)
    process.stdout._transport.close()  # type: ignore[attr-defined] # there is no public way to close a pipe of a process
    assert process.stderr is not None
    err = await asyncio.wait_for(process.stderr.read(), 10)
    assert (await process.wait(), err) == (1, b"")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_a_full_disk_is_said(server: ServerProcess) -> None:
    """Output that cannot be written fails the command with one line."""
    script = 'exec "$0" -m keyswitch_cli "$@" >/dev/full'
    code, out, err = await run(
        "generate", "hi", *ECHO, server=server, executable=("/bin/sh", "-c", script, KEYSWITCH[0])
    )
    assert (code, out, err) == (1, "", "error: No space left on device\n")


@pytest.mark.parametrize(
    ("redirection", "arguments", "status"),
    [("2>&-", ("hi",), 0), ("<&-", ("hi",), 0), ("<&-", (), 2), ("<&-", ("-",), 2)],
)
async def test_closed_standard_streams_are_no_crash(
    server: ServerProcess, redirection: str, arguments: tuple[str, ...], status: int
) -> None:
    """Without one of its standard streams the command does what is left to do."""
    script = f'exec "$0" -m keyswitch_cli "$@" {redirection}'
    code, _, _ = await run(
        "generate", *arguments, *ECHO, server=server, executable=("/bin/sh", "-c", script, KEYSWITCH[0])
    )
    assert code == status


async def test_an_answer_that_nothing_can_take_is_not_asked_for(server: ServerProcess, sandbox: Sandbox) -> None:
    """Without standard output the command fails with one line, before a provider is called; health is its status."""
    script = 'exec "$0" -m keyswitch_cli "$@" >&-'
    executable = ("/bin/sh", "-c", script, KEYSWITCH[0])
    before = len(list(sandbox.journal))
    answer = await run("generate", "hi", *ECHO, server=server, executable=executable)
    assert answer == (1, "", "error: standard output is closed\n")
    assert len(list(sandbox.journal)) == before
    assert await run("health", server=server, executable=executable) == (0, "", "")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("no-such-command",), 2), (("generate", "hi", "-m", "sandbox/bad-key", "--api-key", "sandbox=env:KEY"), 4)],
)
async def test_complaints_that_nothing_takes_keep_their_status(
    server: ServerProcess, arguments: tuple[str, ...], status: int
) -> None:
    """Where standard error cannot be written the exit status still says what happened."""
    script = 'exec "$0" -m keyswitch_cli "$@" 2>/dev/full'
    executable = ("/bin/sh", "-c", script, KEYSWITCH[0])
    assert await run(*arguments, server=server, executable=executable) == (status, "", "")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_an_address_that_cannot_be_printed_is_no_port_in_use() -> None:
    """A sandbox that listens but cannot say where blames the disk."""
    script = 'exec "$0" -m keyswitch_cli "$@" >/dev/full'
    out = await run("sandbox", "--listen", "127.0.0.1:0", executable=("/bin/sh", "-c", script, KEYSWITCH[0]))
    assert out == (1, "", "error: No space left on device\n")


async def test_nothing_left_behind_keeps_the_command_from_exiting() -> None:
    """The command ends with its status whatever would still be waited for on the interpreter's way out."""
    script = (
        "import atexit, threading; atexit.register(threading.Event().wait); "
        "from keyswitch_cli.__main__ import main; main()"
    )
    code, _, err = await run("no-such-command", executable=(KEYSWITCH[0], "-c", script))
    assert (code, err.startswith("error: no such command")) == (2, True)


class Hostile(DispatchServiceServicer, RegistryServiceServicer):
    """A server whose every text is an attempt at the terminal."""

    async def ExplainRoute(self, request: object, context: object) -> dispatch_service_pb2.ExplainRouteResponse:
        excluded = dispatch_service_pb2.ExcludedCandidate(provider=HOSTILE, reason=HOSTILE)
        route = dispatch_service_pb2.Route(
            provider=HOSTILE, resolved_model=HOSTILE, dialect=HOSTILE, origin_host=HOSTILE, credential_label=HOSTILE,
            reasons=[HOSTILE], excluded=[excluded], warnings=[HOSTILE], body_json=HOSTILE,
        )  # fmt: skip
        return dispatch_service_pb2.ExplainRouteResponse(routes=[route])

    async def StreamGenerate(
        self, request: object, context: object
    ) -> AsyncIterator[dispatch_service_pb2.StreamGenerateResponse]:
        attempt = usage_pb2.Attempt(number=1, provider=HOSTILE, origin_host=HOSTILE)
        finished = event_pb2.Finished(
            stop_reason=event_pb2.STOP_REASON_STOP,
            answering_model=HOSTILE,
            receipt=usage_pb2.Receipt(attempts=[attempt]),
        )
        events = [event_pb2.Event(started=event_pb2.Started()), event_pb2.Event(finished=finished)]
        yield dispatch_service_pb2.StreamGenerateResponse(events=events)

    async def Generate(
        self, request: object, context: grpc.aio.ServicerContext[object, object]
    ) -> dispatch_service_pb2.GenerateResponse:
        await context.abort(grpc.StatusCode.UNKNOWN, HOSTILE)

    async def ListProviders(self, request: object, context: object) -> registry_service_pb2.ListProvidersResponse:
        provider = registry_service_pb2.Provider(
            id=HOSTILE, display_name=HOSTILE, default_model=HOSTILE, origin_host=HOSTILE
        )
        return registry_service_pb2.ListProvidersResponse(providers=[provider])

    async def GetRegistryInfo(self, request: object, context: object) -> registry_service_pb2.GetRegistryInfoResponse:
        return registry_service_pb2.GetRegistryInfoResponse(
            server_version=HOSTILE, fingerprint=HOSTILE, min_client_version=HOSTILE
        )


@pytest.fixture(scope="module")
async def hostile() -> AsyncIterator[str]:
    """The address of such a server."""
    running = grpc.aio.server()
    add_DispatchServiceServicer_to_server(Hostile(), running)
    add_RegistryServiceServicer_to_server(Hostile(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    yield f"127.0.0.1:{port}"
    await running.stop(None)


@pytest.mark.parametrize(
    ("arguments", "times"),
    [
        (("explain", "--body"), 10),
        (("explain", "--json"), 10),
        (("generate", "hi", "-v"), 3),
        (("generate", "hi", "-v", "--json"), 3),
        (("generate", "hi", "--no-stream"), 1),
        (("providers",), 4),
        (("providers", "--json"), 4),
        (("doctor",), 3),
        (("doctor", "--json"), 3),
    ],
)
async def test_a_terminal_is_shown_nothing_that_a_server_commands(
    server: ServerProcess, hostile: str, arguments: tuple[str, ...], times: int
) -> None:
    """Whatever a server says of routes, providers, receipts, failures or itself is text; a pipe gets all of it."""
    _, shown = await run_on_terminal(*arguments, "--server", hostile, server=server)
    assert shown.count("gone") >= times
    assert [character for character in shown if not (character.isprintable() or character in "\t\n")] == []
    if "--json" not in arguments:
        _, out, err = await run(*arguments, "--server", hostile, server=server)
        assert (out + err).count(HOSTILE) >= times


async def test_a_terminal_is_shown_nothing_that_an_answer_commands(
    server: ServerProcess, tmp_path: pathlib.Path
) -> None:
    """Characters of a decoded answer that JSON leaves as they are do nothing either."""
    choice = {"index": 0, "message": {"role": "assistant", "content": f"{HOSTILE}gone"}, "finish_reason": "stop"}
    (tmp_path / "body").write_text(json.dumps({"id": "1", "choices": [choice]}))
    code, shown = await run_on_terminal("decode", str(tmp_path / "body"), "--dialect", "openai-chat", server=server)
    assert (code, "gone" in shown) == (0, True)
    assert [character for character in shown if not (character.isprintable() or character == "\n")] == []


async def test_an_error_has_its_lines_on_a_terminal_too(server: ServerProcess) -> None:
    """What was wrong field by field stands in lines of its own."""
    keys = ("--api-key", "anthropic=env:KEY", "--api-key", "openai=env:KEY")
    code, shown = await run_on_terminal("generate", "hi", "-m", "nobodys-model", *keys, server=server)
    error, *lines = shown.splitlines()
    assert (code, error.partition(":")[0]) == (67, "error")
    assert all(line.startswith("  ") for line in lines[:-1])
    assert "␊" not in shown
