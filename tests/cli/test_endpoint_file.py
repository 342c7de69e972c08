"""The file of endpoints: changed exactly or not at all, where it is, and open to whom it was."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import sys
import tomllib

import pytest
from cli.homes import CANARY, FILE, files, write
from cli.running import run

ENTRY = '{ base_url = "http://127.0.0.1:9", model = "m", auth = "none" }'
DOTTED = 'endpoints.a.base_url = "http://127.0.0.1:9"\nendpoints.a.model = "m"\nendpoints.a.auth = "none"\n'
TABLE = '[endpoints.a]\nbase_url = "http://127.0.0.1:9"\nmodel = "m" # mine\nauth = "none"\n'
OTHER = '\n# the other one\n[endpoints.b]\nmodel = "x"\n'


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (DOTTED, "added"),
        (f"x = 1\n{DOTTED}{DOTTED.replace('.a.', '.b.')}", "added"),
        (f"endpoints = {{ a = {ENTRY} }}\n", "added"),
        ('[endpoints]\na = "text"\n', "replaced"),
        (f"[endpoints]\na = {ENTRY} # mine\n# end\n", ""),
        (f"[endpoints]\n{DOTTED.replace('endpoints.', '')}[other]\nx = nan\n", ""),
        (f"[x]\ny = 1\n{TABLE}[z]\ny = 1979-05-27\n[endpoints.b]\nmodel = 7\n", ""),
        (f"[[list]]\nx = 1\n{TABLE}[[list]]\nx = 2.0\n", ""),
        (TABLE + OTHER, ""),
        ((TABLE + OTHER).replace("\n", "\r\n"), ""),
        (TABLE.rstrip(), ""),
    ],
)
async def test_a_change_is_made_exactly_or_not_at_all(home: dict[str, str], text: str, refused: str) -> None:
    """However the file is written, it says what it said and the change; or it is as it was, and what to do is told."""
    url = "http://127.0.0.1:8/v1"
    values = {
        "added": {"base_url": url, "model": "m2", "auth": "none"},
        "replaced": {"base_url": url, "model": "m2", "label": "Desk", "auth": "none"},
        "removed": None,
    }
    for change, new in values.items():
        name = "desk" if change == "added" else "a"
        given = ("--label", "Desk", "--replace") if change == "replaced" else ()
        command = ("add", name, "--base-url", url, "-m", "m2", "--no-key", *given) if new else ("remove", name)
        path = write(home, "")
        path.write_bytes(text.encode())
        status, out, err = await run("endpoints", *command, env=home)
        after = path.read_bytes().decode()
        if change == refused:
            told = ", ".join(f'{field} = "{value}"' for field, value in (new or {}).items())
            assert (status, out, after) == (1, "", text)
            assert f'By hand, set in endpoints."{name}": {told}\n' in err
            continue
        wanted = tomllib.loads(text.replace("nan", "0"))
        old = wanted["endpoints"].pop(name, {})
        if new:
            wanted["endpoints"][name] = old | new
        assert (status, out, err) == (0, "", "")
        assert {"endpoints": {}} | tomllib.loads(after.replace("nan", "0")) == wanted
        assert ("# the other one" in after) == ("# the other one" in text)
        if change == "added":
            assert set(text.splitlines(keepends=True)) - {text.splitlines()[-1]} <= set(after.splitlines(keepends=True))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_a_change_leaves_alone_what_introduces_the_next_definition(home: dict[str, str], end: str) -> None:
    """New fields come before the comments that the next definition begins with, which outlive the one before them."""
    path = write(home, "")
    path.write_bytes((TABLE + OTHER).replace("\n", end).encode())
    replaced = ("endpoints", "add", "a", "--replace", "--no-key", "--label", "Desk", "--dialect", "openai-responses")
    assert await run(*replaced, env=home) == (0, "", "")
    wanted = f'{TABLE}dialect = "openai-responses"\nlabel = "Desk"\n{OTHER}'.replace("\n", end)
    assert path.read_bytes().decode() == wanted
    assert await run("endpoints", "remove", "a", env=home) == (0, "", "")
    assert path.read_bytes().decode() == OTHER.lstrip().replace("\n", end)
    added = ("endpoints", "add", "c", "--base-url", "http://127.0.0.1:8", "-m", "m", "--no-key")
    assert await run(*added, env=home) == (0, "", "")
    assert path.read_bytes().count(b"\n") == path.read_bytes().decode().count(end)


async def test_a_key_is_stored_with_its_definition_or_not_at_all(home: dict[str, str]) -> None:
    """Where the definition has to be written by hand no key is kept; once it is, its key can be given."""
    path = write(home, DOTTED)
    added = ("endpoints", "add", "desk", "--base-url", "http://127.0.0.1:9", "-m", "m", "--key", "-", *FILE)
    assert (await run(*added, env=home, stdin=CANARY))[0] == 1
    assert not (files(home) / "keys.json").exists()
    path.write_text(DOTTED + DOTTED.replace(".a.", ".desk.").replace('"none"', '"file"'))
    before = path.read_text()
    assert await run(*added, "--replace", env=home, stdin=CANARY) == (0, "", "")
    assert json.loads((files(home) / "keys.json").read_text())["keys"] == {"desk": f"http://127.0.0.1:9 {CANARY}"}
    assert path.read_text() == before


@pytest.mark.parametrize("mode", [0o600, 0o644])
async def test_a_linked_file_is_changed_where_it_is(home: dict[str, str], tmp_path: pathlib.Path, mode: int) -> None:
    """A link to definitions or keys that are kept elsewhere stays one, and both are open to whom they were."""
    link = write(home, "")
    link.unlink()
    shared = tmp_path / "dotfiles" / "mine.toml"
    shared.parent.mkdir()
    shared.write_text(TABLE)
    shared.chmod(mode)
    link.symlink_to(shared)
    (files(home) / "keys.json").symlink_to(shared.parent / "keys")
    added = ("endpoints", "add", "desk", "--base-url", "http://127.0.0.1:9", "-m", "m", "--key", "-", *FILE)
    assert await run(*added, env=home, stdin=CANARY) == (0, "", "")
    assert link.is_symlink()
    assert list(tomllib.loads(shared.read_text())["endpoints"]) == ["a", "desk"]
    assert stat.S_IMODE(shared.stat().st_mode) == mode
    assert stat.S_IMODE((shared.parent / "keys").stat().st_mode) == 0o600
    assert {path.name for path in shared.parent.iterdir()} == {"mine.toml", "keys"}


BROKEN = """import errno, os, sys
real, what = getattr(os, "{name}"), "{what}"
def refused(path, *rest, **more):
    if what in os.fspath(path):
        raise OSError(getattr(errno, "{code}"), os.strerror(getattr(errno, "{code}")))
    return real(path, *rest, **more)
