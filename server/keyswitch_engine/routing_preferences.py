"""How a router should choose among the hosts of a model: passed on as the caller gave it, in the router's own form.

Nothing is inferred, added or reordered. OpenRouter takes the object as it is (docs, "Provider routing"), Vercel's AI
Gateway an order and a limit (docs, "Provider options"). Which form a surface takes is a fact of the provider's file, so
that a proxy in front of a router works once its file says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec

from keyswitch_engine.errors import InvalidRequest, Violation
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = [
    "HIGHEST",
    "ROUTERS",
    "TWO_FORMS",
    "MaxPrice",
    "Partition",
    "Percentiles",
    "Preferences",
    "Router",
    "Sort",
    "SortBy",
    "Wishes",
    "merged",
    "path_of",
    "untold",
    "with_wishes",
]

Wishes: TypeAlias = Mapping[str, Any]
"""What is wished, by OpenRouter's names and in its forms; nothing that was not given."""

Sort: TypeAlias = Literal["price", "throughput", "latency", "exacto"]
Partition: TypeAlias = Literal["model", "none"]
HIGHEST = 1e9
"""No price, throughput or latency is above it."""
_Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=HIGHEST)]

TWO_FORMS = ("sort", "preferred_min_throughput", "preferred_max_latency")
"""What may be a word or number, or a table; the contract has a second field for the table, whose name ends in `_by`."""


class _Wished(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Wishes as files and settings say them."""


class MaxPrice(_Wished, frozen=True):
    """What a router may pay at most, in US dollars: a million tokens, a request, an image, or a unit of audio."""

    prompt: _Amount | None = None
    completion: _Amount | None = None
    request: _Amount | None = None
    image: _Amount | None = None
    audio: _Amount | None = None


class SortBy(_Wished, frozen=True):
    """How to sort hosts: by what, and those of each model apart or of all together."""

    by: Sort | None = None
    partition: Partition | None = None


class Percentiles(_Wished, frozen=True):
    """Bounds, each at one percentile of what the router has measured."""

    p50: _Amount | None = None
    p75: _Amount | None = None
    p90: _Amount | None = None
    p99: _Amount | None = None


class Preferences(_Wished, frozen=True):
    """All that can be wished; the contract's `RoutingPreferences` says what it means."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    quantizations: tuple[str, ...] = ()
    sort: Sort | SortBy | None = None
    max_price: MaxPrice | None = None
    preferred_min_throughput: _Amount | Percentiles | None = None
    preferred_max_latency: _Amount | Percentiles | None = None

    @property
    def wishes(self) -> Wishes:
        """What was given; an empty table wishes nothing."""
        given: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in given.items() if value != {}}


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


class Router(NamedTuple):
    """How a kind of router is told of wishes."""

    place: tuple[str, ...]
    """Where they stand in the body, as fields in fields."""
    takes: frozenset[str]
    """The names of those that it takes."""


ROUTERS: Mapping[str, Router] = MappingProxyType(
    {
        "openrouter": Router(("provider",), frozenset(Preferences.__struct_fields__)),
        "vercel": Router(("providerOptions", "gateway"), frozenset({"order", "only"})),
    }
)
"""Every kind of router, by the word of a provider's file."""


def untold(router: str, wishes: Wishes) -> tuple[str, ...]:
    """Return the names of the *wishes* that a *router* cannot be told; where there is none, of all."""
    takes = ROUTERS[router].takes if router else frozenset[str]()
    return tuple(name for name in wishes if name not in takes)


def path_of(name: str, value: Any) -> str:
    """Return the path of the request's field that such a wish comes in."""
    table = "_by" if name in TWO_FORMS and isinstance(value, Mapping) else ""
    return f"target.routing.{name}{table}"


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_wishes(options_json: str, router: str, wishes: Wishes) -> str:
    """Return the caller's options, which stay as they are, with the fields that tell *router* of its *wishes*.

    Raises:
        InvalidRequest: the options have such a field themselves.
    """
    fields: dict[str, Any] = dict(wishes)
    for name in reversed(ROUTERS[router].place):
        fields = {name: fields}
    try:
        options = _OBJECT.decode(options_json) if options_json else {}
    except MALFORMED_JSON as error:
        raise InvalidRequest([Violation("target.options_json", "must be a JSON object")]) from error
    for name in fields.keys() & options.keys():
        raise InvalidRequest(
            [Violation("target.options_json", f"target.routing writes '{name}' already; say it in one place")]
        )
    return msgspec.json.encode(options | fields).decode()
