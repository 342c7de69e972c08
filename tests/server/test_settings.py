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


TLS = 'tls_certificate = "c"\ntls_key = "k"\n'


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
        ('tls_key = "k"', "tls_certificate and tls_key are needed together"),
        ('tls_certificate = "c"', "tls_certificate and tls_key are needed together"),
        ('tls_client_ca = "a"', "tls_client_ca needs tls_certificate and tls_key"),
        ('tls_callers = { laptop = "me" }', "tls_callers needs tls_client_ca"),
        (f'{TLS}tls_client_ca = "a"', "say with tls_callers whom certificates name, or set tokens or jwt"),
        (f'{TLS}tls_client_ca = "a"\ntls_callers = {{ laptop = "a/b" }}', "tls_callers: a caller's name"),
        (f'{TLS}tls_client_ca = "a"\ntls_callers = {{ laptop = "anonymous" }}', "tls_callers: a caller's name"),
        ('jwt = { issuer = "i", audience = "a" }', "jwt: .*keys"),
        ('jwt = { issuer = "", audience = "a", keys = "k" }', "jwt: .*issuer"),
        ('jwt = { issuer = "i", audience = "a", keys = "k", algorithms = ["HS256"] }', "jwt: .*HS256"),
        ('jwt = { issuer = "i", audience = "a", keys = "k", algorithms = [] }', "jwt: .*algorithms"),
        ('jwt = { issuer = "i", audience = "a", keys = "k", algorithms = ["none"] }', "jwt: .*none"),
        ('jwt = { issuer = "i", audience = "a", keys = "k", leeway_seconds = 3600 }', "jwt: .*leeway_seconds"),
        ('jwt = { issuer = "i", audience = "a", keys = "k", caller_claims = "sub" }', "jwt: .*caller_claims"),
        ('caller_limits = { "a/b" = { concurrent_calls = 1 } }', "caller_limits: a caller's name"),
        ("caller_limits = { a = { concurrent_calls = 0 } }", "caller_limits.a"),
        ("caller_limits = { a = { per_minute = 1 } }", "caller_limits.a: .*per_minute"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path: pathlib.Path, text: str, words: str) -> None:
    """Unknown and invalid settings name themselves; nothing is guessed."""
    file = tmp_path / "keyswitch.toml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError, match=words):
        load(file)


def test_callers_are_set_up_by_file_and_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of the anonymous and of everybody are allowed; the environment's issuer takes the place of the file's."""
    file = tmp_path / "keyswitch.toml"
    file.write_text(
        'jwt = { issuer = "file", audience = "a", keys = "k", caller_prefix = "p:" }\n'
        'caller_limits = { "*" = { concurrent_calls = 5 }, anonymous = { calls_per_minute = 6 } }\n'
    )
    settings = load(file)
    assert settings.jwt is not None
    assert (settings.jwt.issuer, settings.authenticates) == ("file", True)
    assert settings.jwt.algorithms == ("RS256", "ES256", "EdDSA")
    assert {name: (limit.concurrent_calls, limit.calls_per_minute) for name, limit in settings.caller_limits.items()} == {
        "*": (5, None), "anonymous": (None, 6),
    }  # fmt: skip
    monkeypatch.setenv("KEYSWITCH_JWT", '{"issuer": "environment", "audience": "a", "keys": "k"}')
    jwt = load(file).jwt
    assert jwt is not None
    assert (jwt.issuer, jwt.caller_prefix) == ("environment", "")
    assert load(None).caller_limits == {}


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


def test_elsewhere_needs_no_flag_with_tls_and_authentication() -> None:
    """With both, any address will do; with one of them, the message says what is lacking and what comes of it."""
    tls = {"tls_certificate": "c", "tls_key": "k"}
    assert load(None, listen="0.0.0.0:0", tokens="t", **tls).listen == "0.0.0.0:0"
    with pytest.raises(
        InvalidSettingsError, match=r"lacks authentication .*, so that everybody may call\. Set that up"
    ):
        load(None, listen="0.0.0.0:0", **tls)
    with pytest.raises(InvalidSettingsError, match=r"lacks TLS .*, so that keys travel unencrypted\. Set that up"):
        load(None, listen="0.0.0.0:0", tokens="t")


@pytest.mark.parametrize("prefix", ["team/", "*", "ä"])
def test_a_prefix_that_no_name_can_have_is_refused(prefix: str) -> None:
    """Else every token would be refused, one by one."""
    with pytest.raises(InvalidSettingsError, match="caller_prefix"):
        load(jwt={"issuer": "i", "audience": "a", "keys": "k", "caller_prefix": prefix})
