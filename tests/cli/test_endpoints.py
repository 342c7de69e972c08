from __future__ import annotations

import asyncio
import base64
import json
import pathlib
import stat
import sys
import tomllib
import urllib.parse
from collections.abc import Mapping

import psutil
import pytest
from cli.homes import CANARY, FILE, files, listed, write
from cli.running import KEYSWITCH, environment, run
from keyswitch_cli.endpoints import kept
from keyswitch_sandbox import Sandbox
from support import EGRESS, ServerProcess, server_process


async def test_an_endpoint_is_added_used_shown_and_removed(home: dict[str, str], sandbox: Sandbox) -> None:
    """The key comes from standard input, is kept where it was said, goes to the endpoint, and goes with it."""
    added = ("endpoints", "add", "desk", "--base-url", f"{sandbox.url}/v1/", "-m", "sandbox/echo", "--key", "-", *FILE)
    assert await run(*added, env=home, stdin=CANARY + "\n") == (0, "", "")
    keys = files(home) / "keys.json"
    assert json.loads(keys.read_text()) == {"schema": 1, "keys": {"desk": f"{sandbox.url} {CANARY}"}}
    assert (stat.S_IMODE(keys.stat().st_mode), stat.S_IMODE(files(home).stat().st_mode)) == (0o600, 0o700)
    assert await run("generate", "-e", "desk", "hi", env=home) == (0, "hi\n", "")
    assert await run("endpoints", "test", "desk", env=home) == (0, "desk answers, as sandbox/echo\n", "")
    status, out, _ = await run("endpoints", "show", "desk", env=home)
    assert (status, f"base_url    {sandbox.url}/v1/" in out, "auth        file" in out) == (0, True, True)
    status, out, _ = await run("explain", "-e", "desk", env=home)
    assert (status, "credential  caller" in out, f"host        {sandbox.listening}" in out) == (0, True, True)
    assert await run("endpoints", "remove", "desk", env=home) == (0, "", "")
    assert (json.loads(keys.read_text())["keys"], await listed(home)) == ({}, {})


async def test_a_key_stays_with_the_address_that_it_was_given_for(home: dict[str, str], sandbox: Sandbox) -> None:
    """A definition that is changed to lead elsewhere, by hand or by whoever shared it, takes no key along."""
    added = ("endpoints", "add", "desk", "-m", "sandbox/echo", "--key", "-", *FILE, "--base-url")
    assert (await run(*added, "https://models.example/v1", env=home, stdin=CANARY))[0] == 0
    path = files(home) / "endpoints.toml"
    path.write_text(path.read_text().replace("https://models.example/v1", f"{sandbox.url}/v1"))
    before = len(list(sandbox.journal))
    status, _, err = await run("generate", "-e", "desk", "hi", env=home)
    assert (status, "no key for desk at this address" in err, len(list(sandbox.journal))) == (1, True, before)
    assert (await run(*added, sandbox.url, "--replace", env=home, stdin=CANARY))[0] == 0
    assert await run("generate", "-e", "desk", "hi", env=home) == (0, "hi\n", "")
    path.write_text(path.read_text().replace(sandbox.url, "https://other.example"))
    assert (await run("endpoints", "remove", "desk", env=home))[0] == 0
    assert CANARY not in (files(home) / "keys.json").read_text()