os.{name} = refused
from keyswitch_cli.__main__ import main; main()"""
"""The command on a system that refuses one thing."""


async def test_what_cannot_be_written_costs_no_key(home: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Where the definitions are on a file system that takes no writes, their keys stay as they are, and it is named."""
    link = write(home, "")
    added = ("endpoints", "add", "desk", "--base-url", "http://127.0.0.1:9", "-m", "m", "--key", "-", *FILE)
    assert await run(*added, env=home, stdin=CANARY) == (0, "", "")
    shared = link.rename(tmp_path / "mine.toml")
    link.symlink_to(shared)
    before = {path: path.read_text() for path in (shared, files(home) / "keys.json")}
    read_only = (sys.executable, "-c", BROKEN.format(name="open", what=".mine.toml.", code="EROFS"))
    for command in (("endpoints", "remove", "desk"), (*added, "--replace", "--label", "Desk")):
        told = await run(*command, env=home, stdin="another", executable=read_only)
        assert told == (1, "", f"error: {shared}: it cannot be written: Read-only file system\n")
        assert {path: path.read_text() for path in before} == before
    locked = (sys.executable, "-c", BROKEN.format(name="open", what=".lock", code="EROFS"))
    told = await run("endpoints", "remove", "desk", env=home, executable=locked)
    assert told == (1, "", f"error: {files(home) / '.lock'}: it cannot be written: Read-only file system\n")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_stays_whose_it_was(home: dict[str, str]) -> None:
    """Owner, group and mode outlive a change; where they cannot, the file is left alone, and no other is left behind."""
    path = write(home, TABLE)
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    replaced = ("endpoints", "add", "a", "--replace", "--no-key", "--label")
    assert await run(*replaced, "Desk", env=home) == (0, "", "")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o640)
    before = path.read_text()
    not_root = (sys.executable, "-c", BROKEN.format(name="chown", what="endpoints.toml", code="EPERM"))
    told = await run(*replaced, "Other", env=home, executable=not_root)
    assert told == (1, "", f"error: {path}: it cannot be written: it would get another owner or group\n")
    assert (path.read_text(), path.stat()[:6]) == (before, found[:6])
    assert {each.name for each in files(home).iterdir()} == {"endpoints.toml", ".lock"}


async def test_a_new_file_is_its_owners_alone(home: dict[str, str]) -> None:
    """Definitions that nobody shared yet are readable by nobody else."""
    added = ("endpoints", "add", "desk", "--base-url", "http://127.0.0.1:9", "-m", "m", "--no-key")
    assert (await run(*added, env=home))[0] == 0
    assert stat.S_IMODE((files(home) / "endpoints.toml").stat().st_mode) == 0o600
