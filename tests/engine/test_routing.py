from __future__ import annotations

import itertools
import pathlib

import pytest
from keyswitch_engine.credential import ApiKey, BearerToken, NoCredential, ProviderCredential
from keyswitch_engine.errors import DispatchError, Reason
from keyswitch_engine.events import Billing, CredentialSource
from keyswitch_engine.registry import Registry, load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

VENDORS = {
    "anthropic": 'vendor_token = "anthropic"\nstrip_own_prefix = true\nmatchers = ["^claude-"]',
    "minimax": 'vendor_token = "minimax"\nstrip_own_prefix = true\nmatchers = ["(?i)^minimax-m"]',
    "local": 'vendor_token = "local"\nstrip_own_prefix = true\nmodels = ["local/whole"]',
    "host": 'models = ["minimax/listed"]\nmatchers = ["^minimax/"]',
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("providers")
    for name, lines in VENDORS.items():
        auth = '[auth]\nstyle = "bearer"\naccepts = ["api_key", "none"]\n' if name == "local" else ""
        (folder / f"{name}.toml").write_text(
            f'schema = 1\nid = "{name}"\nname = "{name}"\nbase_url = "https://{name}.example"\n{lines}\n{auth}'
            '[[dialects]]\nname = "openai-chat"\npath = "/chat"\n'
        )
    return load([pathlib.Path(folder)])


def keys(*providers: str) -> list[ProviderCredential]:
    return [ProviderCredential(provider, ApiKey(Secret(f"key-of-{provider}"))) for provider in providers]


# provider, model, keyed providers -> provider, native model
DECISIONS = [
    ("", "anthropic/claude-sonnet-4.5", ("openrouter",), "openrouter", "anthropic/claude-sonnet-4.5"),
    ("", "anthropic/claude-sonnet-4.5", ("anthropic",), "anthropic", "claude-sonnet-4.5"),
    ("", "anthropic/claude-sonnet-4.5", ("anthropic", "openrouter"), "anthropic", "claude-sonnet-4.5"),
    ("", "claude-sonnet-4.5", ("anthropic", "openrouter"), "anthropic", "claude-sonnet-4.5"),
    ("", "MiniMax-M2.7", ("minimax", "openrouter"), "minimax", "MiniMax-M2.7"),
    ("", "minimax/MiniMax-M2.7", ("minimax",), "minimax", "MiniMax-M2.7"),
    ("", "minimax/MiniMax-M2.7", ("openrouter",), "openrouter", "minimax/MiniMax-M2.7"),
    ("", "minimax/MiniMax-M2.7", ("minimax", "openrouter"), "minimax", "MiniMax-M2.7"),
    ("", "minimax:MiniMax-M2.7", ("minimax", "openrouter"), "minimax", "MiniMax-M2.7"),
    ("", "openai/gpt-oss-120b", ("groq",), "groq", "openai/gpt-oss-120b"),
    ("", "openai/gpt-oss-120b", ("openai", "openrouter"), "openai", "gpt-oss-120b"),
    ("", "gpt-4o", ("openai", "openrouter"), "openai", "gpt-4o"),
    ("", "openrouter/auto", ("openrouter",), "openrouter", "openrouter/auto"),
    ("", "openrouter/anthropic/claude-x", ("openrouter",), "openrouter", "anthropic/claude-x"),
    ("", "qwen/qwen3:free", ("openrouter",), "openrouter", "qwen/qwen3:free"),
    ("", "@preset/mine", ("openrouter",), "openrouter", "@preset/mine"),
    ("", "groq/compound", ("groq",), "groq", "groq/compound"),
    ("", "", ("openrouter",), "openrouter", "openrouter/auto"),
    ("", "", ("mistral",), "mistral", "mistral-medium-latest"),
    ("OpenRouter", "", ("or",), "openrouter", "openrouter/auto"),
    ("or", "gpt-4o", ("openrouter",), "openrouter", "gpt-4o"),
    ("grok", "xai/grok-4.5", ("x-ai",), "xai", "grok-4.5"),
    ("X_AI", "grok-4.5", ("x_ai",), "xai", "grok-4.5"),
    ("", "MiniMax_CN/m", ("minimax_cn",), "minimax-cn", "m"),
    ("groq", "anthropic/other", ("groq",), "groq", "anthropic/other"),
    (" openai ", "  gpt-4o  ", ("openai",), "openai", "gpt-4o"),
    ("local", "anything", (), "local", "anything"),
    ("local", "local/whole", (), "local", "local/whole"),
    ("local", "local/rest", (), "local", "rest"),
    ("", "minimax/listed", ("minimax", "host"), "host", "minimax/listed"),
    ("", "minimax/other", ("minimax", "host"), "minimax", "other"),
]


@pytest.mark.parametrize(("provider", "model", "keyed", "expected", "native"), DECISIONS)
def test_a_request_goes_where_the_table_says(
    registry: Registry, provider: str, model: str, keyed: tuple[str, ...], expected: str, native: str
) -> None:
    """Provider and native model follow from provider, model and keys, in whatever order the keys come."""
    for order in itertools.permutations(keyed):
        route = resolve(registry, Target(provider=provider.strip(), model=model), keys(*order))
        assert (route.provider.id, route.model, route.requested_model) == (expected, native, model)
        assert route.billing is Billing.BYOK
        assert route.reasons


REFUSALS = [
    (Target(provider="opnrouter"), (), Reason.UNKNOWN_PROVIDER, "did you mean 'openrouter'?"),
    (
        Target(provider="nosuch", model="gpt-4o"),
        ("openai",),
        Reason.UNKNOWN_PROVIDER,
        "known are anthropic, avian, azure,",
    ),
    (Target(), (), Reason.PROVIDER_REQUIRED, "no key came either"),
    (Target(), ("openai", "groq"), Reason.PROVIDER_REQUIRED, "keys came for groq, openai"),
    (Target(provider="minimax"), ("minimax",), Reason.MODEL_REQUIRED, "minimax"),
    (Target(model="no-such-model"), ("openai",), Reason.UNROUTABLE_MODEL, "no provider owns"),
    (Target(model="vendor/model"), ("groq", "together"), Reason.AMBIGUOUS_MODEL, "groq, together"),
    (Target(model="anthropic/claude-x"), (), Reason.MISSING_CREDENTIAL, "openrouter, requesty, vercel-gateway)"),
    (Target(model="minimax:MiniMax-M2.7"), (), Reason.MISSING_CREDENTIAL, "minimax"),
    (Target(provider="openai"), ("groq",), Reason.MISSING_CREDENTIAL, "openai"),
    (
        Target(provider="openai", dialect="gemini"),
        ("openai",),
        Reason.INVALID_REQUEST,
        "offers openai-chat, openai-responses",
    ),
    (Target(provider="openai", credential_label="work"), ("openai",), Reason.MISSING_CREDENTIAL, "openai"),
    (Target(provider="openai", compatibility={"terminal": "never"}), ("openai",), Reason.INVALID_REQUEST, "terminal"),
    (Target(provider="openai", model="a/../b"), ("openai",), Reason.INVALID_REQUEST, "path segment"),
    (Target(provider="openai", model="a\u200bb"), ("openai",), Reason.INVALID_REQUEST, "zero-width"),
    (Target(provider="openai", model="a\u00a0b"), ("openai",), Reason.INVALID_REQUEST, "no space but ' '"),
    (Target(provider="openai", model="a\ue000b"), ("openai",), Reason.INVALID_REQUEST, "private"),
    (Target(provider="openai", model="a" * 257), ("openai",), Reason.INVALID_REQUEST, "256"),
]


@pytest.mark.parametrize(("target", "keyed", "reason", "words"), REFUSALS)
def test_a_request_that_goes_nowhere_says_why(
    registry: Registry, target: Target, keyed: tuple[str, ...], reason: Reason, words: str
) -> None:
    """Each refusal has its reason and a deterministic message, and none holds a key."""
    messages = set()
    for order in itertools.permutations(keyed):
        with pytest.raises(DispatchError) as raised:
            resolve(registry, target, keys(*order))
        assert raised.value.reason is reason
        messages.add(raised.value.message)
    (message,) = messages
    assert words in message
    assert "key-of-" not in message


def test_a_provider_twice_needs_labels(registry: Registry) -> None:
    """Two keys for one provider, by alias too, are told apart by labels, and the target chooses."""
    first = ProviderCredential("openai", ApiKey(Secret("a")), "work")
    second = ProviderCredential("OAI", ApiKey(Secret("b")), "home")
    route = resolve(registry, Target(provider="openai", credential_label="home"), [first, second])
    assert (route.credential, route.credential_label) == (second.credential, "home")
    for target, credentials in (
        (Target(provider="openai"), [first, second]),
        (Target(provider="openai"), [first, ProviderCredential("oai", ApiKey(Secret("b")), "work")]),
    ):
        with pytest.raises(DispatchError) as raised:
            resolve(registry, target, credentials)
        assert raised.value.reason is Reason.INVALID_REQUEST


def test_a_credential_of_the_wrong_kind_is_refused(registry: Registry) -> None:
    """A provider that needs a key does not take `none`, and says what it takes; one that takes a token gets it."""
    with pytest.raises(DispatchError) as raised:
        resolve(registry, Target(provider="oai"), [ProviderCredential("openai", NoCredential())])
    assert (raised.value.reason, raised.value.provider, raised.value.message) == (
        Reason.INVALID_REQUEST,
        "openai",
        "credentials: openai takes an API key (api_key) or an access token (bearer_token), not nothing (none)",
    )
    route = resolve(registry, Target(provider="openai"), [ProviderCredential("openai", BearerToken(Secret("t")))])
    assert route.credential_source is CredentialSource.CALLER


def test_what_was_left_out_is_told(registry: Registry) -> None:
    """Candidates without a key, or of a lower rank, are named with the reason."""
    route = resolve(registry, Target(model="anthropic/claude-x"), keys("openrouter"))
    assert [(candidate.provider, candidate.reason) for candidate in route.excluded] == [
        ("anthropic", "no key came for it")
    ]
    route = resolve(registry, Target(model="anthropic/claude-x"), keys("anthropic", "openrouter"))
    assert [(candidate.provider, candidate.reason) for candidate in route.excluded] == [
        ("openrouter", "only takes ids of other vendors")
    ]
    route = resolve(registry, Target(model="anthropic/claude-x"), keys("groq", "anthropic", "openrouter"))
    assert [candidate.provider for candidate in route.excluded] == ["groq", "openrouter"]


def test_flags_of_the_request_win(registry: Registry) -> None:
    """Compatibility overrides change the profile of this call alone."""
    target = Target(provider="openai", dialect="openai-chat", compatibility={"max_tokens_field": "max_tokens"})
    assert resolve(registry, target, keys("openai")).surface.profile.flags.max_tokens_field == "max_tokens"  # type: ignore[attr-defined] # the dialect's own type
    plain = resolve(registry, Target(provider="openai", dialect="openai-chat"), keys("openai"))
    assert plain.surface.profile.flags.max_tokens_field == "max_completion_tokens"  # type: ignore[attr-defined] # as above
