"""The sandbox's HTTP server."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import itertools
import socket
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import msgspec
from aiohttp import web

from keyswitch_sandbox import operations
from keyswitch_sandbox.dialects import find
from keyswitch_sandbox.dialects.base import Dialect, Request
from keyswitch_sandbox.journal import Entry, Journal, Tally, key_of
from keyswitch_sandbox.replay import Recordings
from keyswitch_sandbox.scenarios import Failure, Script, Wire, script

__all__ = ["Sandbox"]

_PREFIX = "sandbox/"
_REPLAY = "replay/"
_CAP = 64 * 1024 * 1024
_JSON = {"content-type": "application/json"}
_HTML = b"<!doctype html><title>Bad gateway</title><h1>Bad gateway</h1>"


class Sandbox:
    """A running sandbox, an async context manager.

    ::

        async with Sandbox() as sandbox:
            ...  # POST sandbox.url + "/v1/chat/completions"
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        recordings: Recordings | None = None,
        *,
        model_server: bool = False,
    ) -> None:
        """Listen on *host* and *port*, 0 for a free one; *recordings* serve the models `replay/<id>`.

        A *model_server* is as they stand on people's desks: it needs no key, and has any model, which echoes.
        """
        self._model_server = model_server
        self._host = host
        self._port = port
        self._recordings = recordings
        self._numbers = itertools.count(1)
        self._asked = Tally()
        self._runner: web.AppRunner | None = None
        self.journal = Journal()
        self.listening = ""
        """HOST:PORT, once it listens."""

    @property
    def url(self) -> str:
        """Base URL, without a path."""
        return f"http://{self.listening}"

    async def __aenter__(self) -> Self:
        """Listen. Raises `OSError` if the port is in use."""
        app = web.Application(client_max_size=_CAP)
        app.router.add_get("/_sandbox/journal", self._show_journal)
        app.router.add_get("/{path:.*}", self._list)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        listener = socket.create_server((self._host, self._port), backlog=1024)
        try:
            await web.SockSite(self._runner, listener).start()
        except BaseException:
            listener.close()
            raise
        self.listening = f"{self._host}:{listener.getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and drop every connection."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        """List the scenarios as models."""
        self.journal.close(self.journal.open(request.path, "", request.headers, stream=False), "completed")
        found = operations.answer("GET", request.path, request.query, b"")
        return web.json_response(status=404) if found is None else web.json_response(body=found)

    async def _show_journal(self, request: web.Request) -> web.Response:
        """Show the journal."""
        return web.json_response([dataclasses.asdict(entry) for entry in self.journal])

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        """Answer a request, and note in the journal how that ended."""
        body = await http.read()
        query = f"?{http.query_string}" if http.query_string else ""
        try:
            other = operations.answer("POST", http.rel_url.raw_path, http.query, body)
        except (msgspec.DecodeError, KeyError) as error:
            return web.json_response({"error": {"message": f"not a request: {error}"}}, status=400)
        if other is not None:
            self.journal.close(self.journal.open(http.path, "", http.headers, stream=False), "completed")
            return web.json_response(body=other)
        dialect, match = find(http.rel_url.raw_path + query)
        try:
            request = dialect.read(match, body)
        except (msgspec.DecodeError, KeyError) as error:
            message = {"error": {"message": f"not a request of this dialect: {error}", "type": "invalid_request_error"}}
            return web.json_response(message, status=400)
        conversation = dataclasses.replace(request.conversation, signs=dialect.SIGNS)
        request = msgspec.structs.replace(request, model=unquote(request.model), conversation=conversation)
        entry = self.journal.open(http.path, request.model, http.headers, stream=request.stream)
        state = "closed_by_client"
        try:
            response = await self._act(http, dialect, request, entry)
            state = "completed"
            return response
        finally:
            self.journal.close(entry, state)

    async def _act(self, http: web.Request, dialect: Dialect, request: Request, entry: Entry) -> web.StreamResponse:
        """Do what the model's name says."""
        sender = _Sender(http, dialect, entry, f"chatcmpl-sandbox-{next(self._numbers)}")
        if request.model.startswith(_REPLAY):
            return await self._replay(request.model.removeprefix(_REPLAY), sender)
        key = key_of(http.headers).removeprefix("Bearer ")
        if not key and not self._model_server:
            return await sender.error(Failure.BAD_KEY, "")
        name = request.model.removeprefix(_PREFIX)
        if request.tuning.times and self._asked.count(name, key) > request.tuning.times:
            name = "echo"
        made = script(name, request.conversation, request.tuning)
        if made is None and self._model_server:
            made = script("echo", request.conversation, request.tuning)
        if made is None:
            return await sender.error(Failure.MODEL_NOT_FOUND, key)
        if request.tuning.first_ms:
            await asyncio.sleep(request.tuning.first_ms / 1000)
        if made.failure is not None:
            return await sender.error(made.failure, key, request.tuning.retry_after)
        if made.wire is not None:
            return await _misbehave(made.wire, sender, request, made)
        if request.stream:
            return await sender.send(
                {"content-type": dialect.stream_type(request)},
                _paced(dialect.stream_events(request, made, sender.id), made),
            )
        return await sender.send(_JSON, _each([dialect.whole_body(request, made, sender.id)]))

    async def _replay(self, recording_id: str, sender: _Sender) -> web.StreamResponse:
        """Serve a recording."""
        recording = self._recordings.get(recording_id) if self._recordings is not None else None
        if recording is None or self._recordings is None:
            return await sender.error(Failure.MODEL_NOT_FOUND, "")
        return await sender.send(recording.headers, _each(self._recordings.chunks(recording)), recording.status)


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces without a pause."""
    for piece in pieces:
        yield piece


async def _paced(pieces: Iterable[bytes], made: Script) -> AsyncIterator[bytes]:
    """Yield pieces at the script's pace."""
    for piece in pieces:
        if made.interval_ms:
            await asyncio.sleep(made.interval_ms / 1000)
        yield piece


