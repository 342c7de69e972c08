from __future__ import annotations

import pytest
from keyswitch_engine.credential import ApiKey, PlatformConsent, ProviderCredential
from keyswitch_engine.events import Billing
from keyswitch_engine.key_shapes import key_warnings
from keyswitch_engine.operator_tables import MenuTable, OperatorTables, govern
from keyswitch_engine.registry import load
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret


def wrong_key_warnings(provider: str, key: str) -> tuple[str, ...]:
    """Return the warnings of the built-in rows."""
    registry = load()
    route = resolve(registry, Target(provider=provider, model="m"), [ProviderCredential(provider, ApiKey(Secret(key)))])
    assert key not in repr(route)
    return key_warnings(registry, route)


def test_nothing_is_said_of_the_operators_key() -> None:
    """Whose shape a key has is told to whoever brought it, and to nobody else."""
    menus = {"all": MenuTable(("*",), ("openai/*",))}
    key = ApiKey(Secret("".join(("sk-", "or-v1-", "0a" * 32))))
    registry = govern(load(), OperatorTables(menus=menus), {"openai": key})
    route = resolve(registry, Target(provider="openai", model="m"), [ProviderCredential("", PlatformConsent())])
    assert route.billing is Billing.PLATFORM
    assert key_warnings(registry, route) == ()


def test_a_key_of_its_own_providers_shape_is_no_warning() -> None:
    """Where the shape fits nothing is said, whoever else has keys like it."""
    assert wrong_key_warnings("groq", "gsk_" + "x" * 52) == ()


@pytest.mark.parametrize(
    ("provider", "parts", "owner"),
    [
        ("openai", ("sk-", "or-v1-", "0a" * 32), "openrouter"),
        ("deepseek", ("sk-", "or-v1-", "0a" * 32), "openrouter"),
        ("openrouter", ("sk-", "proj-", "Zz_9" * 30), "openai"),
        ("openai", ("sk-", "ant-api03-", "x" * 93, "AA"), "anthropic"),
        ("anthropic", ("gsk", "_", "x" * 52), "groq"),
        ("openai", ("hf", "_", "Ab" * 17), "huggingface"),
        ("groq", ("api_", "org_", "Ab" * 17), "huggingface"),
        ("openai", ("tgp_", "v1_", "Ab-_" * 10), "together"),
        ("openai", ("gh", "o_", "Ab" * 18), "github-models"),
        ("openai", ("xai", "-", "Ab" * 40), "xai"),
    ],
)
def test_a_key_of_another_shape_names_whose_shape_it_is(provider: str, parts: tuple[str, ...], owner: str) -> None:
    """The pattern with the longest fixed beginning tells whose a key is, not the first that fits."""
    warnings = wrong_key_warnings(provider, "".join(parts))
    assert warnings == (f"the key for {provider} has the shape of a key for {owner}",)


@pytest.mark.parametrize(
    ("provider", "parts"),
    [
        ("openai", ("sk-", "0a" * 16)),  # DeepSeek's, DashScope's, or LiteLLM's
        ("openrouter", ("sk-", "a" * 48)),  # SiliconFlow's, Moonshot's, OpenAI's, or LiteLLM's
        ("openai", ("sk-", "ant-oat01-", "x" * 80)),  # of no known shape but LiteLLM's, which is anybody's
        ("openai", ("a" * 40,)),  # Cohere's or Cloudflare's
        ("openai", ("0a" * 32,)),  # Together's, and any hash's
        ("openai", ("0" * 8, "-", "0" * 27)),  # SambaNova's, and any UUID's
        ("openai", ("no", "-shape")),
    ],
)
def test_a_key_that_could_be_of_several_names_none(provider: str, parts: tuple[str, ...]) -> None:
    """Where a beginning is shared, or nothing is fixed, a guess would lead astray."""
    assert wrong_key_warnings(provider, "".join(parts)) == ()
