"""How a router should choose among the hosts of a model: passed on as the caller gave it, in the router's own form.

Nothing is inferred, added or reordered. OpenRouter takes the object as it is (docs, "Provider routing"), Vercel's AI
Gateway an order and a limit (docs, "Provider options"). Which form a surface takes is a fact of the provider's file, so
that a proxy in front of a router works once its file says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from keyswitch_engine.errors import InvalidRequest, Reason, Unavailable, Violation
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["ROUTERS", "Wishes", "with_wishes"]

Wishes: TypeAlias = Mapping[str, Any]
"""What the caller wishes, by the contract's names, in its order; nothing that was not given."""


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
