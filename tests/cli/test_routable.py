from __future__ import annotations

import json
import pathlib

import click
import pytest
from cli.running import run
from keyswitch_cli.model_list import read_models
from support import ServerProcess

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
    "answer.json": '{"object": "list", "data": [{"id": "gpt-4o-mini", "owned_by": "us"}, {"id": "anthropic/claude-x"}, '
    '{"id": "openrouter-bedrock", "object": "model"}]}',
    "answer.toml": '[[models]]\nid = "gpt-4o-mini"\n[[models]]\nid = "ours"\nmodel = "anthropic/claude-x"\n'
    '[[models]]\nid = "openrouter-bedrock"\n',
    "gemini.json": '{"models": [{"name": "models/gpt-4o-mini", "displayName": "x"}, '
    '{"name": "anthropic/claude-x"}, {"name": "models/openrouter-bedrock", "provider": null}]}',
    "lines.jsonl": '{"id": "gpt-4o-mini"}\n{"id": "claude-x", "provider": "anthropic"}\n\n'
    '{"name": "Ours", "model": "openrouter-bedrock"}\n',
    "list": '\n {"models": [{"id": "gpt-4o-mini"}, {"id": "claude-x", "provider": "anthropic"}, "openrouter-bedrock"]}',
}


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    (tmp_path / "keyswitch.toml").write_text(CONFIG)
    return str(tmp_path / "keyswitch.toml")


@pytest.mark.parametrize("name", LISTS)
async def test_every_form_of_a_list_is_checked(tmp_path: pathlib.Path, config: str, name: str) -> None:
    """Text, JSON, TOML and a server's answer say the same, and what resolves exits 0 with its summary."""
    (tmp_path / name).write_text(LISTS[name])
    status, out, _ = await run("routable", str(tmp_path / name), "--config", config)
    assert_resolves(status, out)


@pytest.mark.parametrize("name", ["list.txt", "list.json", "list", "lines.jsonl"])
async def test_standard_input_is_text_or_json(config: str, name: str) -> None:
    """Without a name, what begins like JSON is JSON, and anything else is text."""
    status, out, _ = await run("routable", "-", "--config", config, stdin=LISTS[name])
    assert_resolves(status, out)


