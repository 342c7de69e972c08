"""What failures look like, in every dialect whose failures are JSON.

Most have one envelope, `{"error": {"message", "type" or "status", "code"}}`, and the field has many more: a bare
string, `{"code", "error": "…"}` (xAI), `{"detail": …}` (Mistral, FastAPI servers), `{"message", "request_id"}`
(gateways, AWS), the fields at top level (Cerebras, vLLM), a list of errors (Cloudflare, Gemini) or one under the name
of a list (ModelScope), `{"fault": {"faultstring"}}` (Fireworks' gateway), `{"base_resp": {"status_code"}}` (MiniMax),
HTML, or nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from keyswitch_engine.error_rules import ErrorRule, provider_error, request_id
from keyswitch_engine.errors import ProviderError, Reason
from keyswitch_engine.retry_after import retry_after, told_delay, window_reset
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = ["read_error"]

_NO_HEADERS: Mapping[str, str] = {}


def read_error(
    body: bytes, status: int, rules: Iterable[ErrorRule], headers: Mapping[str, str] = _NO_HEADERS
) -> ProviderError:
    """Read a failure from an answer's body, or from the data of an event inside a stream.

    A status below 300 is that of an answer that failed after all; the status that the body itself names replaces it for
    finding out what the failure means, as the one of what stands behind a router replaces a 5xx.
    """
    try:
        value = msgspec.json.decode(body)
    except MALFORMED_JSON:
        value = None if body.lstrip()[:1] == b"<" else body.decode("utf-8", "replace")
    fields = _fields(value)
    codes = _codes(fields)
    message = _told(value) or (f"HTTP status {status}" if status >= 300 and body.strip() else "")  # noqa: PLR2004 - RFC 9110
    error = provider_error(_effective(status, fields), codes[0] if codes else "", codes, message, rules)
    error.message = error.message or f"the provider answered with HTTP status {status} and no explanation"
    error.upstream_status = status
    error.upstream_request_id = request_id(headers) or _request_id(value)
    error.retry_after = _delay(error, fields, headers)
    return error


def _fields(value: object) -> dict[str, Any]:
    """Return the object that holds message, code and type."""
    match value:
        case [first, *_]:
            return _fields(first)
        case {"error": dict(inner)} | {"errors": dict(inner)} | {"fault": dict(inner)} | {"base_resp": dict(inner)}:
            return inner
        case {"errors": [dict(first), *_]}:
            return first
        case dict(outer):
            return outer
        case _:
            return {}


_CODES = ("code", "type", "status", "reason", "error_type", "error_code", "errorcode", "status_code")
"""Where failures are named; `reason` is Novita's, `error_type` Cohere's, `error_code` that of Databricks."""


def _codes(fields: dict[str, Any]) -> list[str]:
    """Return every name of a failure, the most specific first as far as that can be told."""
    details, metadata = fields.get("details"), fields.get("metadata")
    places = [fields, fields.get("detail")]  # the latter of a gateway's fault
    places += details if isinstance(details, list) else [details]  # google.rpc.ErrorInfo; an object at Anthropic
    codes = [str(place[name]) for place in places if isinstance(place, dict) for name in _CODES if place.get(name)]
    if isinstance(metadata, dict):  # OpenRouter's
        codes += [str(metadata[name]) for name in ("error_type", "limit_source") if metadata.get(name)]
        if "flagged_input" in metadata:
            codes.append("moderation")
    return codes


def _effective(status: int, fields: dict[str, Any]) -> int:
    """Return the status that tells what a failure means."""
    if status < 300:  # noqa: PLR2004 - RFC 9110
        return _status(fields) or status
    behind = fields.get("param")  # of what stands behind Vercel's gateway
    if status >= 500 and isinstance(behind, dict):  # noqa: PLR2004 - RFC 9110
        return _error_status(behind.get("statusCode")) or status
    return status


def _status(fields: dict[str, Any]) -> int | None:
    """Return the HTTP status that a body names inside a 200."""
    found = (_error_status(fields.get(name)) for name in ("status_code", "code", "status", "http_code"))
    return next((status for status in found if status is not None), None)


def _error_status(value: object) -> int | None:
    """Return a number that is the status of a failure, None for anything else."""
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) == 3 else value  # noqa: PLR2004 - digits
    return number if isinstance(number, int) and 400 <= number < 600 else None  # noqa: PLR2004 - RFC 9110


_DELAY = re.compile(r"(\d{1,6}(?:\.\d{0,9})?)s", re.ASCII)


def _delay(error: ProviderError, fields: dict[str, Any], headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which the provider wants to be asked again, as the most explicit source has them."""
    if (asked := retry_after(headers)) is not None:
        return asked
    details, metadata = fields.get("details"), fields.get("metadata")
    for detail in details if isinstance(details, list) else ():  # google.rpc.RetryInfo
        if isinstance(detail, dict) and (found := _DELAY.fullmatch(str(detail.get("retryDelay")))) is not None:
            return float(found[1])
    if error.reason is not Reason.PROVIDER_RATE_LIMITED:
        return None
    if (opens := window_reset(headers)) is not None:
        return opens
    inside = metadata.get("headers") if isinstance(metadata, dict) else None  # OpenRouter's, in the body
    if isinstance(inside, dict):
        return window_reset({str(name).lower(): str(value) for name, value in inside.items()})
    return told_delay(error.message)


def _request_id(value: object) -> str:
    """Return the id of the request that a body tells, as Anthropic's and Z.AI's do."""
    match value:
        case {"request_id": str(found)}:
            return found
        case _:
            return ""


def _told(value: object) -> str:
    """Return what explains a failure, nothing if it is hidden too deeply."""
    try:
        return _message(value)
    except RecursionError:
        return ""


_TEXTS = ("message", "detail", "msg", "title", "faultstring", "status_msg")


def _message(value: object) -> str:
    """Return the first text that explains a failure, the most specific one first."""
    match value:
        case str(text):
            return text.strip()
        case [first, *_]:
            return _message(first)
        case {"error": dict(inner)} | {"errors": dict(inner)} | {"fault": dict(inner)} | {"base_resp": dict(inner)} if (
            inner
        ):
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
    for name in _TEXTS:
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
