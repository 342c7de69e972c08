from __future__ import annotations

import json
import os
import pathlib
import traceback

import pytest
from keyswitch_engine.credential import ApiKey, AzureApiKey, NoCredential, PlatformConsent, ProviderCredential
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.operator import Caller
from keyswitch_engine.registry import Registry, RegistryError
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret
from keyswitch_server.registry_loading import load_registry
from keyswitch_server.settings import InvalidSettingsError, load

CANARY = "canary-of-the-operator"
CONSENT = ProviderCredential("", PlatformConsent())
KEY = '[platform_keys]\nopenai = { env = "CANARY_KEY" }\n'
MENU = f'{KEY}[menus.default]\napplies_to = ["*"]\nmodels = '
TABLES = """
[platform_keys]
OAI = { env = "CANARY_KEY", organization = "our-organization" }
azure = { file = "FILE", resource = "our-resource" }

[menus.default]
applies_to = ["anonymous/acme"]
models = ["openai/gpt-4o-mini", "azure/*", "our-model"]

[virtual_models.our-model]
provider = "oai"
model = "openai/gpt-4.1"
compatibility = { user_field = "user" }

[policy]
byok = false
custom_endpoints = false
disabled_providers = ["Claude"]
"""


@pytest.fixture(autouse=True)
def _key_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)


def loaded(folder: pathlib.Path, text: str) -> Registry:
    """Return the registry of a server with these settings."""
    file = folder / "keyswitch.toml"
    file.write_text(text)
    return load_registry(load(file))


def refusal(folder: pathlib.Path, text: str) -> str:
    """Return why a server with these settings does not start; it never shows a key."""
    with pytest.raises((RegistryError, InvalidSettingsError)) as raised:
        loaded(folder, text)
    assert CANARY not in f"{raised.value} {raised.value!r}"
    return str(raised.value)


def served(registry: Registry, model: str, tenant: str = "acme") -> Route:  # type: ignore[type-arg] # any dialect
    """Return the route of a model with consent and no key."""
    return resolve(registry, Target(model=model), [CONSENT], Caller(tenant=tenant))


def check_all_of_it(registry: Registry) -> None:
    """Check that `TABLES` holds, each of its settings by what it does."""
    mini, ours, azure = (served(registry, model) for model in ("gpt-4o-mini", "our-model", "azure/our-deployment"))
    assert [(route.provider.id, route.model) for route in (mini, ours, azure)] == [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-4.1"),
        ("azure", "our-deployment"),
    ]
    assert {route.billing for route in (mini, ours, azure)} == {Billing.PLATFORM}
    assert isinstance(mini.credential, ApiKey)
    assert (mini.credential.key.reveal(), mini.credential.organization) == (CANARY, "our-organization")
    assert isinstance(azure.credential, AzureApiKey)
    assert (azure.credential.key.reveal(), azure.credential.resource) == (f"{CANARY}-in-a-file", "our-resource")
    flags = [route.surface.profile.flags.user_field for route in (mini, ours)]
    assert flags == ["safety_identifier", "user"]
    for model, tenant in (("gpt-4o-mini", ""), ("gpt-4.1", "acme")):
        with pytest.raises(DispatchError) as raised:
            served(registry, model, tenant)
        assert raised.value.reason is Reason.PLATFORM_NOT_ALLOWED


def key_file(folder: pathlib.Path) -> pathlib.Path:
    """Return a file with a key, as editors leave it."""
    file = folder / "key"
    file.write_text(f"  {CANARY}-in-a-file\n")
    return file


def test_a_file_of_settings_says_all_of_it(tmp_path: pathlib.Path) -> None:
    """Keys from a variable and a file, menus, virtual models and policy hold as one TOML file says them."""
    registry = loaded(tmp_path, TABLES.replace("FILE", str(key_file(tmp_path))))
    check_all_of_it(registry)
    operator = registry.operator
    assert (operator.byok, operator.custom_endpoints, set(operator.disabled_providers)) == (False, False, {"anthropic"})