def test_a_key_is_kept_for_one_address() -> None:
    """Each origin is written in a way that no other is, with what stands in brackets, or would be read as a port."""
    urls = (
        "http://[::1]:8080/v1", "http://[::1:8080]/v1", "http://[::1:8080]:80/v1", "http://h.example:8080",
        "http://h.example", "https://h.example",
    )  # fmt: skip
    assert [kept(url, "k") for url in urls] == [
        "http://[::1]:8080 k", "http://[::1:8080] k", "http://[::1:8080]:80 k", "http://h.example:8080 k",
        "http://h.example k", "https://h.example k",
    ]  # fmt: skip
    assert kept("http://H.example.:8080/v1/chat/completions", "k") == "http://h.example:8080 k"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--base-url", "http://999.1.1.1:18101/v1"),
        ("--base-url", "http://127.0.0.1:18101//v1"),
        ("--base-url", "http://127.0.0.1:18101/V1/Chat/Completions"),
        ("--base-url", f"https://user:{CANARY}@models.example"),
        ("--base-url", f"https://models.example/?key={CANARY}"),
        ("--base-url", "not a url"),
        ("--base-url", "https://models.example:99999"),
        ("--model", "sk" + "-proj-0123456789abcdefghij"),
        ("--label", "sk" + "-proj-0123456789abcdefghij"),
    ],
)
async def test_what_would_not_be_selectable_is_not_added(home: dict[str, str], wrong: tuple[str, str]) -> None:
    """A key in an argument is not written into the file of definitions, and none is stored for what is no endpoint."""
    given = {"--base-url": "https://models.example", "--model": "m"} | dict([wrong])
    arguments = [word for pair in given.items() for word in pair]
    status, out, err = await run("endpoints", "add", "desk", *arguments, "--key", "-", *FILE, env=home, stdin="k")
    assert (status, out) == (2, "")
    assert wrong[1] not in err
    assert not files(home).exists()


async def test_a_name_that_looks_like_a_key_is_refused(home: dict[str, str]) -> None:
    """It would be shown, and found nowhere."""
    name = "abcdefghijklmnopqrstuvwxyz01234"
    added = ("endpoints", "add", name, "--base-url", "https://models.example", "-m", "m", "--no-key")
    status, _, err = await run(*added, env=home)
    assert (status, "NAME:" in err, name in err, files(home).exists()) == (2, True, False, False)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f'api_key = "{CANARY}"\n', "api_key"),
        (f'[vault]\nmine = ["{"sk" + "-ant-0123456789abcdef"}"]\n', "vault.mine[0]"),
        (f"# old\nx = 1 # {'csk' + '-0123456789abcdef'}\n", "line 2"),
        (f"# api_key = '{'0123456789abcdef' * 2}'\n", "line 1"),
        (f"# https://h.example/v1?key={'fw' + '_0123456789abcdefghij'}\n", "line 1"),
    ],
)
async def test_a_key_beside_the_definitions_hides_none(home: dict[str, str], text: str, place: str) -> None:
    """It is told of, by its place, and every endpoint can be listed and used."""
    write(home, f'{text}[endpoints.good]\nbase_url = "http://127.0.0.1:9"\nmodel = "m"\nauth = "none"\n')
    status, out, err = await run("endpoints", "list", "--json", env=home)
    assert (status, json.loads(out)[0]["selectable"]) == (0, True)
    assert f": {place} looks like a key" in err
    assert (CANARY in out + err, "0123456789abcdef" in out + err) == (False, False)
    added = ("endpoints", "add", "good", "--replace", "--label", "Good", "--no-key")
    status, out, again = await run(*added, env=home)
    assert (status, out, again) == (0, "", err)


async def test_a_comment_may_hold_what_is_no_key(home: dict[str, str]) -> None:
    """Neither an address with an account in it nor a name that begins like a key is warned of."""
    account = "https://h.example/accounts/" + "0123456789abcdef" * 2
    write(home, f"# see {account}/v1, '{account}'\n# by hf-mirror.com and sk-learn\n")
    assert await run("endpoints", "list", env=home) == (0, "", "")


@pytest.mark.parametrize("beginning", ["csk-", "fw_", "vck_", "tgp_v1_", "ya29.", "ASIA", "r8_", "github_pat_"])
async def test_a_key_of_any_known_kind_is_refused(home: dict[str, str], beginning: str) -> None:
    """The shapes are those that the engine knows; a definition that has one is not selectable."""
    key = beginning + "A7QX2" * 4
    write(home, f'[endpoints.a]\nbase_url = "http://127.0.0.1:9/{key}"\nmodel = "m"\nauth = "none"\nlabel = "{key}"\n')
    status, out, err = await run("endpoints", "list", "--json", env=home)
    misplaced = "looks like a key, which has no place in this file; take it out"
    assert json.loads(out)[0]["problems"] == [f"base_url {misplaced}", f"label {misplaced}"]
    assert (status, key in out + err) == (0, False)


