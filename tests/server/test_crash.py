from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

CANARY = "c4n4ry-in-a-text"
WAYS = {
    "uncaught": "raise ValueError(key)",
    "chained": "\ntry:\n    raise KeyError(key)\nexcept KeyError as error:\n    raise ValueError(key) from error",
    "thread": "threading.Thread(target=fail, name=key).start()",
    "finalizer": "type('Bad', (), {'__del__': lambda self: fail()})()",
    "warning": "warnings.warn(key)",
    "log": "logging.getLogger(key[:0] + 'library').error('%s', key, exc_info=ValueError(key), stack_info=True)",
    "record": "logging.getLogger('library').error(key)",
    "task": "asyncio.run(task())",
    "loop": "asyncio.run(loop())",
    "group": "raise BaseExceptionGroup(key, [ValueError(key)])",
}
SCRIPT = """
import asyncio, gc, logging, sys, threading, warnings
key = sys.argv[1]
def fail():
    local = key
    raise ValueError(local)
async def later():
    fail()
async def task():
    running = asyncio.ensure_future(later())
    await asyncio.wait((running,))
    del running
    gc.collect()
async def loop():
    asyncio.get_running_loop().call_soon(fail)
    asyncio.get_running_loop().call_exception_handler({"message": key, "task": key})
    await asyncio.sleep(0)
"""
ENTRIES = {
    "server": "from keyswitch_server import logging as own; own.configure('debug')",
    "command": "from keyswitch_cli import __main__ as own; own.report_by(own._report)",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_no_failure_that_nobody_handles_shows_its_text(entry: str, way: str) -> None:
    """Exceptions, tasks, threads, finalizers, warnings and logs are told by kind and place, in server and command."""
    script = f"{ENTRIES[entry]}\n{SCRIPT}\n{WAYS[way]}"
    ended = subprocess.run([sys.executable, "-c", script, CANARY], capture_output=True, text=True, check=False)
    assert CANARY not in ended.stdout + ended.stderr
    assert ended.returncode == (way in ("uncaught", "chained", "group"))
    if (entry, way) != ("command", "record"):  # what libraries only have to say is no business of a command's user
        kind = {"warning": "UserWarning", "record": "library", "group": "ExceptionGroup"}.get(way, "ValueError")
        assert kind in ended.stderr


@pytest.mark.parametrize("way", ["ValueError", "SystemExit", "BaseExceptionGroup"])
def test_a_bug_of_the_command_shows_kind_and_place_alone(tmp_path: pathlib.Path, way: str) -> None:
    """A command that fails in a way that nobody thought of exits 1, and prints neither a text nor a variable."""
    raising = f"BaseExceptionGroup({CANARY!r}, [ValueError({CANARY!r})])" if "Group" in way else f"{way}({CANARY!r})"
    (tmp_path / "plant.py").write_text(
        "import keyswitch_cli.commands.health as health\n"
        f"def fail(**arguments): raise {raising}\n"
        "health.command.callback = fail\n"
        "from keyswitch_cli.__main__ import main\nmain(['health'])\n"
    )
    ended = subprocess.run([sys.executable, tmp_path / "plant.py"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert CANARY not in ended.stdout + ended.stderr
    assert way == "SystemExit" or (way.removeprefix("Base") in ended.stderr and "plant.py:2 fail" in ended.stderr)


KEY = "c4n4ry0Ab1Cd2Ef3Gh4Ij5Kl6"
SETTINGS = {
    "inline": f'[platform_keys]\nopenai = "{KEY}"',
    "unknown": f'[platform_keys.openai]\nkey = "{KEY}"',
    "as-variable": f'[platform_keys.openai]\nenv = "{KEY}"',
    "as-file": f'[platform_keys.openai]\nfile = "{KEY}"',
    "as-provider": f'[platform_keys.{KEY}]\nenv = "A_B"',
    "as-setting": f'{KEY} = "x"',
    "twice": f"[{KEY}]\n[{KEY}]",
    "unquoted": f"[platform_keys.openai]\nenv = {KEY}",
    "in-a-word": f'[virtual_models.a]\nprovider = "openai"\nmodel = "x"\nrouting = {{ data_collection = "{KEY}" }}',
    "in-a-policy": f'[policy]\ndisabled_providers = ["{KEY}"]',
}
ROW = 'schema = 1\nid = "example"\nname = "E"\nbase_url = "https://api.example.com/v1"\n{}\n[[dialects]]\nname = "openai-chat"\npath = "/c"\n'
ROWS = {
    "row-key": f'api_key = "{KEY}"',
    "row-style": f'auth = {{ style = "{KEY}" }}',
    "row-pattern": f'key_pattern = "{KEY}("',
    "row-unquoted": f"api_key = {KEY}",
}
ENVIRONMENT = {
    "json": {"KEYSWITCH_PLATFORM_KEYS": KEY},
    "json-inline": {"KEYSWITCH_PLATFORM_KEYS": f'{{"openai": "{KEY}"}}'},
    "json-broken": {"KEYSWITCH_PLATFORM_KEYS": f'{{"openai": {{"key": "{KEY}"'},
    "characters": {"KEYSWITCH_PLATFORM_KEYS": '{"openai": {"env": "A_KEY"}}', "A_KEY": f"{KEY} é"},
    "account": {"KEYSWITCH_PLATFORM_KEYS": '{"vertex": {"env": "A_KEY"}}', "A_KEY": f'{{"type": "{KEY}"'},
}


@pytest.mark.parametrize("case", [*SETTINGS, *ROWS, *ENVIRONMENT])
def test_a_key_in_the_wrong_place_of_settings_is_not_shown(tmp_path: pathlib.Path, case: str) -> None:
    """Settings, provider files and variables in which a key stands where none belongs are refused without showing it."""
    env = {**os.environ, **ENVIRONMENT.get(case, {})}
    (tmp_path / "keyswitch.toml").write_text(SETTINGS.get(case, ""))
    if case in ROWS:
        (tmp_path / "example.toml").write_text(ROW.format(ROWS[case]))
        env["KEYSWITCH_PROVIDERS"] = f'["{tmp_path}"]'
        (tmp_path / "keyswitch.toml").rename(tmp_path / "settings")
    config = tmp_path / ("settings" if case in ROWS else "keyswitch.toml")
    ended = subprocess.run(
        [sys.executable, "-m", "keyswitch_cli", "serve", "--listen", "127.0.0.1:0", "--config", str(config)],
        capture_output=True, text=True, check=False, env=env, timeout=30,
    )  # fmt: skip
    assert ended.returncode in (1, 2)
    assert "error: " in ended.stderr
    assert "c4n4ry" not in ended.stdout + ended.stderr