def assert_resolves(status: int, out: str) -> None:
    """Check the report on one of the lists."""
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
        ("list.txt", "# nothing\n", "list.txt: lists no model"),
        ("list.json", "[]", "list.json: lists no model"),
        ("list.json", '{"models": []}', "lists no model"),
        ("list.json", '{"data": []}', "lists no model"),
        ("list.toml", "models = []", "lists no model"),
        ("list.json", "", "line 1"),
        ("list.json", "{}", "`models` or `data`"),
        ("list.toml", "", "`models` or `data`"),
        ("list.json", '["a",', "line 1"),
        ("list.json", '{"model": ["a"]}', "`models`"),
        ("list.json", '["a", 3]', "models[1]"),
        ("list.json", '["a", " "]', "models[1]"),
        ("list.json", '{"data": [{"id": "gpt-4o"}, {"label": "gpt-4o"}]}', "data[1]"),
        ("list.json", '{"models": [{"name": "models/"}]}', "models[0]"),
        ("list.json", '{"models": [{"name": "gpt-4o", "id": null}]}', "models[0]"),
        ("list.json", '{"models": ["gpt-4o"], "data": ["gpt-4o"]}', "both `models` and `data`"),
        ("list.json", '{"name": "gpt-4o"}', "`models` or `data`"),
        ("list.jsonl", '{"id": "gpt-4o"}\n\n{"id": }\n', "line 3"),
        ("list.jsonl", '{"id": "gpt-4o"}\n{"models": ["gpt-4o"]}\n', "models[1]"),
        ("list.jsonl", '{"id": "gpt-4o"}\n{"id": "a", "id": "gpt-4o"}\n', "the key 'id' comes twice"),
        ("list.json", '[{"id": "gpt-4o", "provider": 0}]', "models[0].provider"),
        ("list.json", '[{"provider": "openai", "model": ""}]', "models[0]"),
        ("list.json", '[{"id": "gpt-4o", "provider": {}}]', "models[0].provider"),
        ("list.json", '{"models": ["nonsense"], "models": ["gpt-4o"]}', "the key 'models' comes twice"),
        ("list.json", '[{"model": "nonsense", "model": "gpt-4o"}]', "the key 'model' comes twice"),
        ("list.toml", 'models = [{ provider = "a" }]', "models[0]"),
        ("list.toml", "models = [}", "line 1"),
        ("list.txt", '["gpt-4o"', "line 1"),
        ("list.txt", b"\xff\xfe", "UTF-8"),
        ("list.yaml", "gpt-4o", "YAML is not read"),
        ("list.YML", "gpt-4o", "YAML is not read"),
    ],
)
def test_a_list_that_is_none_is_a_usage_error(
    tmp_path: pathlib.Path, name: str, content: str | bytes, words: str
) -> None:
    """What cannot be read as a list, or lists nothing, says where, and never passes for one that resolves."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(click.UsageError) as raised:
        read_models(str(tmp_path / name))
    assert words in raised.value.message


@pytest.mark.parametrize(
    "line",
    [
        "openai/gpt-4o openai/o3",
        "openai/gpt-4o,",
        "openai/gpt-4o,openai/o3",
        '"openai/gpt-4o"',
        "'openai/gpt-4o'",
        "- openai/gpt-4o",
        "* openai/gpt-4o",
        "-",
        "[models]",
        "{openai/gpt-4o}",
        "model = openai/gpt-4o",
    ],
)
def test_a_line_that_is_no_id_is_a_usage_error(tmp_path: pathlib.Path, line: str) -> None:
    """A line of another format is no model of the vendor that it names; the error says which it is and what to do."""
    file = tmp_path / "list.txt"
    file.write_text(f"# ours\ngpt-4o-mini\n{line}\n")
    with pytest.raises(click.UsageError) as raised:
        read_models(str(file))
    assert raised.value.message.startswith(f"{file}, line 3: this is no model id; text has one a line, without bullet")


async def test_the_models_that_a_server_knows_can_be_checked(server: ServerProcess) -> None:
    """What `keyswitch models --json` prints is such a list, be it of many models or of one."""
    for query, several in (((), True), (("gpt-4o-mini",), False)):
        asked = ("models", "--provider", "openai", "--keyed", "openai", "--json", *query)
        _, listed, _ = await run(*asked, server=server)
        status, out, err = await run("routable", "-", "--json", stdin=listed if several else listed.split("\n")[0])
        assert (status, err) == (0, "")
        assert json.loads(out)["total"] == (len(listed.splitlines()) if several else 1)


@pytest.mark.parametrize("nothing", ["", "[]"])
async def test_nothing_on_standard_input_is_a_usage_error(nothing: str) -> None:
    """A list that another command failed to write is not one of which all resolve."""
    status, out, err = await run("routable", "-", stdin=nothing)
    assert (status, out) == (2, "")
    assert "standard input: lists no model" in err


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


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ("no_such_setting = 1\n", 2, "no_such_setting"),
        ("{key} = 1\n", 2, "[redacted]"),
        ("listen = [\n", 2, "keyswitch.toml"),
        (
            '[menus.m]\napplies_to = ["*"]\nmodels = ["openai/gpt-4o"]\n',
            1,
            "menus.m.models[0]: there is no platform key",
        ),
        ('providers = ["{rows}"]\n', 1, "bad.toml:2"),
        (None, 2, "no such file"),
    ],
)
async def test_settings_that_are_invalid_are_told_to_programs_too(
    tmp_path: pathlib.Path, settings: str | None, status: int, words: str
) -> None:
    """With --json what no decision can be made by is an error of the same shape, with its usual status and no key."""
    file, rows, key = tmp_path / "keyswitch.toml", tmp_path / "rows", "sk-proj-" + "Ab1" * 16
    rows.mkdir()
    (rows / "bad.toml").write_text('schema = 1\nno_such_key = "x"\n')
    if settings is not None:
        file.write_text(settings.replace("{key}", key).replace("{rows}", str(rows)))
    returned, out, err = await run("explain", "--offline", "--json", "-m", "gpt-4o", "--config", str(file))
    error = json.loads(out)["error"]
    assert (returned, error["code"], error["reason"]) == (status, "INVALID_ARGUMENT", "INVALID_REQUEST")
    assert words in error["message"]
    assert f"error: {error['message']}" in err
    assert key not in out + err