NO_CALLS = """import sys; sys.modules["keyswitch_engine.custom_endpoint"] = None
from keyswitch_cli.__main__ import main; main()"""


async def test_what_can_never_be_called_is_not_selectable(home: dict[str, str]) -> None:
    """The engine's own word is the reason; where it is not installed, only what the file itself requires is."""
    urls = {
        "http://999.1.1.1:18101/v1": "base_url: its host is none that could be called",
        "http://127.0.0.1:18101//v1": "base_url: its path holds what no path of an endpoint does",
        "http://127.0.0.1:1/v1/messages": (
            "base_url: its path is that of the dialect anthropic-messages, and another one was asked for"
        ),
    }
    never = "base_url: its host is an address that is never called, as link-local and metadata addresses are"
    hosts = ("169.254.169.254", "0.0.0.0", "224.0.0.1", "[fe80::1]", "[::]", "[::ffff:169.254.1.1]")
    urls |= {f"http://{host}:8080/v1": never for host in hosts}
    form = '[endpoints.e{}]\nbase_url = "{}"\nmodel = "m"\nauth = "none"\n'
    write(home, "".join(form.format(number, url) for number, url in enumerate(urls)))
    found = list((await listed(home)).values())
    assert [entry["problems"] for entry in found] == [[why] for why in urls.values()]
    assert {(entry["id"], entry["selectable"]) for entry in found} == {("", False)}
    status, _, err = await run("generate", "-e", "e0", "hi", env=home)
    assert (status, "e0 is not selectable: base_url: its host is none" in err) == (2, True)
    without = (sys.executable, "-c", NO_CALLS)
    status, out, _ = await run("endpoints", "list", "--json", env=home, executable=without)
    assert {(entry["id"], entry["selectable"]) for entry in json.loads(out)} == {("", True)}


async def test_an_endpoint_is_judged_by_the_dialect_that_it_has(home: dict[str, str]) -> None:
    """A change of the URL alone is held to the protocol that the definition names."""
    added = ("endpoints", "add", "a", "-m", "m", "--no-key", "--base-url")
    assert (await run(*added, "https://h.example", "--dialect", "anthropic-messages", env=home))[0] == 0
    replaced = ("endpoints", "add", "a", "--replace", "--no-key", "--base-url", "https://h.example/v1/messages")
    assert await run(*replaced, env=home) == (0, "", "")
    assert (await listed(home))["a"]["problems"] == []


async def test_a_key_is_never_kept_in_a_file_in_silence(home: dict[str, str]) -> None:
    """Without a credential store, and without having been told so, nothing is written at all."""
    store = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    added = ("endpoints", "add", "desk", "--base-url", "https://models.example", "-m", "m", "--key", "-")
    status, out, err = await run(*added, env=home | store, stdin=CANARY)
    assert (status, out) == (1, "")
    assert "no credential store" in err
    assert "--store file" in err
    assert not (files(home) / "keys.json").exists()
    assert not (files(home) / "endpoints.toml").exists()
    assert (await run(*added, env=home | store | {"KEYSWITCH_KEY_STORE": "file"}, stdin=CANARY))[0] == 0