_TURN = 100
"""Pieces after which others get a turn: to a reader that is fast enough writing never waits."""


class _Sender:
    """Writes one answer and counts what it wrote."""

    def __init__(self, http: web.Request, dialect: Dialect, entry: Entry, response_id: str) -> None:
        self.http = http
        self.dialect = dialect
        self.entry = entry
        self.id = response_id

    async def begin(self, headers: dict[str, str], status: int = 200) -> web.StreamResponse:
        """Send the headers. A small buffer makes a slow reader be felt soon."""
        response = web.StreamResponse(status=status, headers={"x-request-id": self.id} | headers)
        self.entry.status = status
        await response.prepare(self.http)
        if self.http.transport is not None:
            self.http.transport.set_write_buffer_limits(high=16 * 1024)
        return response

    async def write(self, response: web.StreamResponse, piece: bytes) -> None:
        """Send one piece."""
        await response.write(piece)
        self.entry.bytes_sent += len(piece)
        self.entry.pieces_sent += 1
        if not self.entry.pieces_sent % _TURN:
            await asyncio.sleep(0)

    async def send(
        self, headers: dict[str, str], pieces: AsyncIterator[bytes], status: int = 200
    ) -> web.StreamResponse:
        """Send a whole answer."""
        response = await self.begin(headers, status)
        async for piece in pieces:
            await self.write(response, piece)
        await response.write_eof()
        return response

    async def error(self, failure: Failure, key: str, retry_after: float = 0.0) -> web.StreamResponse:
        """Send an error, which may ask to wait for some seconds."""
        status, headers, body = self.dialect.error_body(failure, key)
        if retry_after:
            headers = headers | {"retry-after": f"{retry_after:g}"}
        return await self.send(_JSON | headers, _each([body]), status)


async def _misbehave(wire: Wire, sender: _Sender, request: Request, made: Script) -> web.StreamResponse:
    """Go wrong in one of the ways below the dialect."""
    dialect = sender.dialect
    streamed = {"content-type": dialect.stream_type(request)}
    whole = dialect.whole_body(request, made, sender.id)
    events = tuple(dialect.stream_events(request, made, sender.id))
    begun = events[: 1 + request.tuning.after]
    match wire:
        case Wire.HTML:
            return await sender.send({"content-type": "text/html"}, _each([_HTML]))
        case Wire.BAD_JSON:
            return await sender.send(
                streamed if request.stream else _JSON,
                _each([*begun, dialect.bad_event()] if request.stream else [whole[:-9]]),
            )
        case Wire.TRUNCATED if request.stream:
            return await sender.send(streamed, _each(begun))
        case Wire.RESET if request.stream:
            response = await sender.begin(streamed)
            for event in begun:
                await sender.write(response, event)
            return _reset(sender, response)
        case Wire.TRUNCATED | Wire.RESET:
            response = await sender.begin(_JSON | {"content-length": str(len(whole))})
            await sender.write(response, whole[: len(whole) // 2])
            return _reset(sender, response)
        case Wire.ERROR_MID_STREAM:
            return await sender.send(streamed, _each([*begun, dialect.error_event()]))
        case Wire.STALL:
            await asyncio.Event().wait()
        case Wire.STALL_MID_STREAM:
            response = await sender.begin(streamed)
            for event in begun:
                await sender.write(response, event)
            await asyncio.Event().wait()
        case Wire.DRIP:
            body = b"".join(events) if request.stream else whole
            return await sender.send(streamed if request.stream else _JSON, _each(bytes([byte]) for byte in body))
        case Wire.ENDLESS:
            event = events[0] if not made.said else events[1]
            return await sender.send(streamed, _each(itertools.repeat(event, _CAP // len(event))))
        case Wire.HUGE_LINE:
            return await sender.send(
                streamed, _each(itertools.chain([b"data: "], itertools.repeat(b"x" * 65536, _CAP >> 16)))
            )
        case Wire.REDIRECT:
            return await sender.send({"location": "/v1/models"}, _each([]), 302)
        case Wire.GZIP_BOMB:
            bomb = gzip.compress(b" " * _CAP)
            return await sender.send(_JSON | {"content-encoding": "gzip"}, _each([bomb]))
        case Wire.MANY_HEADERS:
            return await sender.send(
                _JSON | {f"x-header-{number}": "x" * 64 for number in range(20_000)}, _each([whole])
            )
    raise AssertionError("unreachable: a stalled answer ends with its client")


def _reset(sender: _Sender, response: web.StreamResponse) -> web.StreamResponse:
    """Drop the connection in the middle of an answer."""
    if sender.http.transport is not None:
        sender.http.transport.abort()
    return response
