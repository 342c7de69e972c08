"""How a router should choose among the hosts of a model: passed on as the caller gave it, in the router's own form.

Nothing is inferred, added or reordered. OpenRouter takes the object as it is (docs, "Provider routing"), Vercel's AI
Gateway an order and a limit (docs, "Provider options"). Which form a surface takes is a fact of the provider's file, so
that a proxy in front of a router works once its file says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import msgspec

from keyswitch_engine.errors import InvalidRequest, Reason, Unavailable, Violation
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["ROUTERS", "MaxPrice", "Preferences", "Wishes", "merged", "with_wishes"]

Wishes: TypeAlias = Mapping[str, Any]
"""What is wished, by the contract's names, in its order; nothing that was not given."""


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a router may pay at most, in US dollars: a million tokens, a request, or an image."""

    prompt: float | None = None
    completion: float | None = None
    request: float | None = None
    image: float | None = None


class Preferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Wishes as files and settings say them; the names and values are the contract's `RoutingPreferences`."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    quantizations: tuple[str, ...] = ()
    sort: Literal["price", "throughput", "latency"] | None = None
    max_price: MaxPrice | None = None
    preferred_min_throughput: float | None = None
    preferred_max_latency: float | None = None

    @property
    def wishes(self) -> Wishes:
        """What was given."""
        given: Wishes = msgspec.to_builtins(self)
        return given


def merged(*levels: Wishes) -> Wishes:
    """Merge wishes key by key, the later ones winning: lists are replaced, tables merged in their turn."""
    result: dict[str, Any] = {}
    for level in levels:
        for name, value in level.items():
            before = result.get(name)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                value = merged(before, value)  # noqa: PLW2901 - the same key, with what was there before
            result[name] = value
    return result


def _openrouter(wishes: Wishes) -> dict[str, Any]:
    return {"provider": dict(wishes)}


def _vercel(wishes: Wishes) -> dict[str, Any]:
    for name in wishes:
        if name not in ("order", "only"):
            raise Unavailable(
                Reason.UNSUPPORTED_FEATURE,
                f"target.routing.{name}: this router knows order and only",
                field=f"target.routing.{name}",
            )
    return {"providerOptions": {"gateway": dict(wishes)}}


ROUTERS: Mapping[str, Callable[[Wishes], dict[str, Any]]] = MappingProxyType(
    {"openrouter": _openrouter, "vercel": _vercel}
)
"""By the word of a provider's file, what makes body fields of wishes."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_wishes(options_json: str, router: str, wishes: Wishes) -> str:
    """Return the caller's options, which stay as they are, with the fields that tell *router* of its *wishes*.

    Raises:
        InvalidRequest: the options have such a field themselves.
        Unavailable: the router cannot be told of one of them.
    """
    fields = ROUTERS[router](wishes)
    try:
        options = _OBJECT.decode(options_json) if options_json else {}
    except MALFORMED_JSON as error:
        raise InvalidRequest([Violation("target.options_json", "must be a JSON object")]) from error
    for name in fields.keys() & options.keys():
        raise InvalidRequest(
            [Violation("target.options_json", f"target.routing writes '{name}' already; say it in one place")]
        )
    return msgspec.json.encode(options | fields).decode()
