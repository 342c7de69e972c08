"""Pieces of the contract as JSON, for building requests out of recorded bodies."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

__all__ = [
    "Json",
    "assistant",
    "image",
    "media",
    "schema_text",
    "state",
    "system",
    "text",
    "tool_call",
    "tool_results",
    "user",
]

Json = dict[str, Any]


def text(value: str, **more: Any) -> Json:
    """Return a text part."""
    return {"text": {"text": value}} | more


def user(*parts: Json) -> Json:
    """Return a turn of the user."""
    return {"role": "ROLE_USER", "parts": list(parts)}


def system(*parts: Json) -> Json:
    """Return system text."""
    return {"role": "ROLE_SYSTEM", "parts": list(parts)}


def assistant(*parts: Json) -> Json:
    """Return a turn of the assistant."""
    return {"role": "ROLE_ASSISTANT", "parts": list(parts)}


def tool_results(*results: Json) -> Json:
    """Return results of tools."""
    parts = [{"toolResult": {key: value for key, value in result.items() if key != "cacheHint"}} for result in results]
    for part, result in zip(parts, results, strict=True):
        if "cacheHint" in result:
            part["cacheHint"] = result["cacheHint"]
    return {"role": "ROLE_TOOL", "parts": parts}


def tool_call(call_id: str, name: str, arguments: Any) -> Json:
    """Return a call; arguments that are not text become JSON in their own order."""
    given = arguments if isinstance(arguments, str) else schema_text(arguments)
    return {"toolCall": {"id": call_id, "name": name, "argumentsJson": given}}


def schema_text(value: Any) -> str:
    """Return JSON in its own order."""
    return json.dumps(value, ensure_ascii=False)


def state(provider: str, dialect: str, data: Any) -> Json:
    """Return what a provider attached, as JSON or as bytes."""
    raw = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()
    return {"provider": provider, "dialect": dialect, "data": base64.b64encode(raw).decode()}


def media(data: str | None, media_type: str | None, url: str | None = None) -> Json:
    """Return a source: base64 with its type, or a URL, which may hold the data itself."""
    if url is not None and (found := re.fullmatch(r"data:([^;,]+)(?:;[^,]*)?;base64,(.*)", url, re.DOTALL)):
        media_type, data, url = found[1], found[2], None
    if url is not None:
        return {"url": url} | ({"mediaType": media_type} if media_type else {})
    return {"data": data, "mediaType": media_type}


def image(source: Json, detail: str | None = None) -> Json:
    """Return an image."""
    return {"image": {"source": source} | ({"detail": detail} if detail else {})}
