"""A QUIC client that writes whatever it is told on HTTP/3's streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pylsqpack
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from echostream_quic.frames import varint
from echostream_webtransport.records import record
from echostream_webtransport.settings import encode_settings, local_settings

SETTINGS = varint(0) + record(4, encode_settings(local_settings(16_384)))
"""What a control stream begins with."""


def headers(*lines: tuple[str, str]) -> bytes:
    """A HEADERS frame."""
    found = [(name.encode(), value.encode()) for name, value in lines]
    return record(1, pylsqpack.Encoder().encode(0, found)[1])


CONNECT = headers(
    (":method", "CONNECT"),
    (":protocol", "webtransport"),
    (":scheme", "https"),
    (":authority", "127.0.0.1"),
    (":path", "/session"),
)


class Raw(QuicConnectionProtocol):
    """Writes bytes, and remembers what comes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.data: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.terminated: ConnectionTerminated | None = None
        self._changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        elif isinstance(event, ConnectionTerminated):
            self.terminated = event
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()

    def open(self, data: bytes = b"", *, one_way: bool = False, end: bool = False) -> int:
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=one_way)
        self.write(stream_id, data, end=end)
        return stream_id

    async def end(self) -> int:
        """The code with which the connection ended."""
        await self.until(lambda: self.terminated)
        assert self.terminated is not None
        return self.terminated.error_code


@asynccontextmanager
async def raw_client(address: tuple[str, int]) -> AsyncIterator[Raw]:
    """A client that is connected and has sent nothing."""
    configuration = QuicConfiguration(
        alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65_536, server_name="localhost"
    )
    async with connect(*address, configuration=configuration, create_protocol=Raw) as client:
        yield cast(Raw, client)
