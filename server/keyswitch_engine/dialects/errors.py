"""What failures look like, in every dialect whose failures are JSON.

Most have one envelope, `{"error": {"message", "type" or "status", "code"}}`, and the field has many more: a bare
string, `{"code", "error": "…"}` (xAI), `{"detail": …}` (Mistral, FastAPI servers), `{"message", "request_id"}`
(gateways, AWS), the fields at top level (Cerebras), all of it in an array (Gemini), HTML, or nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from keyswitch_engine.error_rules import ErrorRule, provider_error, request_id
from keyswitch_engine.errors import ProviderError, Reason
from keyswitch_engine.retry_after import retry_after, window_reset

__all__ = ["read_error"]

_NO_HEADERS: Mapping[str, str] = {}


def read_error(
    body: bytes, status: int, rules: Iterable[ErrorRule], headers: Mapping[str, str] = _NO_HEADERS
) -> ProviderError:
    """Read a failure from an answer's body, or from the data of an event inside a stream.

    A status below 300 is that of an answer that failed after all; the status that the body itself names replaces it for
    finding out what the failure means.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None if body.lstrip()[:1] == b"<" else body.decode("utf-8", "replace")
    fields = _fields(value)
    message = _message(value) or (f"HTTP status {status}" if status >= 300 and body.strip() else "")  # noqa: PLR2004 - RFC 9110
    codes = [str(fields[name]) for name in ("code", "type", "status") if fields.get(name)]
    delay = None
    for detail in _details(fields):  # google.rpc.ErrorInfo and RetryInfo
        if isinstance(detail.get("reason"), str):
            codes.append(detail["reason"])
        if (found := _DELAY.fullmatch(str(detail.get("retryDelay")))) is not None:
            delay = float(found[1])
    effective = _status(fields) or status if status < 300 else status  # noqa: PLR2004 - RFC 9110
    error = provider_error(effective, codes[0] if codes else "", codes, message, rules)
    error.message = message or f"the provider answered with HTTP status {status} and no explanation"
    error.upstream_status = status
    error.upstream_request_id = request_id(headers)
    if (asked := retry_after(headers)) is not None:
        error.retry_after = asked
    elif delay is not None or error.reason is not Reason.PROVIDER_RATE_LIMITED:
        error.retry_after = delay
    else:
        error.retry_after = window_reset(headers)
    return error


_DELAY = re.compile(r"(\d{1,6}(?:\.\d*)?)s")


def _details(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the details of an error of Google's."""
    details = fields.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _fields(value: object) -> dict[str, Any]:
    """Return the object that holds message, code and type."""
    match value:
        case [first, *_]:
            return _fields(first)
        case {"error": dict(inner)}:
            return inner
        case dict(outer):
            return outer
        case _:
            return {}


def _message(value: object) -> str:
    """Return the first text that explains a failure, the most specific one first."""
    match value:
        case str(text):
            return text.strip()
        case [first, *_]:
            return _message(first)
        case {"error": dict(inner)} if inner:
            return _envelope(inner)
        case {"error": str(text)} if text:
            return text
        case {"errors": [first, *_]}:
            return _message(first)
        case dict(outer):
            return _envelope(outer)
        case _:
            return ""


def _envelope(fields: dict[str, Any]) -> str:
    """Return the message of an envelope, with what an upstream behind a router said."""
    for name in ("message", "detail", "msg", "title"):
        found = fields.get(name)
        text = found if isinstance(found, str) else _message(found)
        if text:
            break
    else:
        text = ""
    match fields.get("metadata"):
        case {"raw": str(raw)} if raw:
            return f"{text}: {raw}" if text else raw
        case _:
            return text


def _status(fields: dict[str, Any]) -> int | None:
    """Return the HTTP status that a body names inside a 200."""
    for name in ("status_code", "code", "status", "http_code"):
        found = fields.get(name)
        if isinstance(found, str) and found.isdigit():
            found = int(found)
        if isinstance(found, int) and 400 <= found < 600:  # noqa: PLR2004 - the range of error statuses, RFC 9110
            return found
    return None