async def test_keys_are_kept_in_the_systems_credential_store(
    home: dict[str, str], sandbox: Sandbox, tmp_path: pathlib.Path
) -> None:
    """The library keyring's store has the key and no file of ours does; a store that forgets is found out at once."""
    store = {
        "PYTHON_KEYRING_BACKEND": "keyring_in_a_file.Keyring",
        "PYTHONPATH": str(pathlib.Path(__file__).parent),
        "KEYRING_FILE": str(tmp_path / "store"),
    }
    added = ("endpoints", "add", "desk", "--base-url", sandbox.url, "-m", "sandbox/echo", "--key", "-")
    status, _, err = await run(*added, env=home | store | {"KEYRING_FORGETS": "1"}, stdin=CANARY)
    assert (status, "did not keep the key" in err, await listed(home)) == (1, True, {})
    assert await run(*added, env=home | store, stdin=CANARY) == (0, "", "")
    assert json.loads((tmp_path / "store").read_text()) == {"keyswitch/desk": f"{sandbox.url} {CANARY}"}
    assert await run("generate", "-e", "desk", "hi", env=home | store) == (0, "hi\n", "")
    assert not any(CANARY in path.read_text() for path in files(home).iterdir())
    (tmp_path / "store").unlink()
    status, _, err = await run("generate", "-e", "desk", "hi", env=home | store)
    assert (status, "there is no key for desk at this address (keyring)" in err) == (1, True)


BAD = f"""# mine
[endpoints.good]
base_url = "http://127.0.0.1:9/v1"   # the desk
model = "m"
auth = "none"

[endpoints.incomplete]
base_url = "http://127.0.0.1:9/v1"

[endpoints.keyed]
base_url = "https://models.example/v1"
model = "m"
auth = "none"
api_key = "{CANARY}"

[endpoints.hidden]
base_url = "https://models.example/v1"
model = "{"sk" + "-proj-0123456789abcdefghij"}"
auth = "none"

[endpoints.newer]
base_url = "https://models.example/v1"
model = "m"
auth = "none"
dialect = "openai-chat"
context_window = 8192

[endpoints.odd]
base_url = "https://user:{CANARY}@models.example/v1"
model = 7
auth = "somewhere"
dialect = "gemini"

[endpoints]
flat = "text"

[newer-table]
kept = true
"""


async def test_one_bad_definition_never_hides_the_others(home: dict[str, str]) -> None:
    """Each says what is wrong with it, none shows a key, and only the good one can be selected."""
    write(home, BAD)
    status, out, err = await run("endpoints", "list", "--json", env=home)
    assert status == 0, err
    assert CANARY not in out + err
    problems = {entry["name"]: entry["problems"] for entry in json.loads(out)}
    assert problems == {
        "good": [],
        "incomplete": ["model is missing", "auth is missing"],
        "keyed": ["api_key looks like a key, which has no place in this file; take it out"],
        "hidden": ["model looks like a key, which has no place in this file; take it out"],
        "newer": ["context_window is not known to this version"],
        "odd": [
            "model is no text",
            "auth is one of none, keyring, file",
            "dialect is one of openai-chat, openai-responses, anthropic-messages",
            "base_url begins with https:// or http:// and has no user, password, query or fragment",
        ],
        "flat": ["it is no table"],
    }
    for name in ("incomplete", "keyed", "odd"):
        status, out, err = await run("generate", "-e", name, "hi", env=home)
        assert (status, out, f"{name} is not selectable" in err, CANARY in err) == (2, "", True, False)


async def test_changes_keep_what_they_do_not_understand(home: dict[str, str]) -> None:
    """Comments, definitions of a newer version and broken ones are there byte by byte after another was changed."""
    path = write(home, BAD)
    added = ("endpoints", "add", "desk", "--base-url", "http://127.0.0.1:8/v1", "-m", "m2", "--no-key")
    assert await run(*added, env=home) == (0, "", "")
    assert (await run(*added, env=home))[0] == 2
    assert (await run(*added, "--replace", "--label", "Desk", env=home))[0] == 0
    assert tomllib.loads(path.read_text())["endpoints"]["desk"]["label"] == "Desk"
    assert (await run("endpoints", "remove", "desk", env=home))[0] == 0
    assert path.read_text() == BAD


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[endpoints.a\n", "it is not TOML (at line 1"),
        ("endpoints = 7\n", "endpoints is no table"),
    ],
)
async def test_a_file_that_cannot_be_trusted_is_refused_and_left_alone(
    home: dict[str, str], text: str, told: str
) -> None:
    """A broken file is told of by its place, and nothing overwrites it."""
    path = write(home, text)
    for command in (("list",), ("add", "a", "--base-url", "http://127.0.0.1", "-m", "m", "--no-key")):
        status, out, err = await run("endpoints", *command, env=home)
        assert (status, out, told in err, CANARY in err) == (1, "", True, False), err
    assert path.read_text() == text


