"""What writing a request has in common in every dialect."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from keyswitch_engine.errors import InvalidRequest, Reason, Unavailable, Violation
from keyswitch_engine.events import ProviderState
from keyswitch_engine.generation import InlineMedia, MediaSource, Part, TextPart
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = [
    "base64_text",
    "encode_body",
    "fitting_id",
    "joined_text",
    "media_url",
    "only",
    "option_names",
    "own_state",
    "raw_json",
    "raw_object",
    "short_id",
    "unsupported",
]

_ENCODER = msgspec.json.Encoder()
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def unsupported(field: str, why: str = "") -> Unavailable:
    """Return the refusal of what a dialect, or a provider's way of speaking it, cannot express.

    *field* is a path of contract field names, for example `messages[0].parts[1].image`.
    """
    return Unavailable(
        Reason.UNSUPPORTED_FEATURE, f"{field}: {why or 'this provider has no such thing in this dialect'}", field=field
    )


def encode_body(body: dict[str, Any], options_json: str) -> bytes:
    """Encode a body, the caller's options merged into it verbatim and last.

    Raises:
        InvalidRequest: an option is one that the body has already, and not an object in both; or they are no object.
    """
    _merge(body, raw_object(options_json, "target.options_json"), "")
    return _ENCODER.encode(body)


def _merge(body: dict[str, Any], options: dict[str, msgspec.Raw], path: str) -> None:
    """Add options to a body. Objects that both have are merged, anything else may be said once only."""
    for name, value in options.items():
        have = body.get(name)
        if name not in body:
            body[name] = value
        elif isinstance(have, dict) and bytes(value).lstrip().startswith(b"{"):
            _merge(have, raw_object(value, "target.options_json"), f"{path}{name}.")
        else:
            raise InvalidRequest(
                [Violation("target.options_json", f"the request writes '{path}{name}' already; use its own field")]
            )


def option_names(options_json: str) -> Collection[str]:
    """Return the names of the caller's options, for defaults that give way to them.

    Raises:
        InvalidRequest: they are no JSON object.
    """
    return raw_object(options_json, "target.options_json").keys()


def only(body: bytes, names: Collection[str]) -> dict[str, msgspec.Raw]:
    """Return those fields of an encoded body that another endpoint takes as well.

    Raises:
        InvalidRequest: JSON of the caller's is nested too deeply, by the levels that the body adds.
    """
    return {name: value for name, value in raw_object(body, "request").items() if name in names}


def raw_json(text: str) -> msgspec.Raw:
    """Return JSON of the caller's to be put into a body as it is: key order decides prompt-cache hits."""
    return msgspec.Raw(text.encode())


def base64_text(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()


def media_url(source: MediaSource) -> str:
    """Return a URL for media: its own, or one that holds the bytes."""
    if isinstance(source, InlineMedia):
        return f"data:{source.media_type};base64,{base64_text(source.data)}"
    return source.url


def joined_text(parts: Iterable[Part], field: str) -> str:
    """Join text parts by line feeds; *field* is the path of the list of parts.

    Anything but text is refused, and so is a cache hint, which has no place beside plain text.
    """
    texts = []
    for number, part in enumerate(parts):
        if not isinstance(part.content, TextPart):
            raise unsupported(f"{field}[{number}]", "only text goes here")
        if part.cache_hint is not None:
            raise unsupported(f"{field}[{number}].cache_hint")
        texts.append(part.content.text)
    return "\n".join(texts)


def own_state(state: ProviderState | None, provider: str, dialect: str) -> bytes | None:
    """Return the data of a state that this provider handed out in this dialect; None for any other, or none."""
    if state is not None and (state.provider, state.dialect) == (provider, dialect):
        return state.data
    return None


_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_ID = 64


def fitting_id(call_id: str) -> str:
    """Return a tool call's id with the characters, and no more of them, that strict providers allow.

    Ids of their own stay as they are; the same id gives the same one again, so that call and result stay together.
    """
    if len(call_id) > _MAX_ID:
        return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"
    return _UNFIT.sub("_", call_id)


_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def short_id(call_id: str) -> str:
    """Return a tool call's id of nine letters and digits, as Mistral demands; its own ids stay as they are."""
    return call_id if _SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def raw_object(text: bytes | str | None, field: str) -> dict[str, msgspec.Raw]:
    """Return the fields of a JSON object that a provider handed out, or that the caller wrote for it, as they are.

    Nothing where there is no object. *field* is the path of what it belongs to. What was checked before is checked
    again: how deeply JSON may be nested depends on how deep the stack is that reads it.

    Raises:
        InvalidRequest: it is not a JSON object.
    """
    if not text:
        return {}
    try:
        return _OBJECT.decode(text)
    except MALFORMED_JSON as error:
        raise InvalidRequest(
            [Violation(field, "must hold a JSON object, and none that is nested too deeply")]
        ) from error
