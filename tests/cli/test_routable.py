from __future__ import annotations

import json
import pathlib

import pytest
from cli.running import run

CONFIG = """
[platform_keys]
openai = { env = "NO_SUCH_VARIABLE" }

[menus.default]
applies_to = ["*"]
models = ["openai/gpt-4o-mini", "openrouter-bedrock"]

[menus.blue]
applies_to = ["anonymous/blue"]
models = ["openai/gpt-4o"]

[virtual_models.openrouter-bedrock]
provider = "openai"
model = "gpt-4o"
"""
LISTS = {
    "list.txt": "# ours\ngpt-4o-mini\n\nanthropic/claude-x  # theirs\nopenrouter-bedrock\n",
    "list.json": '["gpt-4o-mini", {"model": "claude-x", "provider": "anthropic", "label": "any"}, "openrouter-bedrock"]',
    "list.toml": 'models = ["gpt-4o-mini", "anthropic/claude-x", { model = "openrouter-bedrock" }]',
}


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    (tmp_path / "keyswitch.toml").write_text(CONFIG)
    return str(tmp_path / "keyswitch.toml")


@pytest.mark.parametrize("name", LISTS)
async def test_every_form_of_a_list_is_checked(tmp_path: pathlib.Path, config: str, name: str) -> None:
    """Text, JSON and TOML say the same, and what resolves exits 0 with its summary."""
    (tmp_path / name).write_text(LISTS[name])
    status, out, _ = await run("routable", str(tmp_path / name), "--config", config)
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["menu", "derived", "menu", "3"]
    assert lines[1][2:] == ["anthropic,", "key", "usually", "in", "ANTHROPIC_API_KEY", "or", "ANTHROPIC_AUTH_TOKEN"]
    assert (status, out.splitlines()[-1]) == (0, "3 of 3 resolve")


async def test_drift_exits_1_and_says_why(tmp_path: pathlib.Path, config: str) -> None:
    """A model that leads nowhere is the residual; a model of a menu for others is none for this tenant."""
    file = tmp_path / "list.json"
    file.write_text('{"models": ["gpt-4o", "no-such-model", "deepseek-ai/x"]}')
    status, out, _ = await run("routable", str(file), "--config", config, "--keyed", "OpenRouter", "--json")
    assert status == 1
    assert json.loads(out) == {
        "models": [
            {
                "model": "gpt-4o", "status": "residual", "reason": "MISSING_CREDENTIAL",
                "message": "no key for OpenAI came, only for openrouter; send one for 'openai'",
            },
            {
                "model": "no-such-model", "status": "residual", "reason": "UNROUTABLE_MODEL",
                "message": "no provider owns this model; name the provider too",
            },
            {
                "model": "deepseek-ai/x", "status": "derived", "provider": "openrouter",
                "resolved_model": "deepseek-ai/x", "key_variables": ["OPENROUTER_API_KEY"],
            },
        ],
        "resolved": 1,
        "total": 3,
    }  # fmt: skip
    status, out, _ = await run("routable", str(file), "--config", config, "--tenant", "blue", "--json")
    assert json.loads(out)["models"][0] == {
        "model": "gpt-4o", "status": "menu", "provider": "openai", "resolved_model": "gpt-4o", "menu": "blue",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.txt", "# nothing\n", "lists no model"),
        ("list.json", '["a",', "line 1"),
        ("list.json", '{"model": ["a"]}', "`models`"),
        ("list.json", '["a", 3]', "models[1]"),
        ("list.toml", 'models = [{ provider = "a" }]', "models[0]"),
        ("list.toml", "models = [}", "line 1"),
        ("list.txt", b"\xff\xfe", "UTF-8"),
    ],
)
async def test_a_list_that_is_none_is_a_usage_error(
    tmp_path: pathlib.Path, name: str, content: str | bytes, words: str
) -> None:
    """What cannot be read as a list says where, and never passes for one that resolves."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, _, err = await run("routable", str(tmp_path / name))
    assert status == 2
    assert words in err


async def test_a_key_for_nobody_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    """A provider of --keyed that nobody knows is no drift of the list."""
    (tmp_path / "list.txt").write_text("gpt-4o\n")
    status, _, err = await run("routable", str(tmp_path / "list.txt"), "--keyed", "opnai")
    assert status == 2
    assert "did you mean 'openai'" in err


async def test_the_offline_decision_knows_menus_and_consent(config: str) -> None:
    """`explain --offline --json` tells whose bill it is, in its stable shape, without the operator's key at hand."""
    asked = ("explain", "--offline", "--json", "--config", config, "-m", "gpt-4o-mini")
    status, out, err = await run(*asked, "--allow-platform")
    assert (status, json.loads(out)) == (
        0,
        {
            "provider": "openai", "model": "gpt-4o-mini", "dialect": "openai-responses", "host": "api.openai.com",
            "credential": "platform", "billing": "PLATFORM",
        },
    )  # fmt: skip
    assert "NO_SUCH_VARIABLE is not set" in err
    status, out, _ = await run(*asked)
    assert (status, json.loads(out)["error"]["reason"]) == (4, "MISSING_CREDENTIAL")
    status, out, _ = await run(*asked, "--allow-platform", "-m", "gpt-4.1")
    assert (status, json.loads(out)["error"]["reason"]) == (64 + 9, "PLATFORM_NOT_ALLOWED")


async def test_the_settings_can_be_named_by_the_environment(config: str, tmp_path: pathlib.Path) -> None:
    """What decides in this process takes a server's settings from where the server does."""
    (tmp_path / "list.txt").write_text("gpt-4o-mini\n")
    env = {"KEYSWITCH_CONFIG": config}
    status, out, _ = await run("explain", "--offline", "--json", "-m", "gpt-4o-mini", "--allow-platform", env=env)
    assert (status, json.loads(out)["billing"]) == (0, "PLATFORM")
    status, out, _ = await run("routable", str(tmp_path / "list.txt"), env=env)
    assert out.startswith("menu ")


async def test_without_own_keys_only_menus_resolve(tmp_path: pathlib.Path) -> None:
    """Where callers may bring no keys, a model that would need one is the residual."""
    (tmp_path / "keyswitch.toml").write_text(CONFIG + "[policy]\nbyok = false\n")
    (tmp_path / "list.txt").write_text("gpt-4o-mini\nclaude-x\n")
    status, out, _ = await run("routable", str(tmp_path / "list.txt"), "--config", str(tmp_path / "keyswitch.toml"))
    assert (status, [line.split()[0] for line in out.splitlines()]) == (1, ["menu", "residual", "1"])
    assert "switched off" in out


async def test_a_malformed_key_is_told_to_programs_too() -> None:
    """With --json an error is an object on standard output, and what was pasted is not in it."""
    status, out, err = await run("explain", "--offline", "--json", "-m", "gpt-4o", "--api-key", "pasted-secret")
    assert status == 2
    error = json.loads(out)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert "pasted-secret" not in out + err
