"""aioquic's own HTTP/3 and WebTransport, as it comes: a peer that knows nothing of us."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from aioquic.asyncio.client import connect as quic_connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve as quic_serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)

Headers = list[tuple[bytes, bytes]]


class Stock(QuicConnectionProtocol):
    """One end. What comes is kept by stream; ``on_request`` answers, at a server."""

    on_request: Callable[[Stock, int, dict[bytes, bytes]], None] | None = None
    webtransport = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http: H3Connection | None = None
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytearray] = defaultdict(bytearray)
        self.data: dict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()
        self.datagrams: list[bytes] = []
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.terminated: ConnectionTerminated | None = None
        self._changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic, enable_webtransport=self.webtransport)
        elif isinstance(event, ConnectionTerminated):
            self.terminated = event
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        if self.http is not None:
            for found in self.http.handle_event(event):
                self._take(found)
        self._changed.set()

    def _take(self, event: Any) -> None:
        if isinstance(event, HeadersReceived):
            self.headers[event.stream_id] = dict(event.headers)
            if self.on_request is not None:
                self.on_request(self, event.stream_id, dict(event.headers))
        elif isinstance(event, DataReceived):
            self.bodies[event.stream_id] += event.data
        elif isinstance(event, WebTransportStreamDataReceived):
            self.data[event.stream_id] += event.data
        elif isinstance(event, DatagramReceived):
            self.datagrams.append(event.data)
        if getattr(event, "stream_ended", False):
            self.ended.add(event.stream_id)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for events until ``condition`` holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    @property
    def h3(self) -> H3Connection:
        """HTTP/3, once the handshake is complete."""
        assert self.http is not None
        return self.http

    # What tests ask of a client

    def request(self, *lines: tuple[str, str], end: bool = True, method: str = "GET", path: str = "/") -> int:
        """Send a request; its stream."""
        stream_id = self._quic.get_next_available_stream_id()
        headers = [(":method", method), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", path), *lines]
        self.h3.send_headers(stream_id, [(name.encode(), value.encode()) for name, value in _in_order(headers)], end)
        self.transmit()
        return stream_id

    async def answer(self, stream_id: int) -> int:
        """The status of the answer."""
        await self.until(lambda: stream_id in self.headers or self.terminated)
        return int(self.headers[stream_id][b":status"])

    async def session(self, path: str = "/session", *lines: tuple[str, str]) -> int:
        """Open a session; its stream."""
        stream_id = self.request((":protocol", "webtransport"), *lines, end=False, method="CONNECT", path=path)
        assert await self.answer(stream_id) == 200
        return stream_id

    def open(self, session_id: int, data: bytes = b"") -> int:
        """Open a bidirectional WebTransport stream."""
        stream_id = self.h3.create_webtransport_stream(session_id)
        # aioquic takes the peer's half of a stream that we opened for HTTP/3 frames, unless it is told better.
        with self.h3._get_or_create_stream(stream_id) as stream:
            stream.frame_type, stream.session_id = 0x41, session_id
        self.write(stream_id, data)
        return stream_id

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes of a WebTransport stream."""
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()

    async def received(self, stream_id: int, size: int) -> bytes:
        """The first ``size`` bytes of a WebTransport stream."""
        await self.until(lambda: len(self.data[stream_id]) >= size)
        return bytes(self.data[stream_id])

    async def end(self) -> tuple[int, str]:
        """Code and reason with which the connection ended."""
        await self.until(lambda: self.terminated)
        assert self.terminated is not None
        return self.terminated.error_code, self.terminated.reason_phrase


def _in_order(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(headers, key=lambda line: not line[0].startswith(":"))


@asynccontextmanager
async def stock_client(
    address: tuple[str, int], *, alpn: str = "h3", kind: type[Stock] = Stock
) -> AsyncIterator[Stock]:
    """A client that is connected."""
    configuration = QuicConfiguration(
        alpn_protocols=[alpn], verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65_536, server_name="localhost"
    )
    async with quic_connect(*address, configuration=configuration, create_protocol=kind) as client:
        yield cast(Stock, client)


@asynccontextmanager
async def stock_server(tls: dict[str, str], kind: type[Stock], alpn: str = "h3") -> AsyncIterator[int]:
    """A server; its port."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn], max_datagram_frame_size=65_536)
    configuration.load_cert_chain(tls["certificate"], tls["private_key"])
    server = await quic_serve("127.0.0.1", 0, configuration=configuration, create_protocol=kind)
    assert server._transport is not None
    yield server._transport.get_extra_info("sockname")[1]
    server.close()
    await asyncio.sleep(0.3)  # its sockets are closed by tasks of its own
