"""A caller's plan: its target, then its fallbacks, all decided, and written to check them, before anything is sent.

What is wrong with a fallback fails the call like what is wrong with the target, and names it: `fallbacks[0].model`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from keyswitch_engine.errors import InvalidRequest, Reason, RequestError, Violation
from keyswitch_engine.events import Billing
from keyswitch_engine.provider import D
from keyswitch_engine.route import Route, Target

__all__ = ["Plan", "for_each", "plan_calls", "plan_routes"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Plan(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """What to try, in order, and how often."""

    call: C
    """The one for the target."""
    fallbacks: tuple[Callable[[], C], ...] = ()
    """What writes the call for each fallback when its turn comes; nobody holds all their bodies at a time."""
    routes: tuple[Route[Any], ...] = ()
    """Where the target and each fallback go."""
    max_attempts: int
    """Tries at one target, at least 1, hedges included."""
    hedge_after: float | None = None
    """Seconds without an event after which a try gets a rival at the same target; None for no hedging."""
    shares_time: bool = False
    """Whether a target has its share of the time at most to begin to answer, while fallbacks are left."""

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of the target and of each fallback."""
        return tuple(route.surface.origin for route in self.routes)


def for_each(plan: Iterable[A], do: Callable[[A], B]) -> tuple[B, ...]:
    """Return what *do* makes of the target and of each fallback, in order.

    Raises:
        RequestError: it cannot be done for one of them; for a fallback, the error names it.
    """
    done = []
    for position, each in enumerate(plan):
        try:
            done.append(do(each))
        except RequestError as error:
            if not position:
                raise
            raise _of_fallback(error, f"fallbacks[{position - 1}]") from None  # the same error, told of its place
    return tuple(done)


def plan_routes(targets: Iterable[Target], resolve: Callable[[Target], Route[D]]) -> tuple[Route[D], ...]:
    """Decide where the target and each fallback go.

    Raises:
        RequestError: one of them goes nowhere, or a failure on the caller's own bill would continue on the platform's.
    """
    routes = for_each(targets, resolve)
    byok = False
    for position, route in enumerate(routes):
        if byok and route.billing is Billing.PLATFORM:
            field = f"fallbacks[{position - 1}]"
            error = RequestError(
                Reason.PLATFORM_NOT_ALLOWED,
                f"{field}: the operator's bill cannot take over from the caller's; send a key for {route.provider.id}",
                field=field,
            )
            error.provider, error.model = route.provider.id, route.model
            raise error
        byok = byok or route.billing is Billing.BYOK
    return routes


def plan_calls(routes: Iterable[Route[D]], write: Callable[[Route[D]], C]) -> tuple[C, tuple[Callable[[], C], ...]]:
    """Write every call to check it; return the target's, and for each fallback what writes it again.

    Raises:
        RequestError: one of them cannot be written.
    """
    kept: list[C] = []
    again: list[Callable[[], C]] = []

    def check(route: Route[D]) -> None:
        call = write(route)
        if kept:
            again.append(functools.partial(write, route))
        else:
            kept.append(call)

    for_each(routes, check)
    return kept[0], tuple(again)


def _of_fallback(error: RequestError, place: str) -> RequestError:
    """Return an error with the fallback's path in place of the target's."""
    if isinstance(error, InvalidRequest):
        placed = InvalidRequest([_placed(violation, place) for violation in error.violations], error.reason)
        placed.provider, placed.model = error.provider, error.model
        return placed
    error.field = _path(error.field, place)
    error.message = f"{place}: {error.message}"
    return error


def _placed(violation: Violation, place: str) -> Violation:
    """Return a violation at its fallback; where the field is not the target's own, its words say for which one."""
    path = _path(violation.field, place)
    told = violation.description if path != violation.field else f"{violation.description} (for {place})"
    return Violation(path, told)


def _path(field: str, place: str) -> str:
    """Return the path of a field, below the fallback where it was below the target."""
    head, dot, rest = field.partition(".")
    return f"{place}{dot}{rest}" if head == "target" else field
