"""Whether a credential is good: asked of its provider, cheaply and quickly.

The list of models answers that where the provider shows it only to those who have a key, as its row says. Anywhere else
the smallest model is asked for a word. Only an answer that says so makes a credential bad: a timeout, a rate limit or a
model that is gone tell nothing about it.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Mapping
from types import MappingProxyType
from typing import Final, cast

from keyswitch_engine.credential import ProviderCredential
from keyswitch_engine.dispatch import Call, Dispatcher, GenerationCall, TimeLimits, write_request
from keyswitch_engine.errors import DispatchError, Reason, RequestError
from keyswitch_engine.generation import Generation, Message, Part, Role, Sampling, TextPart
from keyswitch_engine.keyring import find_provider
from keyswitch_engine.model_listing import ListingFlags
from keyswitch_engine.registry import Registry
from keyswitch_engine.route import Target
from keyswitch_engine.routing import resolve, resolve_model_listing

__all__ = ["CHECK_SECONDS", "Verdict", "check_credential"]

CHECK_SECONDS: Final = 3.0
"""How long a check takes at most, until its answer is with the caller."""

_ASKING: Final = CHECK_SECONDS - 0.1  # what is left ends a call that stalls, and tells of it
_LIMITS = TimeLimits(_ASKING, _ASKING, _ASKING, _ASKING)
_WORD = Generation(
    (Message(Role.USER, (Part(TextPart("Hi")),)),),
    sampling=Sampling(max_output_tokens=16),  # the least that every provider takes
)


class Verdict(enum.Enum):
    """What is known of a credential."""

    VALID = enum.auto()
    INVALID = enum.auto()
    OUT_OF_CREDIT = enum.auto()
    NOT_PERMITTED = enum.auto()
    UNKNOWN = enum.auto()


_VERDICTS: Mapping[Reason, Verdict] = MappingProxyType(
    {
        Reason.INVALID_CREDENTIAL: Verdict.INVALID,
        Reason.INSUFFICIENT_CREDIT: Verdict.OUT_OF_CREDIT,
        Reason.CREDENTIAL_NOT_PERMITTED: Verdict.NOT_PERMITTED,
    }
)


async def check_credential(
    dispatcher: Dispatcher,
    registry: Registry,
    credential: ProviderCredential,
    *,
    model: str = "",
    region: str = "",
    received_at: float,
    deadline: float | None = None,
) -> tuple[Verdict, str]:
    """Return the verdict, and what the provider said unless the credential is valid.

    With a *model* the credential has to be good for that very model. Times are on the loop's clock.

    Raises:
        RequestError: there is no such provider, or it takes no credential of that kind.
        DispatchError: it may not be called from here.
    """
    provider = find_provider(registry, credential.provider, field="credential.provider")
    listing = provider.model_listing
    smallest = model or provider.small_model or provider.default_model
    ask: Awaitable[object]
    if not model and listing is not None and cast("ListingFlags", listing.profile.flags).authenticates:
        listed = resolve_model_listing(registry, Target(provider=provider.id, region=region), credential)
        call = Call(route=listed, limits=_LIMITS, received_at=received_at, deadline=deadline)
        surface = listed.surface
        ask = dispatcher.exchange(call, surface.dialect.request(surface.profile), surface.dialect.read)
    elif smallest:
        route = resolve(registry, Target(provider=provider.id, model=smallest, region=region), (credential,))
        request = write_request(route, _WORD, stream=False)
        ask = dispatcher.generate(
            GenerationCall(route=route, limits=_LIMITS, received_at=received_at, deadline=deadline, request=request)
        )
    else:
        return Verdict.UNKNOWN, f"{provider.name} cannot be asked without a model; name one"
    try:
        await ask
    except RequestError:
        raise
    except DispatchError as error:
        if error.reason is Reason.BLOCKED_ENDPOINT:  # nobody was asked, and somewhere else somebody can be
            raise
        return _VERDICTS.get(error.reason, Verdict.UNKNOWN), error.message
    return Verdict.VALID, ""