def test_the_environment_says_all_of_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same settings hold as JSON in variables of the environment, without any file."""
    azure = {"file": str(key_file(tmp_path)), "resource": "our-resource"}
    for name, value in {
        "PLATFORM_KEYS": {"OAI": {"env": "CANARY_KEY", "organization": "our-organization"}, "azure": azure},
        "MENUS": {
            "default": {"applies_to": ["anonymous/acme"], "models": ["openai/gpt-4o-mini", "azure/*", "our-model"]}
        },
        "VIRTUAL_MODELS": {
            "our-model": {
                "provider": "oai",
                "model": "openai/gpt-4.1",
                "compatibility": {"user_field": "user"},
            }
        },
    }.items():
        monkeypatch.setenv(f"KEYSWITCH_{name}", json.dumps(value))
    check_all_of_it(load_registry(load()))


def test_the_environment_says_what_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy can be a variable of the environment as every other table can."""
    monkeypatch.setenv(
        "KEYSWITCH_POLICY", '{"byok": false, "custom_endpoints": false, "disabled_providers": ["Claude"]}'
    )
    operator = load_registry(load()).operator
    assert (operator.byok, operator.custom_endpoints, set(operator.disabled_providers)) == (False, False, {"anthropic"})


def test_nothing_is_laid_down_unasked() -> None:
    """Without settings no model is on a menu, keys and endpoints are taken, and no provider is switched off."""
    registry = load_registry(load())
    operator = registry.operator
    assert (operator.platform_keys, operator.menus, operator.virtual_models) == ({}, (), {})
    assert (operator.byok, operator.custom_endpoints, set(operator.disabled_providers)) == (True, True, set())
    with pytest.raises(DispatchError) as raised:
        served(registry, "gpt-4o-mini")
    assert raised.value.reason is Reason.PLATFORM_NOT_ALLOWED


def virtual(name: str = "ours", lines: str = 'provider = "openai"\nmodel = "gpt-4.1"') -> str:
    """Return the settings of one virtual model."""
    return f'[virtual_models."{name}"]\n{lines}'


