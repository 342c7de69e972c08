from __future__ import annotations

import asyncio
import pathlib
import sys

import pytest
from keyswitch_server.settings import InvalidSettingsError, load


def test_arguments_beat_the_environment_which_beats_the_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source wins over the next: argument, environment, file, default."""
    file = tmp_path / "keyswitch.toml"
    file.write_text('listen = "127.0.0.1:1"\nmax_calls = 2\nlog_level = "error"\n')
    monkeypatch.setenv("KEYSWITCH_LISTEN", "127.0.0.1:3")
    monkeypatch.setenv("KEYSWITCH_MAX_CALLS", "4")
    settings = load(file, listen="127.0.0.1:5")
    assert (settings.listen, settings.max_calls, settings.log_level, settings.grace_seconds) == (
        "127.0.0.1:5",
        4,
        "error",
        30.0,
    )


TABLES = """
[platform_keys]
openai = { env = "SOME_KEY" }
[menus.wide]
applies_to = ["*"]
models = ["openai/*"]
[policy]
byok = false
disabled_providers = ["groq"]
"""


def test_a_table_of_the_environment_takes_the_place_of_the_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Menus and keys of two sources do not add up: none at all, or fewer, are what the environment says."""
    file = tmp_path / "keyswitch.toml"
    file.write_text(TABLES)
    narrow = '{"narrow": {"applies_to": ["*"], "models": ["openai/gpt-4o"]}}'
    for menus, names in (("{}", []), (narrow, ["narrow"])):
        monkeypatch.setenv("KEYSWITCH_MENUS", menus)
        assert sorted(load(file).menus) == names
    monkeypatch.setenv("KEYSWITCH_PLATFORM_KEYS", "{}")
    assert load(file).platform_keys == {}


def test_the_policy_is_merged_key_by_key(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment does not speak of stays forbidden."""
    file = tmp_path / "keyswitch.toml"
    file.write_text(TABLES)
    monkeypatch.setenv("KEYSWITCH_POLICY", '{"custom_endpoints": false}')
    policy = load(file).policy
    assert (policy.byok, policy.custom_endpoints, policy.disabled_providers) == (False, False, ("groq",))
    monkeypatch.setenv("KEYSWITCH_POLICY", '{"byok": true}')
    assert (load(file).policy.byok, load(file).policy.disabled_providers) == (True, ("groq",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_clals = 3", "max_clals"),
        ('max_calls = "many"', "max_calls"),
        ("max_calls = 0", "max_calls"),
        ('listen = "nowhere"', "listen"),
        ('listen = "127.0.0.1:99999"', "listen: .*no port 99999"),
        ('listen = "127.0.0.1:65536"', "listen: .*no port 65536"),
        ('listen = "0.0.0.0:1"', "insecure_listen"),
        ('listen = "gateway.example:1"', "insecure_listen"),
        ('egress_private_networks = ["10.0.0.0/99"]', "egress_private_networks"),
        ('egress_plain_http_hosts = ["http://gateway.internal"]', "egress_plain_http_hosts"),
        ('egress_plain_http_hosts = ["gateway.internal:0"]', "egress_plain_http_hosts"),
        ("egress_ports = [0]", "egress_ports"),
        ("egress_ports = [65536]", "egress_ports"),
        ("listen = ", "keyswitch.toml"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path: pathlib.Path, text: str, words: str) -> None:
    """Unknown and invalid settings name themselves; nothing is guessed."""
    file = tmp_path / "keyswitch.toml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError, match=words):
        load(file)


def test_a_file_that_is_not_there_is_an_error(tmp_path: pathlib.Path) -> None:
    """A config file that was named has to exist."""
    with pytest.raises(InvalidSettingsError, match="no such file"):
        load(tmp_path / "none.toml")


async def test_serving_on_a_port_that_does_not_exist_is_a_usage_error() -> None:
    """`serve` exits 2 and says which port it was, instead of listening on another one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keyswitch_cli", "serve", "--listen", "127.0.0.1:99999",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"there is no port 99999" in err


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.0.0.1:65535", "[::1]:0", "localhost:0"])
def test_loopback_needs_no_flag(listen: str) -> None:
    """Loopback addresses may be listened on without TLS."""
    assert load(None, listen=listen).listen == listen


def test_elsewhere_needs_a_flag_that_says_insecure() -> None:
    """Any other address needs the flag."""
    assert load(None, listen="0.0.0.0:0", insecure_listen=True).listen == "0.0.0.0:0"
