"""What a dialect is to the sandbox: paths, and how scenarios are spelt in it.

Each is a module of this package. They are written from the providers' documentation, not from the engine's dialects, so
that a mistake on either side shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from keyswitch_sandbox.scenarios import Conversation, Failure, Said, Script, Signature, Tool, ToolCall, Tuning

__all__ = ["Dialect", "Request", "conversation_of", "event", "joined", "of_kind", "output_count", "whole_calls"]


class Request(msgspec.Struct, frozen=True):
    """A request, as far as the sandbox cares."""

    model: str
    stream: bool
    conversation: Conversation
    tuning: Tuning = Tuning()
    include_usage: bool = True
    """Whether a stream tells how much was used."""
    framed: bool = True
    """Whether a stream comes in the dialect's usual frames."""


class Dialect(Protocol):
    """One wire protocol."""

    PATH: re.Pattern[str]
    """Paths that speak it."""
    SIGNS: bool
    """Whether it has signatures that have to come back."""

    def read(self, path: re.Match[str], body: bytes) -> Request:
        """Read a request. Raises `msgspec.DecodeError` if it is not one."""

    def stream_type(self, request: Request) -> str:
        """Return the media type of a stream."""

    def stream_events(self, request: Request, script: Script, response_id: str) -> Iterator[bytes]:
        """Yield the events of a stream, one a piece."""

    def whole_body(self, request: Request, script: Script, response_id: str) -> bytes:
        """Return a whole answer."""

    def error_body(self, failure: Failure, key: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an error. Like real providers, it quotes the key back."""

    def error_event(self) -> bytes:
        """Return the piece by which a stream fails in the middle."""

    def bad_event(self) -> bytes:
        """Return a piece that is damaged."""


S = TypeVar("S")


def of_kind(said: Iterable[Said], kind: type[S]) -> list[S]:
    """Return the pieces of one kind."""
    return [piece for piece in said if isinstance(piece, kind)]


def joined(said: Iterable[Said], kind: type[Any]) -> str:
    """Return the text of all pieces of one kind."""
    return "".join(piece.text for piece in of_kind(said, kind))


def whole_calls(said: Iterable[Said]) -> list[tuple[int, str, str]]:
    """Return the tool calls, each with its number in the conversation, name and arguments."""
    calls: dict[int, list[str]] = {}
    for piece in of_kind(said, ToolCall):
        call = calls.setdefault(piece.number, [piece.name, ""])
        call[1] += piece.fragment
    return [(number, name, arguments) for number, (name, arguments) in calls.items()]


def output_count(said: Iterable[Said]) -> int:
    """Return how many tokens were said: one a piece, none for names and signatures."""
    return sum(
        not isinstance(piece, Signature) and (not isinstance(piece, ToolCall) or bool(piece.fragment)) for piece in said
    )


def conversation_of(
    body: bytes, texts: Sequence[tuple[str, str]], tools: Iterable[Tool], schema: Mapping[str, Any] | None
) -> Conversation:
    """Return what a request says, of its turns as role and text; the role of results is `tool`."""
    user = [text for role, text in texts if role == "user"]
    return Conversation(
        text=user[-1] if user else "",
        tools=tuple(tools),
        tool_result=texts[-1][1] if texts and texts[-1][0] == "tool" else None,
        schema=schema,
        body=body,
        input_tokens=sum(len(text.split()) for _, text in texts),
        results=sum(role == "tool" for role, _ in texts),
    )


def event(value: object, name: str = "", end: bytes = b"\n") -> bytes:
    """Return a server-sent event."""
    head = b"event: " + name.encode() + end if name else b""
    return head + b"data: " + msgspec.json.encode(value) + end + end
