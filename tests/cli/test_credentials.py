from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator

import pytest
from cli.running import run, run_on_terminal
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from keyswitch.v1 import credential_pb2
from keyswitch_cli import credentials
from keyswitch_sandbox import Sandbox
from support import ServerProcess

BARE = "sk-a-bare-key-by-mistake"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--api-key", BARE),
        ("--api-key", f"={BARE}"),
        ("--api-key", f"{BARE}="),
        ("--api-key", f"{BARE}=="),
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
        ("--credential", f"openai.key={BARE}", "--credential", f"openai.access_key_id={BARE}"),
    ],
)
async def test_a_malformed_key_is_never_repeated(arguments: tuple[str, ...]) -> None:
    """Malformed credentials exit 2, naming option and position, and never show the argument."""
    code, out, err = await run("generate", "hi", *arguments)
    assert code == 2
    assert "--api-key" in err or "--credential" in err or "standard input" in err
    assert BARE not in out + err


@pytest.mark.parametrize(
    "arguments",
    [
        (BARE,),
        (f"openai={BARE}",),
        ("--api-key", f"openai={BARE}", "generate"),
        ("generate", "hi", BARE),
        ("generate", "hi", "--api-key", "openai", "=", BARE),
        ("generate", "hi", f"--api-keys=openai={BARE}"),
        ("generate", "-f", BARE),
        ("generate", f"-f{BARE}"),
        ("generate", "hi", "--json-schema", BARE),
        ("generate", "hi", "--timeout", BARE),
        ("generate", "hi", f"--temperature={BARE}"),
        ("generate", "hi", "--max-output-tokens", f"{BARE}'s"),
        ("generate", "hi", "--reasoning-effort", BARE),
        ("explain", BARE),
        ("health", BARE),
        ("decode", BARE),
        ("decode", f"--headers={BARE}"),
        ("decode", "--dialect", BARE, __file__),
        ("decode", "--chunk-bytes", BARE, __file__),
        ("serve", BARE),
        ("sandbox", "--replay", BARE),
        ("generate", f"--{BARE}", "hi"),
        ("generate", f"--{BARE}=hi"),
        ("endpoints", f"--{BARE}", "list"),
        (f"--{BARE}", "generate", "hi"),
    ],
)
async def test_a_key_in_the_wrong_place_is_never_repeated(arguments: tuple[str, ...]) -> None:
    """Arguments that no command can use exit 2 without being shown, whatever they are."""
    code, out, err = await run(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert BARE not in out + err


async def test_an_option_that_there_is_none_of_is_shown_where_it_is_misspelt() -> None:
    """Words are repeated, with what may have been meant; anything else may be a key of a kind that nobody knows."""
    for option, shown in (
        ("--modle", "'--modle'. (Did you mean"), ("--api_key", "'--api_key'. (Did you mean"), ("--p50", "'--p50'."),
        ("--Zq7+k=hi", "'…'."), ("--a1b2c3", "'…'."), ("--word9999", "'…'."), ("--" + "word_" * 4 + "w", "'…'."),
    ):  # fmt: skip
        status, _, err = await run("generate", option, "hi")
        assert (status, err.startswith(f"error: No such option {shown}")) == (2, True), err


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("KEYSWITCH_LOCAL", ("generate", "hi")),
        ("KEYSWITCH_TLS", ("health",)),
        ("KEYSWITCH_KEY_STORE", ("endpoints", "add", "desk")),
    ],
)
async def test_a_key_in_the_wrong_variable_is_never_repeated(variable: str, arguments: tuple[str, ...]) -> None:
    """What a variable of the environment holds is shown as little as an argument is."""
    code, out, err = await run(*arguments, env={variable: BARE})
    assert (code, out, "Invalid value for '--" in err, BARE in err) == (2, "", True, False), err


