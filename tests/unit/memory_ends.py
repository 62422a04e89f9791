"""Two connected ends of the memory transport with users that log, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from echostream_core.builtin.memory import MemoryListener, MemoryOptions, MemoryTransport
from echostream_core.builtin.memory_connection import MemoryConnection
from echostream_core.errors import EchoStreamError
from echostream_core.transport import Connection, Pipe, Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority, Url

URL = Url.parse("memory://test")


async def settle() -> None:
    """Long enough for everything that is under way."""
    for _ in range(50):
        await asyncio.sleep(0)


class Reader(SubstreamReceiver):
    """Receives one substream."""

    def __init__(self, user: User, substream: Substream) -> None:
        self.user = user
        self.substream = substream
        self.events: list[object] = []
        self.data = bytearray()
        self.pieces: list[Buffer] = []
        self.react: Callable[[], object] = lambda: None

    def on_data(self, data: Buffer) -> None:
        self.data += data
        self.pieces.append(data)
        self.events.append("data")
        if self.user.consumes:
            self.substream.consume(len(data))
        self.react()

    def on_end(self) -> None:
        self.events.append("end")
        self.react()

    def on_reset(self, code: int) -> None:
        self.events.append(("reset", code))

    def on_stop(self, code: int) -> None:
        self.events.append(("stop", code))

    def on_writable(self) -> None:
        self.events.append("writable")
        self.react()


class User:
    """The session above one end."""

    def __init__(self, *, consumes: bool = True) -> None:
        self.consumes = consumes
        self.readers: list[Reader] = []
        self.datagrams: list[bytes] = []
        self.closed: list[EchoStreamError | None] = []
        self.on_open: Callable[[Substream], object] = lambda substream: None

    def on_substream(self, substream: Substream) -> Reader:
        reader = Reader(self, substream)
        self.readers.append(reader)
        self.on_open(substream)
        return reader

    def on_datagram(self, data: Buffer) -> None:
        self.datagrams.append(bytes(data))

    def on_closed(self, error: EchoStreamError | None) -> None:
        self.closed.append(error)


class Ends:
    """Two connected ends and their users."""

    def __init__(self, one: MemoryConnection, other: MemoryConnection, listener: MemoryListener) -> None:
        self.one, self.other, self.listener = one, other, listener
        self.user, self.peer = User(), User()

    def start(self) -> Ends:
        self.other.start(self.peer)
        self.one.start(self.user)
        return self

    def open(self, priority: Priority = Priority.NORMAL) -> tuple[Substream, Reader]:
        stream = self.one.open_substream(priority)
        reader = Reader(self.user, stream)
        stream.start(reader)
        return stream, reader

    async def opened(self, priority: Priority = Priority.NORMAL) -> tuple[Substream, Reader, Reader]:
        """An open substream, its receiver here and its receiver there."""
        stream, reader = self.open(priority)
        stream.write([b"."])
        await settle()
        there = self.peer.readers[-1]
        there.data.clear()
        there.events.clear()
        there.pieces.clear()
        return stream, reader, there


async def connect(options: MemoryOptions | None = None, peer_options: MemoryOptions | None = None) -> Ends:
    accepted: list[MemoryConnection] = []

    def accept(connection: Connection | Pipe) -> None:
        assert isinstance(connection, MemoryConnection)
        accepted.append(connection)

    transport = MemoryTransport()
    listener = await transport.listen(URL, peer_options or MemoryOptions(), accept)
    try:
        one = await transport.dial(URL, options or MemoryOptions())
    finally:
        await listener.close()
    return Ends(one, accepted[0], listener)
