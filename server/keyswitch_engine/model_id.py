"""What a model id may be made of, whoever writes it: a request, a provider's file or the operator's settings."""

from __future__ import annotations

import re

from keyswitch_engine.errors import InvalidRequest, Violation

__all__ = ["clean_model", "exact_model"]

_MAX_MODEL = 256

_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's `Default_Ignorable_Code_Point`: nothing is shown of them, though to `str.isprintable` many are letters or
marks."""


def clean_model(model: str, field: str = "target.model") -> str:
    """Trim the model id in *field* and refuse what no id holds.

    Raises:
        InvalidRequest: it holds it.
    """
    model = model.strip()
    if len(model) > _MAX_MODEL:
        raise _bad_model(field, f"at most {_MAX_MODEL} characters")
    if not model.isprintable() or (not model.isascii() and _IGNORABLE.search(model)):
        raise _bad_model(
            field, "visible characters only: no control, zero-width, bidirectional or private ones, no space but ' '"
        )
    if any(segment in (".", "..") for segment in model.split("/")):
        raise _bad_model(field, "no '.' or '..' as a path segment")
    return model


def exact_model(model: str, field: str) -> str:
    """Return an id that is held against those of requests, which come clean: one that is not would fit none of them.

    Raises:
        InvalidRequest: it is empty or not clean.
    """
    if clean_model(model, field) != model or not model:
        raise _bad_model(field, "an id, without spaces around it")
    return model


def _bad_model(field: str, rule: str) -> InvalidRequest:
    """Return the refusal of a model id."""
    return InvalidRequest([Violation(field, rule)])
