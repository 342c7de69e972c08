"""Who calls: the name that a call is known by everywhere, in menus, limits, cool-downs and logs.

It is decided once, by the gate, and read wherever it matters in the task that serves the call.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

from keyswitch_engine.operator import ANONYMOUS

__all__ = ["current_caller", "is_name", "set_caller"]

_NAME = re.compile(r"[!-)+-.0-~]{1,128}")
"""Visible ASCII; menus write `caller/tenant` and `*` for everybody."""

_current: ContextVar[str] = ContextVar("caller", default=ANONYMOUS)


def is_name(text: str) -> bool:
    """Tell whether a caller may be called so: nobody who proved who they are is called like those who did not."""
    return _NAME.fullmatch(text) is not None and text != ANONYMOUS


def set_caller(name: str) -> None:
    """Let the call that the current task serves be *name*'s."""
    _current.set(name)


def current_caller() -> str:
    """Return whose call the current task serves; `anonymous` outside of calls, and where nobody has to say."""
    return _current.get()
