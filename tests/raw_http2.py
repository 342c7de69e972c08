"""A client that speaks HTTP/2 as it likes, for tests of what no gRPC library would do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import h2.config
import h2.connection
import h2.events
import h2.settings

__all__ = ["RawPeer", "frame", "framed", "raw_peer"]


def frame(kind: int, flags: int, stream: int, payload: bytes, *, claims: int | None = None) -> bytes:
    """Return one frame, whose header may claim another length than it has."""
    length = len(payload) if claims is None else claims
    return length.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def framed(message: bytes, *, compressed: bool = False, claims: int | None = None) -> bytes:
    """Return a message with gRPC's prefix, which may claim another length than it has."""
    length = len(message) if claims is None else claims
    return bytes([compressed]) + length.to_bytes(4) + message


class RawPeer:
    """One connection. What the server says is read all the time, but no window is opened for it unless told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int | None) -> None:
        self.writer = writer
        self._reader = reader
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.headers: dict[int, dict[str, str]] = {}
        """All headers and trailers of each stream."""
        self.data: dict[int, int] = {}
        """Bytes that came on each stream."""
        self.over: set[int] = set()
        """Streams that the server ended or reset."""
        self.goaway: int | None = None
        """Error code with which the server ended the connection."""
        self.closed = False
        self._changed = asyncio.Event()

    async def read(self) -> None:
        """Take what comes until the connection ends."""
        try:
            while data := await self._reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._note(event)
                self.flush()
                self._notify()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        self.closed = True
        self._notify()

    def _note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self.headers.setdefault(event.stream_id, {}).update(event.headers)
            case h2.events.DataReceived():
                self.data[event.stream_id] = self.data.get(event.stream_id, 0) + len(event.data)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                self.over.add(event.stream_id)
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def flush(self) -> None:
        """Send what the protocol has to say."""
        if not self.writer.is_closing():
            self.writer.write(self.h2.data_to_send())

    def call(self, path: str, *fields: tuple[str, str], end: bool = False, **pseudo: str) -> int:
        """Open a stream with its headers; return its number."""
        stream = self.h2.get_next_available_stream_id()
        first = {"method": "POST", "scheme": "http", "path": path, "authority": "localhost"} | pseudo
        usual = {"te": "trailers", "content-type": "application/grpc"} | dict(fields)
        headers = [*((f":{name}", value) for name, value in first.items()), *usual.items()]
        self.h2.send_headers(stream, headers, end_stream=end)
        self.flush()
        return stream

    async def send(self, stream: int, data: bytes, *, end: bool = True) -> None:
        """Send the body of a call, or a part of it, as the server's window allows."""
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if not room:
                await self.until(
                    lambda: stream in self.over or bool(self.h2.local_flow_control_window(stream)), seconds=20
                )
            if stream in self.over or self.closed:
                return
            self.h2.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
            await self.writer.drain()
        if end:
            self.h2.end_stream(stream)
            self.flush()

    async def until(self, condition: object, seconds: float = 10.0) -> None:
        """Wait until *condition* holds."""
        assert callable(condition)
        async with asyncio.timeout(seconds):
            while not condition():
                await self._changed.wait()

    async def status(self, stream: int, seconds: float = 10.0) -> tuple[int, str]:
        """Wait for the end of a stream and return gRPC's status and message; -1 where there is none."""
        await self.until(lambda: stream in self.over or self.closed, seconds)
        headers = self.headers.get(stream, {})
        return int(headers.get("grpc-status", -1)), headers.get("grpc-message", "")


@contextlib.asynccontextmanager
async def raw_peer(address: str, *, window: int | None = None) -> AsyncIterator[RawPeer]:
    """Connect; *window* is what the server may send on each stream before it is told to go on."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    peer = RawPeer(reader, writer, window)
    peer.flush()
    reading = asyncio.ensure_future(peer.read())
    try:
        yield peer
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