async def test_keys_that_others_can_read_are_refused(home: dict[str, str]) -> None:
    """A key file with wide permissions, or one that is damaged, is neither used nor overwritten."""
    added = ("endpoints", "add", "a", "--base-url", "http://127.0.0.1:9", "-m", "m", "--key", "-", *FILE)
    assert (await run(*added, env=home, stdin=CANARY))[0] == 0
    keys = files(home) / "keys.json"
    keys.chmod(0o644)
    status, _, err = await run("generate", "-e", "a", "hi", env=home)
    assert (status, "others can read it" in err) == (1, True)
    keys.chmod(0o600)
    keys.write_text('{"keys": ')
    again = await run(*added, "--replace", env=home, stdin="other")
    assert (again[0], "no file of keys" in again[2], keys.read_text()) == (1, True, '{"keys": ')


@pytest.mark.parametrize(
    "more",
    [
        ("--allow-platform",),
        ("--fallback", "openai/gpt-4o"),
        ("--api-key", "openai=k"),
        ("-p", "openai"),
        ("--region", "eu"),
        ("--endpoint-key", "k"),
        ("--base-url", "http://127.0.0.1:9"),
    ],
)
async def test_an_endpoint_gives_way_to_nobody(home: dict[str, str], more: tuple[str, ...]) -> None:
    """Whatever could lead to a provider or to another bill is a usage error beside an endpoint."""
    write(home, '[endpoints.a]\nbase_url = "http://127.0.0.1:9"\nmodel = "m"\nauth = "none"\n')
    for command in (("generate", "hi"), ("explain",)):
        status, out, err = await run(*command, "-e", "a", *more, env=home)
        assert (status, out) == (2, ""), err


async def test_a_name_that_is_none_is_not_repeated(home: dict[str, str]) -> None:
    """What stands where a name belongs may be a key."""
    write(home, '[endpoints.a]\nbase_url = "http://127.0.0.1:9"\nmodel = "m"\nauth = "none"\n')
    for command in (
        ("generate", "-e", CANARY, "hi"),
        ("endpoints", "show", CANARY),
        ("endpoints", "remove", CANARY),
        ("endpoints", "add", CANARY, "--base-url", "http://127.0.0.1", "-m", "m", "--no-key"),
        ("endpoints", CANARY),
        ("generate", "--base-url", f"http://u:{CANARY}@127.0.0.1:9", "-m", "m", "hi"),
        ("generate", "--base-url", f"http://127.0.0.1:9/v1?k={CANARY}", "-m", "m", "hi"),
    ):
        status, out, err = await run(*command, env=home)
        assert (status != 0, out, CANARY in err) == (True, "", False), err


async def test_ids_stay_with_url_and_model(home: dict[str, str]) -> None:
    """However the URL is written and whatever the endpoint is called, its id is one; another model has another."""
    forms = ["https://Models.Example", "https://models.example/v1/", "https://models.example./v1/chat/completions"]
    entries = [f'[endpoints.e{n}]\nbase_url = "{url}"\nmodel = "m"\nauth = "none"\n' for n, url in enumerate(forms)]
    entries.append('[endpoints.other]\nbase_url = "https://models.example"\nmodel = "m2"\nauth = "none"\n')
    write(home, "".join(entries))
    ids = [str(entry["id"]) for entry in (await listed(home)).values()]
    assert (len(set(ids[:3])), ids[0] != ids[3], len(ids[0])) == (1, True, 16)
    assert ids[0] == "6aabf68f63c1e1be"


