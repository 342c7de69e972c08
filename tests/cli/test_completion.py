from __future__ import annotations

import os
import pathlib
import select
import shutil
import subprocess
import sys

import pytest
from cli.running import KEYSWITCH, run
from keyswitch_engine import registry
from keyswitch_engine.credential import ApiKey, AwsBearerToken, Credential, GoogleAccessToken, ProviderCredential
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

BIN = pathlib.Path(sys.executable).parent
ROWS = registry.load()
BASH = shutil.which("bash")


async def complete(*words: str, asked_by: str = "bash", executable: tuple[str, ...] = KEYSWITCH) -> list[str]:
    """Ask as the scripts do for what may take the place of the last word; return the lines of the answer."""
    env = {
        "_KEYSWITCH_COMPLETE": f"{asked_by}_complete",
        "COMP_WORDS": "\n".join(("keyswitch", *words)),
        "COMP_CWORD": words[-1] if asked_by == "fish" else str(len(words)),
    }
    code, out, err = await run(executable=executable, env=env)
    assert (code, err) == (0, "")
    return [line.removeprefix("plain,") for line in out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("gen",), ["generate"]),
        (("co",), ["completion"]),
        (("--ser",), ["--server"]),
        (("no-such-command", ""), ["completion", "decode", "doctor", "endpoints", "explain", "generate", "health", "models", "providers", "routable", "sandbox", "serve", "token"]),
        (("explain", "--off"), ["--offline"]),
        (("explain", "-p", "open"), ["openai", "openrouter"]),
        (("explain", "-p", "GROK"), []),
        (("explain", "--provider", "grok"), ["grok"]),
        (("explain", "--provider", "=", "grok"), ["grok"]),
        (("explain", "--provider", "="), list(ROWS.names)),
        (("explain", "-p", "perplexity", "-m", ""), list(ROWS.providers["perplexity"].models)),
        (("explain", "-p", "perplexity", "-m", "sonar-p"), ["sonar-pro"]),
        (("explain", "-p", "grok", "-m", ""), list(ROWS.providers["xai"].models)),
        (("explain", "-p", "no-such-provider", "-m", ""), []),
        (("explain", "-m", "perplexity/sonar-p"), ["perplexity/sonar-pro"]),
        (("explain", "-m", "openrouter/a"), ["openrouter/anthropic/claude-haiku-4.5", "openrouter/auto"]),
        (("explain", "-m", "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1", ":"), ["0"]),
        (("explain", "--model", "=", "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1", ":"), ["0"]),
        (("explain", "--dialect", ""), list(DIALECTS)),
        (("explain", "-p", "anthropic", "--dialect", ""), ["anthropic-messages", "openai-chat"]),
        (("explain", "--api-key", "open"), ["openai=", "openrouter="]),
        (("explain", "--api-key", "=", "open"), ["openai=", "openrouter="]),
        (("explain", "--api-key", "openai", "="), []),
        (("explain", "--api-key", "openai", "=", "sk"), []),
        (("explain", "--api-key", "openai", "=", "-"), []),
        (("explain", "--api-key", "openai", "=", "env", ":"), []),
        (("explain", "--api-key", "openai", "=", "k", "-p", "openr"), ["openrouter"]),
        (("generate", "--reasoning-effort", "m"), ["minimal", "medium", "max"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
    ],
)  # fmt: skip
async def test_bash_is_offered_what_fits(words: tuple[str, ...], offered: list[str]) -> None:
    """Each word, cut as Bash cuts it, has the completions of its place, and a key has none."""
    found = await complete(*words)
    assert sorted(found) == sorted(offered)


async def test_other_shells_are_offered_the_same() -> None:
    """Zsh and fish get values with words on them, in their own forms."""
    assert await complete("explain", "-p", "openr", asked_by="zsh") == ["plain", "openrouter", "OpenRouter"]
    assert await complete("explain", "--api-key", "openr", asked_by="zsh") == ["plain", "openrouter=", "_"]
    assert await complete("explain", "--api-key", "openrouter=", asked_by="zsh") == []
    assert await complete("explain", "-p", "openr", asked_by="fish") == ["openrouter\tOpenRouter"]
    assert await complete("explain", "--api-key", "openrouter=", asked_by="fish") == []


