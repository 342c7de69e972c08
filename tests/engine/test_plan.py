from __future__ import annotations

import weakref

import msgspec
import pytest
from keyswitch_engine.credential import ApiKey, ProviderCredential
from keyswitch_engine.dialects.base import Dialect
from keyswitch_engine.errors import InvalidRequest, Reason, RequestError, Violation
from keyswitch_engine.events import Billing
from keyswitch_engine.plan import for_each, plan_calls, plan_routes
from keyswitch_engine.registry import load
from keyswitch_engine.route import Route, Target
from keyswitch_engine.routing import resolve
from keyswitch_engine.secret import Secret

ROWS = load()
KEYS = [ProviderCredential(name, ApiKey(Secret(f"{name}-key"))) for name in ("sandbox", "groq")]
SANDBOX, GROQ = Target(provider="sandbox"), Target(provider="groq", model="m")


def billed(target: Target) -> Route[Dialect]:
    """Return a route whose bill the target's label chooses."""
    route = resolve(ROWS, msgspec.structs.replace(target, credential_label=""), KEYS)
    return msgspec.structs.replace(route, billing=Billing[target.credential_label])


def on(*billings: str) -> list[Target]:
    return [msgspec.structs.replace(SANDBOX, credential_label=billing) for billing in billings]


@pytest.mark.parametrize(
    ("billings", "refused"),
    [
        (("BYOK", "BYOK"), ""),
        (("PLATFORM", "PLATFORM"), ""),
        (("PLATFORM", "BYOK"), ""),
        (("BYOK", "PLATFORM"), "fallbacks[0]"),
        (("BYOK", "BYOK", "PLATFORM"), "fallbacks[1]"),
        (("PLATFORM", "BYOK", "PLATFORM"), "fallbacks[1]"),
    ],
)
def test_no_failure_moves_the_bill_to_the_platform(billings: tuple[str, ...], refused: str) -> None:
    """A plan in which the platform's key would take over from the caller's is refused before anything is sent."""
    if not refused:
        assert [route.billing.name for route in plan_routes(on(*billings), billed)] == list(billings)
        return
    with pytest.raises(RequestError) as raised:
        plan_routes(on(*billings), billed)
    assert (raised.value.reason, raised.value.field) == (Reason.PLATFORM_NOT_ALLOWED, refused)


def test_each_target_has_its_own_providers_key() -> None:
    """A route of a plan holds the credential of its provider and no other."""
    routes = plan_routes([SANDBOX, GROQ], lambda target: resolve(ROWS, target, KEYS))
    keys = [route.credential.key.reveal() for route in routes if isinstance(route.credential, ApiKey)]
    assert keys == ["sandbox-key", "groq-key"]


def test_an_error_of_the_target_stays_as_it_is() -> None:
    """Only fallbacks are named by their place."""
    with pytest.raises(InvalidRequest) as raised:
        plan_routes([Target(provider="groq", dialect="x"), SANDBOX], lambda target: resolve(ROWS, target, KEYS))
    assert raised.value.field == "target.dialect"


def test_an_error_of_a_fallback_names_its_place_in_every_violation() -> None:
    """Fields of the target become fields of the fallback; for others the words say which fallback minds them."""

    def refuse(number: int) -> None:
        if number == 2:
            raise InvalidRequest([Violation("target.region", "no such region"), Violation("tools", "it takes none")])

    with pytest.raises(InvalidRequest) as raised:
        for_each(range(4), refuse)
    assert raised.value.violations == (
        Violation("fallbacks[1].region", "no such region"),
        Violation("tools", "it takes none (for fallbacks[1])"),
    )
    assert str(raised.value).startswith("fallbacks[1].region: no such region")


def test_only_the_targets_call_is_kept() -> None:
    """Every call is written up front, and a fallback's again when its turn comes: bodies are not held all at a time."""

    class Body:
        """Stands for what is large about a call."""

        def __init__(self, route: Route[Dialect]) -> None:
            self.provider = route.provider.id
            alive.add(self)
            written.append(self.provider)

    alive: weakref.WeakSet[Body] = weakref.WeakSet()
    written: list[str] = []
    routes = plan_routes([SANDBOX, GROQ, GROQ], lambda target: resolve(ROWS, target, KEYS))
    call, fallbacks = plan_calls(routes, Body)
    assert (call.provider, written) == ("sandbox", ["sandbox", "groq", "groq"])
    assert list(alive) == [call]
    assert [write().provider for write in fallbacks] == ["groq", "groq"]