REFUSED = [
    # providers that there are not, wherever they are named
    ('[platform_keys]\nopneai = { env = "CANARY_KEY" }', "platform_keys.opneai: 'opneai' is no provider"),
    ('[platform_keys]\nplatform = { env = "CANARY_KEY" }', "platform_keys.platform: 'platform' is no provider"),
    (f'{MENU}["gpt-4o", "x"]', "menus.default.models[0]: expected provider/model, or the name of a virtual model"),
    (f'{MENU}["openai/gpt-4o", "opneai/gpt-4o"]', "menus.default.models[1]: 'opneai' is no provider"),
    (f'{MENU}["*/gpt-4o"]', "menus.default.models[0]: '*' is no provider"),
    (virtual(lines='provider = "opneai"\nmodel = "x"'), "virtual_models.ours.provider: 'opneai' is no provider"),
    (virtual(lines='provider = ""\nmodel = "x"'), "virtual_models.ours.provider: '' is no provider"),
    ('[policy]\ndisabled_providers = ["openai", "x"]', "policy.disabled_providers[1]: 'x' is no provider"),
    # menus
    (f'{MENU}["anthropic/claude-x"]', "menus.default.models[0]: there is no platform key for anthropic"),
    (f'{MENU}["anthropic/*"]', "menus.default.models[0]: there is no platform key for anthropic"),
    (
        f'{MENU}["theirs"]\n' + virtual("theirs", 'provider = "groq"\nmodel = "x"'),
        "menus.default.models[0]: there is no platform key for groq",
    ),
    (f'{MENU}["openai/"]', "menus.default.models[0]: expected provider/model, or the name of a virtual model"),
    (f'{MENU}["/gpt-4o"]', "menus.default.models[0]: '' is no provider"),
    (f'{MENU}[""]', "menus.default.models[0]: expected provider/model, or the name of a virtual model"),
    (f'{MENU}["openai:gpt-4o"]', "menus.default.models[0]: expected provider/model, or the name of a virtual model"),
    (f'{MENU}["*"]', "menus.default.models[0]: expected provider/model, or the name of a virtual model"),
    (f'{MENU}"openai/gpt-4o"', "menus.default: models: "),
    (f"{MENU}[4]", "menus.default: models[0]: "),
    (f'{KEY}[menus.m]\nmodels = ["openai/x"]', "menus.m: "),
    (f'{KEY}[menus.m]\napplies_to = ["*"]', "menus.m: "),
    (f'{MENU}["openai/x"]\nmodel = "y"', "menus.default: model: "),
    *(
        (
            f'{KEY}[menus.m]\napplies_to = ["*", {json.dumps(who)}]\nmodels = []',
            "menus.m.applies_to[1]: expected '*', a caller, or caller/tenant",
        )
        for who in ("", "*/acme", "caller/*", "caller/", "/tenant", "a/b/c", "a b", "part*", " * ")
    ),
    (f"{MENU}[]", "menus.default.models: it is empty; name models, or leave the menu out"),
    (
        f'{KEY}[menus.m]\napplies_to = []\nmodels = ["openai/x"]',
        "menus.m.applies_to: it is empty; name callers, or '*', or leave the menu out",
    ),
    (f'{MENU}["openai/ x"]', "menus.default.models[0]: an id, without spaces around it"),
    (f'{MENU}["openai/x", "openai/x "]', "menus.default.models[1]: an id, without spaces around it"),
    (f'{MENU}["openai/a\\u3164b"]', "menus.default.models[0]: visible characters only"),
    (f'{MENU}["openai/*\\u200b"]', "menus.default.models[0]: visible characters only"),
    (f'{MENU}["openai/../x"]', "menus.default.models[0]: no '.' or '..' as a path segment"),
    (f'{MENU}["openai/openai:.."]', "menus.default.models[0]: no '.' or '..' as a path segment"),
    # virtual models
    (virtual(lines='provider = "openai"\nmodel = "x "'), "virtual_models.ours.model: an id, without spaces around it"),
    (virtual(lines='provider = "openai"\nmodel = "a\\ufe0f"'), "virtual_models.ours.model: visible characters only"),
    *(
        (
            virtual(lines=f'provider = "openai"\nmodel = "{model}"')
            + "\n"
            + virtual("theirs", 'provider = "groq"\nmodel = "x"'),
            "virtual_models.ours.model: theirs is a virtual model itself; name a model of a provider",
        )
        for model in ("theirs", "openai/theirs", "openai:theirs")
    ),
    (virtual("gpt-4o"), "virtual_models.gpt-4o: the name belongs to openai already"),
    (virtual("claude-x"), "virtual_models.claude-x: the name belongs to anthropic already"),
    (virtual("Ours"), "virtual_models.Ours: the name is made of lower-case letters, digits, '.', '_' and '-'"),
    (virtual("our/model"), "virtual_models.our/model: the name is made of lower-case letters, digits,"),
    (virtual("-ours"), "virtual_models.-ours: the name is made of lower-case letters, digits,"),
    (virtual("a" * 129), f"virtual_models.{'a' * 129}: the name is made of lower-case letters, digits,"),
    (virtual("openai:x"), "virtual_models.openai:x: the name is made of lower-case letters, digits,"),
    (virtual(lines='provider = "azure"\nmodel = ""'), "virtual_models.ours.model: Azure OpenAI has no default model"),
    (virtual(lines='provider = "openai"'), "virtual_models.ours: "),
    (virtual(lines='model = "x"'), "virtual_models.ours: "),
    (
        virtual(lines='provider = "openai"\nmodel = "x"\nrouting = { order = ["a"] }'),
        "virtual_models.ours.routing.order: OpenAI takes no such wish",
    ),
    (
        virtual(lines='provider = "vercel"\nmodel = "a/x"\nrouting = { zdr = true }'),
        "virtual_models.ours.routing.zdr: Vercel AI Gateway takes no such wish",
    ),
    (
        virtual(lines='provider = "openrouter"\nmodel = "a/x"\nrouting = { fallbacks = ["a"] }'),
        "virtual_models.ours: routing.fallbacks: ",
    ),
    (
        virtual(lines='provider = "openrouter"\nmodel = "a/x"\nrouting = { sort = "luck" }'),
        "virtual_models.ours: routing.sort: ",
    ),
    (
        virtual(lines='provider = "openrouter"\nmodel = "a/x"\nrouting = { sort = { by = "luck" } }'),
        "virtual_models.ours: routing.sort.by: ",
    ),
    (
        virtual(lines='provider = "openrouter"\nmodel = "a/x"\nrouting = { preferred_max_latency = { p98 = 1 } }'),
        "virtual_models.ours: routing.preferred_max_latency.p98: ",
    ),
    (
        virtual(lines='provider = "openrouter"\nmodel = "a/x"\nrouting = { preferred_min_throughput = nan }'),
        "virtual_models.ours: routing.preferred_min_throughput: ",
    ),
    (
        virtual(lines='provider = "vercel"\nmodel = "a/x"\nrouting = { sort = { by = "price" } }'),
        "virtual_models.ours.routing.sort: Vercel AI Gateway takes no such wish",
    ),
    (
        virtual(lines='provider = "groq"\nmodel = "x"\ncompatibility = { max_tokens_field = "tokens" }'),
        "virtual_models.ours.compatibility: max_tokens_field: no flag, or no value of it, that openai-chat has",
    ),
    (virtual(lines='provider = "openai"\nmodel = "x"\ndialect = "openai-chat"'), "virtual_models.ours: dialect: "),
    # policy, and tables that there are not
    ("[policy]\nbyok = 0", "policy: byok: "),
    ('[policy]\ncustom_endpoints = "no"', "policy: custom_endpoints: "),
    ('[policy]\ndisabled_providers = "openai"', "policy: disabled_providers: "),
    ("[policy]\nplatform = true", "policy: platform: "),
    ('[menu.default]\nmodels = ["openai/x"]', "menu: "),
    ("menus = 3", "menus: "),
    # keys, which are elsewhere
    (
        f'{KEY}oai = {{ env = "CANARY_KEY" }}',
        "platform_keys.oai: openai has a key already, as openai",
    ),
    ("[platform_keys]\nopenai = {}", "platform_keys.openai: say either env or file"),
    ('[platform_keys]\nopenai = { organization = "x" }', "platform_keys.openai: say either env or file"),
    (
        '[platform_keys]\nopenai = { env = "CANARY_KEY", file = "/dev/null" }',
        "platform_keys.openai: say either env or file",
    ),
    (
        '[platform_keys]\nopenai = { env = "NO_SUCH_KEY" }',
        "platform_keys.openai: the environment variable NO_SUCH_KEY is not set",
    ),
    (
        '[platform_keys]\nopenai = { env = "BLANK_KEY" }',
        "platform_keys.openai: the environment variable BLANK_KEY is not set",
    ),
    (
        '[platform_keys]\nopenai = { file = "NO_FILE" }',
        "platform_keys.openai: the file that it names cannot be read: No such file or directory",
    ),
    (
        '[platform_keys]\nopenai = { file = "FOLDER" }',
        "platform_keys.openai: the file that it names is no regular file",
    ),
    ('[platform_keys]\nopenai = { file = "EMPTY" }', "platform_keys.openai: the file that it names is empty"),
    (
        '[platform_keys]\nopenai = { file = "BINARY" }',
        "platform_keys.openai: the file that it names cannot be read: it is not UTF-8",
    ),
    ('[platform_keys]\nopenai = { file = "SPACED" }', "platform_keys.openai"),
    ('[platform_keys]\nopenai = { file = "TWO_LINES" }', "platform_keys.openai"),
    ('[platform_keys]\nopenai = { env = "SPACED_KEY" }', "platform_keys.openai"),
    (
        '[platform_keys]\ngroq = { env = "CANARY_KEY", organization = "x" }',
        "platform_keys.groq: groq takes no organization",
    ),
    ('[platform_keys]\ngroq = { env = "CANARY_KEY", project = "x" }', "platform_keys.groq: groq takes no project"),
    (
        '[platform_keys]\ngroq = { env = "CANARY_KEY", resource = "x" }',
        "platform_keys.groq.resource: groq takes none",
    ),
    ('[platform_keys]\nazure = { env = "CANARY_KEY", project = "x" }', "platform_keys.azure.project: azure takes none"),
    ('[platform_keys]\nopenai = { env = "CANARY_KEY", label = "x" }', "platform_keys.openai.label: "),
    (f'[platform_keys]\nopenai = "{CANARY}"', "platform_keys.openai: "),
    (f'[platform_keys]\nopenai = {{ key = "{CANARY}" }}', "platform_keys.openai"),
    (f'[platform_keys]\nopenai = ["{CANARY}"]', "platform_keys.openai: "),
    (f'platform_keys = "{CANARY}"', "platform_keys: "),
    ('[platform_keys]\nazure = { env = "CANARY_KEY" }', "platform_keys.azure"),
    # what does not refuse yet, or not without showing what it should not
    pytest.param(
        virtual(lines='provider = "openai"\nmodel = "a/../b"'),
        "virtual_models.ours.model: ",
    ),
    pytest.param(
        virtual(lines='provider = "groq"\nmodel = "x"\ncompatibility = { max_tokens = "x" }'),
        "virtual_models.ours.compatibility: max_tokens: no flag, or no value of it, that openai-chat has",
    ),
    pytest.param(
        '[platform_keys]\nazure = { env = "CANARY_KEY", resource = "a/b" }',
        "platform_keys.azure",
    ),
    pytest.param(
        f'[platform_keys]\nopenai = {{ env = "{CANARY}" }}',
        "platform_keys.openai: ",
    ),
    pytest.param(
        f'[platform_keys]\nopenai = {{ file = "{CANARY}" }}',
        "platform_keys.openai: ",
    ),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_is_wrong_refuses_to_start(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    """Each mistake is told by the name of its setting, and no message shows a key, wherever it was put."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLANK_KEY", "  \n")
    monkeypatch.setenv("SPACED_KEY", f"{CANARY} {CANARY}")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "EMPTY").write_text(" \n")
    (tmp_path / "BINARY").write_bytes(CANARY.encode() + b"\xff")
    (tmp_path / "SPACED").write_text(f"{CANARY} {CANARY}\n")
    (tmp_path / "TWO_LINES").write_text(f"{CANARY}\n{CANARY}\n")
    assert refusal(tmp_path, text).replace(": Value error, ", ": ").startswith(words)


def test_a_virtual_model_may_be_called_as_its_provider_calls_it(tmp_path: pathlib.Path) -> None:
    """A name that stands for the same id of its provider's is no name for a name, and another may stand for that id."""
    tuned = virtual("tuned", 'provider = "openai"\nmodel = "openai/tuned"')
    other = virtual("other", 'provider = "openai"\nmodel = "tuned"')
    registry = loaded(tmp_path, f'{MENU}["tuned", "other"]\n{tuned}\n{other}')
    assert [served(registry, name).model for name in ("tuned", "other")] == ["tuned", "tuned"]


def test_what_is_behind_a_refusal_shows_no_key_either(tmp_path: pathlib.Path) -> None:
    """A traceback of the refusal of a key in place of its table does not hold the key."""
    with pytest.raises(InvalidSettingsError) as raised:
        loaded(tmp_path, f'[platform_keys]\nopenai = "{CANARY}"')
    assert CANARY not in "".join(traceback.format_exception_only(raised.value.__cause__ or raised.value))


def test_a_credential_that_says_none_is_no_key_of_the_callers(tmp_path: pathlib.Path) -> None:
    """Where bringing keys is switched off, saying that there is none is allowed, by its label beside a key as well."""
    registry = loaded(tmp_path, "[policy]\nbyok = false")
    none = ProviderCredential("ollama", NoCredential(), "none")
    key = ProviderCredential("ollama", ApiKey(Secret(CANARY)), "key")
    for label, credentials in (("", [none]), ("none", [none, key])):
        route = resolve(registry, Target(provider="ollama", model="llama3", credential_label=label), credentials)
        assert route.credential_source is CredentialSource.NONE
    with pytest.raises(DispatchError) as raised:
        resolve(registry, Target(provider="ollama", model="llama3", credential_label="key"), [none, key])
    assert raised.value.reason is Reason.DISABLED_BY_POLICY


def test_who_only_asks_is_told_of_a_key_that_is_not_to_be_had(tmp_path: pathlib.Path) -> None:
    """Without the operator's keys a decision can still be explained, and each that is missing is told by its setting."""
    file = tmp_path / "keyswitch.toml"
    file.write_text(f'{MENU}["openai/*"]'.replace("CANARY_KEY", "NO_SUCH_KEY"))
    told: list[str] = []
    registry = load_registry(load(file), without_keys=told.append)
    assert told == ["platform_keys.openai: the environment variable NO_SUCH_KEY is not set"]
    assert served(registry, "gpt-4o").billing is Billing.PLATFORM


def test_who_has_proved_it_is_served_by_the_menus_of_that_name(tmp_path: pathlib.Path) -> None:
    """A menu for a caller serves that caller for every tenant, one for a tenant serves it alone, and neither another."""
    registry = loaded(
        tmp_path,
        f"""{KEY}
[menus.all-tenants]
applies_to = ["partner"]
models = ["openai/gpt-4o"]
[menus.one-tenant]
applies_to = ["partner/acme", "anonymous"]
models = ["openai/gpt-4.1"]""",
    )
    menus = {
        (name, tenant): [
            registry.operator.menu_with(Caller(name, tenant), registry.providers["openai"], model)
            for model in ("gpt-4o", "gpt-4.1")
        ]
        for name, tenant in (("partner", ""), ("partner", "acme"), ("anonymous", "acme"), ("acme", "partner"))
    }
    assert menus == {
        ("partner", ""): ["all-tenants", ""],
        ("partner", "acme"): ["all-tenants", "one-tenant"],
        ("anonymous", "acme"): ["", "one-tenant"],
        ("acme", "partner"): ["", ""],
    }


@pytest.mark.parametrize("backwards", [False, True])
def test_the_first_menu_by_its_name_is_the_one_that_serves(tmp_path: pathlib.Path, backwards: bool) -> None:
    """Of several menus that have a model the first by name is told, in whatever order the settings have them."""
    names = ["b", "a", "c"]
    tables = [
        f'[menus.{name}]\napplies_to = ["*"]\nmodels = ["openai/*"]' for name in (names[::-1] if backwards else names)
    ]
    route = served(loaded(tmp_path, "\n".join([KEY, *tables])), "gpt-4o")
    assert "the menu 'a' allows it" in route.reasons[-1]


def test_a_line_of_a_menu_offers_one_id(tmp_path: pathlib.Path) -> None:
    """A line may be meant in two ways where ids may begin with their provider's name: both are served, one is offered."""
    registry = loaded(tmp_path, MENU.replace("openai =", "groq =") + '["groq/newer", "groq/compound"]')
    assert registry.operator.listed(Caller(), registry.providers["groq"]) == ["groq/compound", "newer"]
    names = ["newer", "groq/newer", "groq/compound"]
    assert [served(registry, name).model for name in names] == names


def test_a_key_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    """A pipe in the place of a key's file would keep the server from starting, or from ever reloading."""
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path, f'[platform_keys]\nopenai = {{ file = "{tmp_path}/pipe" }}\n') == (
        f"platform_keys.openai: {tmp_path}/pipe is no regular file"
    )


@pytest.mark.parametrize("value", ["{bad-" + CANARY, ""])
def test_what_is_no_json_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, value: str
) -> None:
    """A variable of the environment that holds no JSON is named, not shown, and no file is blamed."""
    monkeypatch.setenv("KEYSWITCH_POLICY", value)
    assert refusal(tmp_path, "").startswith("KEYSWITCH_POLICY: must be JSON, and is none (column ")
