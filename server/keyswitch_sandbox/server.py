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

import msgspec
from aiohttp import web

from keyswitch_sandbox.dialects import openai_chat
from keyswitch_sandbox.journal import Entry, Journal
from keyswitch_sandbox.replay import Recordings
from keyswitch_sandbox.scenarios import SCENARIOS, Failure, Script, Wire, script

__all__ = ["Sandbox"]

_PREFIX = "sandbox/"
_REPLAY = "replay/"
_CAP = 64 * 1024 * 1024
_JSON = {"content-type": "application/json"}
_SSE = {"content-type": "text/event-stream; charset=utf-8"}
_HTML = b"<!doctype html><title>Bad gateway</title><h1>Bad gateway</h1>"


class Sandbox:
    """A running sandbox, an async context manager.

    ::

        async with Sandbox() as sandbox:
            ...  # POST sandbox.url + "/v1/chat/completions"
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, recordings: Recordings | None = None) -> None:
        """Listen on *host* and *port*, 0 for a free one; *recordings* serve the models `replay/<id>`."""
        self._host = host
        self._port = port
        self._recordings = recordings
        self._numbers = itertools.count(1)
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
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/_sandbox/journal", self._show_journal)
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

    async def _models(self, request: web.Request) -> web.Response:
        """List the scenarios as models."""
        data = [{"id": _PREFIX + name, "object": "model"} for name in SCENARIOS]
        return web.json_response({"object": "list", "data": data})

    async def _show_journal(self, request: web.Request) -> web.Response:
        """Show the journal."""
        return web.json_response([dataclasses.asdict(entry) for entry in self.journal])

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        """Answer a request, and note in the journal how that ended."""
        body = await http.read()
        try:
            request = openai_chat.read(body)
        except msgspec.DecodeError as error:
            message = {
                "error": {"message": f"not a chat completions request: {error}", "type": "invalid_request_error"}
            }
            return web.json_response(message, status=400)
        entry = self.journal.open(http.path, request.model, http.headers, stream=request.stream)
        state = "closed_by_client"
        try:
            response = await self._act(http, request, entry)
            state = "completed"
            return response
        finally:
            self.journal.close(entry, state)

    async def _act(self, http: web.Request, request: openai_chat.Request, entry: Entry) -> web.StreamResponse:
        """Do what the model's name says."""
        sender = _Sender(http, entry, f"chatcmpl-sandbox-{next(self._numbers)}")
        if request.model.startswith(_REPLAY):
            return await self._replay(request.model.removeprefix(_REPLAY), sender)
        key = http.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            return await sender.error(Failure.BAD_KEY, "")
        made = script(request.model.removeprefix(_PREFIX), request.conversation, request.tuning)
        if made is None:
            return await sender.error(Failure.MODEL_NOT_FOUND, key)
        if request.tuning.first_ms:
            await asyncio.sleep(request.tuning.first_ms / 1000)
        if made.failure is not None:
            return await sender.error(made.failure, key)
        if made.wire is not None:
            return await _misbehave(made.wire, sender, request, made)
        if request.stream:
            return await sender.send(_SSE, _paced(openai_chat.stream_events(request, made, sender.id), made))
        return await sender.send(_JSON, _each([openai_chat.whole_body(request, made, sender.id)]))

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


class _Sender:
    """Writes one answer and counts what it wrote."""

    def __init__(self, http: web.Request, entry: Entry, response_id: str) -> None:
        self.http = http
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

    async def send(
        self, headers: dict[str, str], pieces: AsyncIterator[bytes], status: int = 200
    ) -> web.StreamResponse:
        """Send a whole answer."""
        response = await self.begin(headers, status)
        async for piece in pieces:
            await self.write(response, piece)
        await response.write_eof()
        return response

    async def error(self, failure: Failure, key: str) -> web.StreamResponse:
        """Send an error."""
        status, headers, body = openai_chat.error_body(failure, key)
        return await self.send(_JSON | headers, _each([body]), status)


async def _misbehave(wire: Wire, sender: _Sender, request: openai_chat.Request, made: Script) -> web.StreamResponse:
    """Go wrong in one of the ways below the dialect."""
    whole = openai_chat.whole_body(request, made, sender.id)
    events = tuple(openai_chat.stream_events(request, made, sender.id))
    begun = events[: 1 + request.tuning.after]
    match wire:
        case Wire.HTML:
            return await sender.send({"content-type": "text/html"}, _each([_HTML]))
        case Wire.BAD_JSON:
            return await sender.send(
                _SSE if request.stream else _JSON,
                _each([*begun, b"data: {not json\n\n"] if request.stream else [whole[:-9]]),
            )
        case Wire.TRUNCATED if request.stream:
            return await sender.send(_SSE, _each(begun))
        case Wire.RESET if request.stream:
            response = await sender.begin(_SSE)
            for event in begun:
                await sender.write(response, event)
            return _reset(sender, response)
        case Wire.TRUNCATED | Wire.RESET:
            response = await sender.begin(_JSON | {"content-length": str(len(whole))})
            await sender.write(response, whole[: len(whole) // 2])
            return _reset(sender, response)
        case Wire.ERROR_MID_STREAM:
            return await sender.send(_SSE, _each([*begun, openai_chat.error_event()]))
        case Wire.STALL:
            await asyncio.Event().wait()
        case Wire.STALL_MID_STREAM:
            response = await sender.begin(_SSE)
            for event in begun:
                await sender.write(response, event)
            await asyncio.Event().wait()
        case Wire.DRIP:
            body = b"".join(events) if request.stream else whole
            return await sender.send(_SSE if request.stream else _JSON, _each(bytes([byte]) for byte in body))
        case Wire.ENDLESS:
            event = events[0] if not made.said else events[1]
            return await sender.send(_SSE, _each(itertools.repeat(event, _CAP // len(event))))
        case Wire.HUGE_LINE:
            return await sender.send(
                _SSE, _each(itertools.chain([b"data: "], itertools.repeat(b"x" * 65536, _CAP >> 16)))
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
