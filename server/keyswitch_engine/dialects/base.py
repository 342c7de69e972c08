"""What a dialect is: a wire protocol as pure functions of bytes.

A dialect turns a `Generation` into request bytes and gives one decoder an answer. Nothing here awaits, knows a host, or
sees a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, TypeAlias
from urllib.parse import quote

import msgspec

from keyswitch_engine.error_rules import ErrorRule
from keyswitch_engine.errors import InvalidRequest, ProviderError, Violation
from keyswitch_engine.events import BlockEvent, Ending, Usage
from keyswitch_engine.generation import Generation

__all__ = ["Decoder", "Dialect", "Flags", "Profile", "TokenCounter", "UpstreamRequest"]

Flags: TypeAlias = msgspec.Struct
"""Compatibility flags by which the providers of one dialect differ; each dialect has a frozen type of its own."""

_SLASH = r"[/\\]|%(?:25)*(?:2f|5c)"
_LEADS_ELSEWHERE = re.compile(rf"(?:^|{_SLASH})(?:\.|%(?:25)*2e){{1,2}}(?=$|{_SLASH})", re.IGNORECASE)


class Profile(msgspec.Struct, frozen=True):
    """A provider as a dialect sees it."""

    provider: str
    """Id, to mark state that has to go back to the same provider."""
    path: str
    """Path of the dialect's endpoint below the base URL; may hold `{model}`."""
    flags: Flags
    stream_path: str = ""
    """Path for streams where it is another one."""
    error_rules: tuple[ErrorRule, ...] = ()
    """What its errors mean where the general table would misread them."""

    def endpoint(self, model: str, *, stream: bool) -> str:
        """Return the path of a call, with the model quoted into it where it belongs there.

        Raises:
            InvalidRequest: the model would lead to another path behind a server that unquotes too early.
        """
        path = self.stream_path if stream and self.stream_path else self.path
        if "{" not in path:
            return path
        if _LEADS_ELSEWHERE.search(model):
            raise InvalidRequest([Violation("target.model", "no segment of it can be '.' or '..', in any spelling")])
        return path.replace("{model}", quote(model, safe=""))


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One HTTP request, still without host and key."""

    path: str
    """Path below the provider's base URL, beginning with a slash; anything of the caller's in it is quoted."""
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    @classmethod
    def json(cls, path: str, body: bytes, *, stream: bool) -> UpstreamRequest:
        """Return a request whose body is JSON; a stream is answered as server-sent events."""
        accept = "text/event-stream" if stream else "application/json"
        return cls(path, {"content-type": "application/json", "accept": accept}, body)


class Decoder(Protocol):
    """Reads one answer; made for one call and thrown away with it.

    `feed` and `end` raise `ProviderError` where the answer carries an error, `ProtocolError` where it is not in the
    dialect, and `end` raises `StreamTruncated` where it stopped too early. Events decoded before are delivered first:
    what `feed` decoded ahead of an error in the same bytes is in `pending`.
    """

    response_id: str
    """The provider's id of the answer; empty until it gave one."""
    done: bool
    """Whether the terminal marker came, after which nothing more is expected."""

    @property
    def pending(self) -> list[BlockEvent]:
        """Events decoded by a `feed` or `end` that then raised."""

    def feed(self, data: bytes, /) -> list[BlockEvent]:
        """Decode the next bytes, however they are cut."""

    def end(self) -> tuple[list[BlockEvent], Ending]:
        """Close the answer after its last byte, and say how it ended."""

    def usage(self) -> Usage | None:
        """Return what was counted so far; the part that a failed answer was billed for."""


class Dialect(Protocol):
    """One wire protocol. Instances hold no state: one serves all calls."""

    name: str
    """As requests and rows spell it, for example `openai-chat`."""
    flags: type[Flags]
    """Type of the compatibility flags of its providers."""

    def request(
        self, generation: Generation, model: str, profile: Profile, options_json: str, *, stream: bool
    ) -> UpstreamRequest:
        """Write the request.

        *options_json* is a JSON object that is merged into the body last, or empty. Raises `Unavailable` with
        `UNSUPPORTED_FEATURE` for what the dialect cannot express, and `InvalidRequest` for an option that the body
        already has.
        """

    def decoder(self, profile: Profile, *, stream: bool) -> Decoder:
        """Make the decoder of one answer with a status below 300."""

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more. Header names are lower-case."""


class TokenCounter(Protocol):
    """A dialect whose providers count the tokens of a conversation before it is had."""

    name: str
    flags: type[Flags]

    def count_request(self, generation: Generation, model: str, profile: Profile) -> UpstreamRequest:
        """Write the request; see `Dialect.request`."""

    def read_count(self, body: bytes) -> int:
        """Read the answer. Raises `ProtocolError` if it is none."""

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an answer with a status of 300 or more; see `Dialect.error`."""
