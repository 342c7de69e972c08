from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from callers import Secured, secured
from certificates import put
from cli.running import run
from keyswitch_sandbox import Sandbox
from keyswitch_server.tokens import new_token
from support import ServerProcess


@pytest.fixture(scope="module")
async def known(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    async with secured(tmp_path_factory.mktemp("known"), sandbox) as made:
        yield made


async def test_a_token_is_made_and_works(known: Secured) -> None:
    """`token` prints a token on one stream and the server's line on the other; together they let a caller in."""
    status, out, line = await run("token", "back-end.1")
    token = out.strip()
    assert (status, out) == (0, f"{token}\n")
    assert re.fullmatch(r'"back-end\.1" = \["sha256:[0-9a-f]{64}"\]\n', line)
    assert token not in line
    file = known.folder / "tokens.toml"
    put(file, f"{file.read_text()}\n{line}")
    secret = put(known.folder / "token", out)
    async with asyncio.timeout(20):
        while (
            await run(
                "--token", f"@{secret}", "--tls-ca", str(known.folder / "ca.pem"), "providers", server=known.server
            )
        )[0]:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", ["anonymous", "a/b", "*", "", "two words"])
async def test_a_name_that_no_caller_may_have_gets_no_token(name: str) -> None:
    """What menus read otherwise, and who nobody is, are refused."""
    status, out, err = await run("token", name)
    assert (status, out) == (2, "")
    assert "a caller's name" in err


async def test_every_place_of_a_token_will_do(known: Secured) -> None:
    """Variable, file, another variable and standard input prove who calls."""
    token, ca = known.tokens["blue"], {"KEYSWITCH_TLS_CA": str(known.folder / "ca.pem")}
    file = put(known.folder / "blue", f"{token}\n")
    for arguments, env, stdin in (
        ((), {"KEYSWITCH_TOKEN": token}, ""),
        (("--token", f"@{file}"), {}, ""),
        (("--token", "env:OTHER"), {"OTHER": token}, ""),
        (("--token", "-"), {}, token),
        (("--token", token), {}, ""),
    ):
        status, out, err = await run(
            *arguments, "models", "--keyed", "sandbox", "echo", server=known.server, env=ca | env, stdin=stdin
        )
        assert (status, "sandbox" in out) == (0, True), err


async def test_a_wrong_token_is_a_matter_of_credentials(known: Secured) -> None:
    """A call without a good token exits 4 and says what to do, without the token; health needs none."""
    ca, wrong = ("--tls-ca", str(known.folder / "ca.pem")), new_token()
    for given, words in (
        ((), "CALLER_UNAUTHENTICATED: send a token"),
        (("--token", wrong), "the token is unknown or expired"),
    ):
        status, out, err = await run(*ca, *given, "providers", server=known.server)
        assert (status, out) == (4, "")
        assert words in err
        assert wrong not in err
    assert (await run(*ca, "health", server=known.server))[:2] == (0, "SERVING\n")


async def test_what_does_not_fit_together_is_a_usage_error(known: Secured) -> None:
    """Tokens without TLS to others, half of a pair, files that are not there: each is said, and nothing is sent."""
    token = known.tokens["blue"]
    for arguments, words in (
        (("--token", token, "--server", "gateway.example:1"), "give --tls or --tls-ca, or --insecure to send them"),
        (("--server", "gateway.example:1"), "without TLS, keys and tokens are sent to this machine and nowhere else"),
        (("--token", "two words"), "a token has 1 to 7000 visible ASCII characters"),
        (("--token", "env:NOT_SET_ANYWHERE"), "--token: the value is empty or not set"),
        (("--token", "@/not/there"), "--token: the file cannot be read"),
        (("--tls-cert", "/not/there"), "needed together"),
        (("--tls-ca", "/not/there"), "--tls-ca, --tls-cert, --tls-key: No such file"),
    ):
        status, out, err = await run(*arguments, "providers")
        assert (status, out) == (2, "")
        assert words in err
        assert token not in err


async def test_keys_are_sent_unencrypted_to_others_if_told_so(sandbox: Sandbox, server: ServerProcess) -> None:
    """By option or by variable; without either nothing is sent to a name that could be another machine's."""
    elsewhere = f"0.0.0.0:{server.address.rpartition(':')[2]}"  # which may be anybody, and is this machine
    status, out, err = await run("--server", elsewhere, "health")
    assert (status, out, "give --tls or --tls-ca, or --insecure" in err) == (2, "", True)
    for arguments, env in ((("--insecure",), {}), ((), {"KEYSWITCH_INSECURE": "1"})):
        assert await run("--server", elsewhere, *arguments, "health", env=env) == (0, "SERVING\n", "")


async def test_serving_needs_no_token() -> None:
    """What the environment says for calls is of no concern to commands that make none."""
    status, out, _ = await run("completion", "bash", env={"KEYSWITCH_TOKEN": "env:NOT_SET_ANYWHERE"})
    assert (status, bool(out)) == (0, True)