async def test_policy_refuses_an_endpoint_and_loses_nothing(
    home: dict[str, str], sandbox: Sandbox, tmp_path: pathlib.Path
) -> None:
    """While the operator has endpoints switched off the request says so; what is stored is the same byte by byte."""
    added = ("endpoints", "add", "desk", "--base-url", sandbox.url, "-m", "sandbox/echo", "--key", "-", *FILE)
    await run(*added, env=home, stdin=CANARY)
    before = {path.name: path.read_bytes() for path in files(home).iterdir()}
    through = ("generate", "-e", "desk", "--local", "never", "hi")
    (tmp_path / "off").mkdir()
    off = EGRESS | {"KEYSWITCH_POLICY": '{"custom_endpoints": false}'}
    async with server_process(tmp_path / "off", off) as server:
        for _ in range(2):
            status, out, err = await run(*through, server=server, env=_without_server(home))
            assert (status, out, "DISABLED_BY_POLICY" in err) == (64 + 9, "", True)
    assert {path.name: path.read_bytes() for path in files(home).iterdir()} == before
    async with server_process(tmp_path, EGRESS) as server:
        assert await run(*through, server=server, env=_without_server(home)) == (0, "hi\n", "")
        log = server.log.read_text()
    assert f'"endpoint":"{(await listed(home))["desk"]["id"]}"' in log
    assert sandbox.url not in log


def _without_server(home: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in home.items() if name != "KEYSWITCH_SERVER"}


@pytest.mark.parametrize("through_server", [True, False])
async def test_a_refused_key_is_named_by_its_label(
    home: dict[str, str], sandbox: Sandbox, server: ServerProcess, through_server: bool
) -> None:
    """A 401 reads `Invalid API key for <label>` and exits 4, by the server and from here."""
    added = ("endpoints", "add", "desk", "--base-url", sandbox.url, "-m", "sandbox/bad-key", "--label", "My Desk")
    await run(*added, "--key", "-", *FILE, env=home, stdin=CANARY)
    local = ("--local", "never") if through_server else ()
    env = _without_server(home) if through_server else home
    status, out, err = await run(
        "generate", "-e", "desk", *local, "hi", server=server if through_server else None, env=env
    )
    assert (status, out) == (4, "")
    assert err == "error: INVALID_CREDENTIAL: Invalid API key for My Desk\n"


async def test_a_key_is_in_no_output_file_or_process_list(home: dict[str, str], sandbox: Sandbox) -> None:
    """The key of an endpoint is nowhere but in its store, whatever fails and however much is shown."""
    forms = {CANARY, base64.b64encode(CANARY.encode()).decode(), urllib.parse.quote(CANARY, safe="")}
    shown = ""
    for scenario in ("echo", "bad-key", "html", "error-mid-stream"):
        added = (
            "endpoints",
            "add",
            "desk",
            "--base-url",
            sandbox.url,
            "-m",
            f"sandbox/{scenario}",
            "--key",
            "-",
            *FILE,
        )
        for command in (
            (*added, "--replace"),
            ("endpoints", "list"),
            ("endpoints", "show", "desk"),
            ("generate", "-e", "desk", "-v", "hi"),
            ("generate", "-e", "desk", "--json", "--no-stream", "hi"),
            ("explain", "-e", "desk", "--body", "--json"),
        ):
            process = await asyncio.create_subprocess_exec(
                *KEYSWITCH, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, env=environment(None, home),
            )  # fmt: skip
            seen = " ".join(psutil.Process(process.pid).cmdline())
            out, _ = await asyncio.wait_for(process.communicate(CANARY.encode() if "--key" in command else b""), 30)
            shown += seen + out.decode()
    assert shown
    stored = {path.name: path.read_text() for path in files(home).iterdir()}
    assert CANARY in stored.pop("keys.json")
    for form in forms:
        assert form not in shown
        assert not any(form in text for text in stored.values())