@pytest.mark.parametrize(
    ("arguments", "stdin", "env"),
    [
        (("--api-key", " SANDBOX = k=1 "), "", {}),
        (("--api-key", "sandbox=env:MY_KEY"), "", {"MY_KEY": "k=1"}),
        (("--api-key", "sandbox=-"), "k=1\n", {}),
        (("--credential", "sandbox.key=k=1"), "", {}),
    ],
)
async def test_a_key_comes_from_where_it_is_said(
    server: ServerProcess, sandbox: Sandbox, arguments: tuple[str, ...], stdin: str, env: dict[str, str]
) -> None:
    """Literal, environment, standard input and field forms all give the same key to the provider."""
    code, out, err = await run("generate", "hi", "-m", "sandbox/echo", *arguments, server=server, stdin=stdin, env=env)
    assert (code, out) == (0, "hi\n"), err
    last = list(sandbox.journal)[-1]
    assert last.key_sha256 == hashlib.sha256(b"Bearer k=1").hexdigest()


@pytest.mark.parametrize("content", [b"k\n", b"\xef\xbb\xbfk\r\n"])
async def test_a_key_comes_from_a_file(server: ServerProcess, tmp_path: pathlib.Path, content: bytes) -> None:
    """`@FILE` reads the key, without line end and byte order mark."""
    (tmp_path / "key").write_bytes(content)
    code, out, _ = await run(
        "generate", "hi", "-m", "sandbox/echo", "--api-key", f"sandbox=@{tmp_path}/key", server=server
    )
    assert (code, out) == (0, "hi\n")


async def test_a_literal_key_is_warned_of_where_somebody_looks(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal a literal key gets a warning, another form and a part that is no secret none; in a pipe none do."""
    monkeypatch.setenv("MY_KEY", "k")
    echo = ("generate", "hi", "-m", "sandbox/echo")
    code, shown = await run_on_terminal(*echo, "--api-key", "sandbox=k", server=server)
    assert code == 0
    assert shown.startswith("warning: --api-key (number 1): a key on the command line")
    hidden = ("--api-key", "openai=env:MY_KEY", "--credential", "openai.project=p")
    code, shown = await run_on_terminal("explain", "-m", "openai/gpt-4o", *hidden, server=server)
    assert (code, shown.splitlines()[0]) == (0, "asked       openai/gpt-4o")
    assert await run(*echo, "--api-key", "sandbox=k", server=server) == (0, "hi\n", "")


@pytest.mark.parametrize(
    ("arguments", "kind", "expected"),
    [
        (["key"], "api_key", {"key": "v"}),
        (["token"], "bearer_token", {"token": "v"}),
        (
            ["access_key_id", "secret_access_key"],
            "aws",
            {"access_key": {"access_key_id": "v", "secret_access_key": "v"}},
        ),
        (["resource", "key"], "azure", {"api_key": {"key": "v"}, "resource": "v"}),
        (["token", "resource"], "azure", {"access_token": {"token": "v"}, "resource": "v"}),
        (["account_id", "token"], "cloudflare", {"token": "v", "account_id": "v"}),
        (["service_account"], "google", {"service_account": {"json": "v"}}),
        (["token", "project"], "google", {"access_token": {"token": "v"}, "project": "v"}),
    ],
)
def test_fields_make_the_credential_that_they_belong_to(
    arguments: list[str], kind: str, expected: dict[str, object]
) -> None:
    """The fields given decide which kind of credential they are, in whatever order they come."""
    parsed = credentials.parse([], [f"p.{field}=v" for field in arguments])
    assert parsed == {"p": credential_pb2.Credential(**{kind: expected})}  # type: ignore[arg-type] # the stubs know no mappings


def test_a_key_and_what_it_bills_are_one_credential() -> None:
    """`--credential` adds to what `--api-key` gave."""
    parsed = credentials.parse(["p=k"], ["p.organization=o", "p.project=v"])
    key = credential_pb2.ApiKey(key="k", organization="o", project="v")
    assert parsed == {"p": credential_pb2.Credential(api_key=key)}


def leaves(message: Descriptor, path: str = "") -> Iterator[str]:
    """Return the paths of all strings in a message."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from leaves(field.message_type, f"{path}{field.name}.")
        else:
            yield path + field.name


def test_every_part_of_every_credential_has_its_field() -> None:
    """`--credential` can say all that the contract's credentials hold, but for what Azure has no use for."""
    reachable = {path for kind in credentials.KINDS for path in kind.fields.values()}
    unused = {"azure.api_key.organization", "azure.api_key.project", "stored.name"}
    assert reachable | unused == set(leaves(credential_pb2.Credential.DESCRIPTOR))
    assert not reachable & unused
