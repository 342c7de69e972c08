"""What readers have in common."""

from __future__ import annotations

from typing import Any

from contract import Json, image, media, schema_text, text

__all__ = [
    "EFFORTS",
    "Unreadable",
    "chat_parts",
    "choice_of",
    "effort_of",
    "function_of",
    "hint_of",
    "sampling",
    "take",
]


class Unreadable(Exception):
    """The body is not one that the contract is for: no conversation, or parts that it has no word for."""


EFFORTS = {
    "none": "NONE",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "MAX",
    "max": "MAX",
}


def effort_of(value: str) -> Json:
    """Return an effort by its word."""
    return {"effort": f"REASONING_EFFORT_{EFFORTS[value]}"}


def take(body: Json, names: dict[str, str]) -> Json:
    """Move fields of the body into fields of the contract."""
    return {new: body.pop(old) for old, new in names.items() if body.get(old) is not None}


def sampling(body: Json, names: dict[str, str], stop: str = "") -> Json:
    """Move numbers of the body, and its stop sequences from the field *stop*, into `sampling`."""
    found = take(body, names)
    if stop and body.get(stop) is not None:
        value = body.pop(stop)
        found["stopSequences"] = [value] if isinstance(value, str) else value
    return {"sampling": found} if found else {}


def function_of(tool: Json) -> Json:
    """Read a function of chat completions, or of Responses, where the fields are one level higher."""
    function = tool.get("function", tool)
    found: Json = {"name": function["name"]}
    if function.get("description"):
        found["description"] = function["description"]
    schema = function.get("parameters")
    if schema:
        found["parametersJsonSchema"] = schema_text(schema)
    if function.get("strict") is not None:
        found["strict"] = function["strict"]
    return {"function": found}


def choice_of(choice: Any) -> Json:
    """Read how tools may be used."""
    match choice:
        case "any":
            return {"required": {}}
        case str():
            return {choice: {}}
        case (
            {"type": "function", "function": {"name": name}}
            | {"type": "function", "name": name}
            | {"type": "tool", "name": name}
        ):
            return {"function": {"name": name}}
        case {"type": "any" | "required"}:
            return {"required": {}}
        case {"type": str(kind)} if kind in ("auto", "none"):
            return {kind: {}}
        case _:
            raise Unreadable(f"tool choice {choice}")


def chat_parts(content: Any) -> list[Json]:
    """Read content of chat completions."""
    if content is None:
        return []
    if isinstance(content, str):
        return [text(content)]
    parts = []
    for part in content:
        match part:
            case {"type": "text", "text": value}:
                hint = part.get("cache_control")
                parts.append(text(value) | ({"cacheHint": hint_of(hint)} if hint else {}))
            case {"type": "image_url", "image_url": {"url": url, **rest}}:
                parts.append(image(media(None, None, url), rest.get("detail")))
            case {"type": "image_url", "image_url": str(url)}:
                parts.append(image(media(None, None, url)))
            case {"type": "input_audio", "input_audio": {"data": data, "format": form}}:
                kind = {"wav": "audio/wav", "mp3": "audio/mpeg"}[form]
                parts.append({"audio": {"source": media(data, kind)}})
            case {"type": "file", "file": {"file_data": data, **rest}}:
                parts.append({"file": {"source": media(None, None, data), "filename": rest.get("filename", "")}})
            case _:
                raise Unreadable(f"content part {part.get('type')}")
    return parts


def hint_of(control: Json) -> Json:
    """Read a cache hint."""
    ttl = control.get("ttl")
    return {"retention": {"5m": "CACHE_RETENTION_SHORT", "1h": "CACHE_RETENTION_LONG"}[ttl]} if ttl else {}