async def test_every_model_that_is_offered_leads_to_its_provider() -> None:
    """With a key of the provider that it is offered for, each id routes there and arrives as it is listed."""
    kinds: dict[str, Credential] = {
        "api_key": ApiKey(Secret("k")),
        "aws": AwsBearerToken(Secret("k")),
        "google": GoogleAccessToken(Secret("k"), "p"),
    }
    by_name = {provider.name: provider for provider in ROWS.providers.values()}
    arrived = set()
    for line in await complete("explain", "-m", "", asked_by="fish"):
        model, _, name = line.partition("\t")
        provider = by_name[name]
        credential = next(kinds[kind] for kind in provider.auth.accepts if kind in kinds)
        route = resolve(ROWS, Target(model=model), (ProviderCredential(provider.id, credential),))
        assert route.provider is provider
        arrived.add((provider.id, route.model))
    assert arrived == {(provider.id, model) for provider in ROWS.providers.values() for model in provider.models}


@pytest.mark.parametrize("words", [("gen",), ("explain", "-p", "open"), ("explain", "--api-key", "open")])
async def test_completing_reads_no_settings_and_opens_no_connection(words: tuple[str, ...]) -> None:
    """Neither the server's settings nor what talks to providers is even imported, and for commands nor is gRPC."""
    env = {
        "_KEYSWITCH_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("keyswitch", *words)),
        "COMP_CWORD": str(len(words)), "PYTHONPROFILEIMPORTTIME": "1",
    }  # fmt: skip
    _, out, err = await run(env=env)
    assert out.strip()
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert imported.isdisjoint({"aiohttp", "pydantic", "keyswitch_server", "keyswitch_engine.egress"})
    assert ("grpc" in imported) is (len(words) > 1)


async def test_without_the_engine_there_is_nothing_to_offer() -> None:
    """Where the registry cannot be imported, commands and options are completed, and values are not."""
    script = (
        "import sys; sys.modules['keyswitch_engine.registry'] = None; from keyswitch_cli.__main__ import main; main()"
    )
    executable = (sys.executable, "-c", script)
    for words in (("-p", ""), ("-m", ""), ("--dialect", ""), ("--api-key", "")):
        assert await complete("explain", *words, executable=executable) == []
    assert await complete("explain", "--off", executable=executable) == ["--offline"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_the_script_asks_for_completions(shell: str) -> None:
    """Each script names the command, and the variable by which it asks."""
    code, out, err = await run("completion", shell)
    assert (code, err) == (0, "")
    assert f"_KEYSWITCH_COMPLETE={shell}_complete" in out
    code, out, err = await run("completion", "tcsh")
    assert (code, out) == (2, "")


async def test_an_unknown_way_of_asking_fails() -> None:
    """A shell that click does not know gets status 1 and nothing to evaluate."""
    code, out, _ = await run(env={"_KEYSWITCH_COMPLETE": "tcsh_complete"})
    assert (code, out) == (1, "")


@pytest.mark.skipif(BASH is None, reason="there is no Bash here")
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("keyswitch gen\t", "keyswitch generate "),
        ("keyswitch explain -p openr\t", "keyswitch explain -p openrouter "),
        ("keyswitch explain --provider=openr\t", "keyswitch explain --provider=openrouter "),
        ("keyswitch explain --api-key openr\tk -p mini", "keyswitch explain --api-key openrouter=k -p mini"),
        ("keyswitch explain -m bedrock/us.anthropic.claude-h\t", "keyswitch explain -m bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0 "),
        ("keyswitch explain -m bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:\t", "keyswitch explain -m bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0 "),
    ],
)  # fmt: skip
def test_bash_itself_completes_what_is_typed(tmp_path: pathlib.Path, typed: str, line: str) -> None:
    """An interactive Bash that sourced the script puts the rest of the word behind the cursor."""
    assert BASH is not None
    home = tmp_path / "rc"
    home.write_text(
        "source <(keyswitch completion bash)\nPS1='ready>'\nkeyswitch() { printf '<%s>' \"keyswitch $*\"; }\n"
    )
    ours, theirs = os.openpty()
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "TERM": "dumb",
        "COLUMNS": "300",
        "INPUTRC": os.devnull,
    }
    process = subprocess.Popen([BASH, "--noprofile", "--rcfile", str(home), "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)  # fmt: skip
    os.close(theirs)
    try:
        read_until(ours, "ready>")
        os.write(ours, typed.encode())
        assert line in read_until(ours, line)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, words: str) -> str:
    """Read what a terminal shows until the words are there; nothing for 20 seconds is too long."""
    shown = ""
    while words not in shown:
        assert select.select([terminal], [], [], 20)[0], shown
        shown += os.read(terminal, 4096).decode()
    return shown
