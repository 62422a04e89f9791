"""A listener without any session above it: the transport alone, as a browser's page meets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from echostream_core import EchoStreamError, Kernel, Url
from echostream_core.transport import Connection, Pipe, Substream
from echostream_core.types import Buffer, Priority

__all__ = ["Endpoint", "Peer", "PipePeer", "Stream", "listening"]

PATIENCE_S = 15.0


class Awaited:
    """Something that happens by callbacks, and that a test waits for."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def happened(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for callbacks until ``condition`` holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Stream(Awaited):
    """One substream: what came is kept, and sent back while ``echoes`` is set."""

    def __init__(self, substream: Substream, *, echoes: bool = False, reads: bool = True) -> None:
        super().__init__()
        self.substream = substream
        self.echoes = echoes
        self.reads = reads
        self.data = bytearray()
        self.ended = False
        self.reset_code: int | None = None
        self.stop_code: int | None = None

    def on_data(self, data: Buffer) -> None:
        self.data += data
        if self.reads:
            self.substream.consume(len(data))
        if self.echoes:
            self.substream.write([bytes(data)])
        self.happened()

    def on_end(self) -> None:
        self.ended = True
        if self.echoes:
            self.substream.write([], end=True)
        self.happened()

    def on_reset(self, code: int) -> None:
        self.reset_code = code
        self.happened()

    def on_stop(self, code: int) -> None:
        self.stop_code = code
        self.substream.reset(code)
        self.happened()

    def on_writable(self) -> None:
        """Nothing waits: what is written here is short, or an echo of what credit has let in."""

    async def until_ended(self) -> bytes:
        """All that came."""
        await self.until(lambda: self.ended)
        return bytes(self.data)


class Peer(Awaited):
    """One browser's connection."""

    def __init__(self, connection: Connection, *, echoes: bool, reads: bool) -> None:
        super().__init__()
        self.connection = connection
        self.echoes = echoes
        self.reads = reads
        self.streams: list[Stream] = []
        self.datagrams: list[bytes] = []
        self.closed: list[EchoStreamError | None] = []
        connection.start(self)

    def on_substream(self, substream: Substream) -> Stream:
        stream = Stream(substream, echoes=self.echoes, reads=self.reads)
        self.streams.append(stream)
        self.happened()
        return stream

    def on_datagram(self, data: Buffer) -> None:
        self.datagrams.append(bytes(data))
        if self.echoes:
            self.connection.send_datagram([bytes(data)])
        self.happened()

    def on_closed(self, error: EchoStreamError | None) -> None:
        self.closed.append(error)
        self.happened()

    def open(self, *, echoes: bool = False) -> Stream:
        """A substream of ours."""
        stream = Stream(self.connection.open_substream(Priority.NORMAL), echoes=echoes)
        stream.substream.start(stream)
        return stream

    async def stream(self, number: int = 0) -> Stream:
        """The one that the page opened as the ``number``-th, from 0."""
        await self.until(lambda: len(self.streams) > number)
        return self.streams[number]

    async def end(self) -> EchoStreamError | None:
        """Wait until the connection is over; why."""
        await self.until(lambda: self.closed)
        assert len(self.closed) == 1
        return self.closed[0]


class PipePeer(Awaited):
    """One browser's connection over a transport that gives one pipe."""

    def __init__(self, pipe: Pipe, *, echoes: bool) -> None:
        super().__init__()
        self.pipe = pipe
        self.echoes = echoes
        self.data = bytearray()
        self.closed: list[EchoStreamError | None] = []
        pipe.start(self)

    def on_data(self, data: Buffer) -> None:
        self.data += data
        if self.echoes:
            self.pipe.write([bytes(data)])
        self.happened()

    def on_writable(self) -> None:
        """Nothing waits: what is written is an echo."""

    def on_closed(self, error: EchoStreamError | None) -> None:
        self.closed.append(error)
        self.happened()

    async def end(self) -> EchoStreamError | None:
        """Wait until the pipe is gone; why."""
        await self.until(lambda: self.closed)
        assert len(self.closed) == 1
        return self.closed[0]


@dataclass
class Endpoint(Awaited):
    """A listening transport, and the browsers that came: as ``peers``, or as ``pipes`` where there is one pipe each."""

    url: str = ""
    peers: list[Peer] = field(default_factory=list)
    pipes: list[PipePeer] = field(default_factory=list)

    def __post_init__(self) -> None:
        """The dataclass has no other constructor to call."""
        super().__init__()

    async def pipe(self, number: int = 0) -> PipePeer:
        """The browser that came as the ``number``-th, from 0."""
        await self.until(lambda: len(self.pipes) > number)
        return self.pipes[number]

    async def peer(self, number: int = 0) -> Peer:
        """The browser that came as the ``number``-th, from 0."""
        await self.until(lambda: len(self.peers) > number)
        return self.peers[number]


@asynccontextmanager
async def listening(
    url: str, options: dict[str, object], *, echoes: bool = False, reads: bool = True
) -> AsyncIterator[Endpoint]:
    """Listen on ``url`` with the transport's ``options``; at the end everything is closed, and must have ended."""
    parsed = Url.parse(url)
    spec = Kernel().transport(parsed.scheme)
    endpoint = Endpoint()

    def accept(connection: Connection | Pipe) -> None:
        if isinstance(connection, Pipe):
            endpoint.pipes.append(PipePeer(connection, echoes=echoes))
        else:
            endpoint.peers.append(Peer(connection, echoes=echoes, reads=reads))
        endpoint.happened()

    listener = await spec.factory().listen(parsed, msgspec.convert(options, spec.options), accept)
    endpoint.url = listener.addresses[0]
    try:
        yield endpoint
    finally:
        await listener.close()
        for peer in endpoint.peers:
            peer.connection.abort()
        for pipe in endpoint.pipes:
            pipe.pipe.abort()
        for end in [*(peer.end() for peer in endpoint.peers), *(pipe.end() for pipe in endpoint.pipes)]:
            await end
