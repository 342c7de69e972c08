"""What came of a call, in a form that is the same wherever the call was made."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import json_format
from keyswitch_client import AsyncClient, KeyswitchError

__all__ = ["outcome"]

TIMES = {"queueTime", "connectTime", "firstTokenTime", "totalTime", "keyFingerprint"}
IDS = {"responseId", "upstreamRequestId"}


def plain(value: Any) -> Any:
    """Return a message, or a part of one, without its times and ids."""
    match value:
        case dict():
            return {name: plain(inner) for name, inner in value.items() if name not in TIMES | IDS}
        case list():
            return [plain(inner) for inner in value]
        case str():
            return re.sub(r"sandbox-\d+", "sandbox-N", value)
        case _:
            return value


def events(messages: list[Any]) -> list[Any]:
    """Return events without times and ids, neighbouring deltas joined: their borders carry no meaning."""
    joined: list[Any] = []
    for message in messages:
        shown = plain(json_format.MessageToDict(message))
        delta, last = shown.get("blockDelta"), (joined[-1] if joined else {}).get("blockDelta")
        kinds = {"text", "reasoning", "arguments", "refusal"}
        same = delta and last and delta.keys() == last.keys() and delta.get("index") == last.get("index")
        if same and (kind := delta.keys() & kinds):
            last[next(iter(kind))] += delta[next(iter(kind))]
        else:
            joined.append(shown)
    return joined


async def outcome(client: AsyncClient, *, streamed: bool, **arguments: Any) -> tuple[Any, Any]:
    """Return what came of a call: events or answer, and everything that the failure tells."""
    came: list[Any] = []
    try:
        if streamed:
            async with client.stream(**arguments) as stream:
                async for message in stream.messages():
                    came.append(message)  # noqa: PERF401 - it may fail in between
        else:
            came.append((await client.generate(**arguments)).response)
    except KeyswitchError as error:
        told = {name: value for name, value in vars(error).items() if name not in ("receipt", "partial_usage")}
        told["upstream_request_id"] = bool(error.upstream_request_id)
        told["receipt"] = plain(json_format.MessageToDict(error.receipt))
        told["partial_usage"] = error.partial_usage and plain(json_format.MessageToDict(error.partial_usage))
        asked = arguments.get("model") or arguments["endpoint"].model
        if asked.endswith("/bad-json"):  # what preceded the damage has been read with it, or before it
            return None, (type(error), error.code, error.reason, error.message)
        return events(came), (type(error), plain(str(error)), plain(told))
    return events(came), None
