"""The ceiling: length-prefixed echo on a bare asyncio protocol, with no codec, no dispatch and no deadline.

It uses the levers that any asyncio transport has: one fixed read buffer, futures resolved inside the read
callback, small frames joined and written once per loop turn, large ones written at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from struct import Struct
from typing import Final, cast

from benchmarks.peer import BulkStream, EchoClient, Peer, PeerArguments, peer_main

__all__ = ["RawAsyncioPeer"]

HEADER: Final = Struct("<II")
"""Body length, then the call's id; two ids are set aside for bulk."""

SINK: Final = 0
SINK_END: Final = 0xFFFFFFFF
JOIN_BELOW_BYTES: Final = 8 * 1024

# One read buffer for all connections: the loop fills it and hands it over in one go, so idle ones own none.
READ_BUFFER: Final = bytearray(256 * 1024)
READ_VIEW: Final = memoryview(READ_BUFFER)


class FrameProtocol(asyncio.BufferedProtocol):
    """Reads frames in place and writes them joined."""

    def __init__(self) -> None:
        self._rest = b""
        self._small: list[bytes] = []
        self._flush_due = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's is none of asyncio's classes, so it cannot be asked what it is."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for a reply."""
        self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer the read buffer behind what is left of a frame; a frame is always shorter than the whole."""
        kept = len(self._rest)
        if kept:
            READ_VIEW[:kept] = self._rest
        return READ_VIEW[kept:]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on each whole frame, and keep the rest."""
        filled, offset, view = len(self._rest) + nbytes, 0, READ_VIEW
        unpack, header_bytes = HEADER.unpack_from, HEADER.size
        while filled - offset >= header_bytes:
            length, ident = unpack(view, offset)
            end = offset + header_bytes + length
            if end > filled:
                break
            self.frame_received(ident, view[offset + header_bytes : end])
            offset = end
        self._rest = bytes(view[offset:filled])

    def frame_received(self, ident: int, body: memoryview) -> None:
        """Act on one frame; ``body`` is valid during the call only."""
        raise NotImplementedError

    def send_frame(self, ident: int, body: bytes) -> None:
        """Write a large frame at once, a small one with its neighbours at the end of the loop turn."""
        header = HEADER.pack(len(body), ident)
        if len(body) >= JOIN_BELOW_BYTES:
            self._flush()
            self.transport.writelines([header, body])
            return
        self._small.append(header + body)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def pause_writing(self) -> None:
        """Let ``drained`` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let ``drained`` go on."""
        self._writable.set()

    async def drained(self) -> None:
        """Wait until the transport takes more."""
        if not self._writable.is_set():
            await self._writable.wait()

    def _flush(self) -> None:
        self._flush_due = False
        if self._small:
            self.transport.write(b"".join(self._small))
            self._small.clear()


class EchoServer(FrameProtocol):
    """Sends each body back, and counts what was sent to the sink."""

    def __init__(self) -> None:
        super().__init__()
        self._sink_bytes = 0

    def frame_received(self, ident: int, body: memoryview) -> None:
        """Echo, count, or tell the count."""
        if ident == SINK:
            self._sink_bytes += len(body)
        elif ident == SINK_END:
            self.send_frame(SINK_END, self._sink_bytes.to_bytes(8, "little"))
            self._sink_bytes = 0
        else:
            self.send_frame(ident, bytes(body))


class RawClient(FrameProtocol, EchoClient):
    """One connection; replies are matched to calls by id."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next_ident = 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail every call that still waits."""
        super().connection_lost(exc)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def frame_received(self, ident: int, body: memoryview) -> None:
        """Resolve the call that waits for this frame."""
        waiting = self._waiting.pop(ident)
        if not waiting.done():
            waiting.set_result(bytes(body))

    async def echo(self, payload: bytes) -> bytes:
        """Send one frame and wait for the frame of the same id."""
        ident = self._next_ident
        self._next_ident = ident + 1 if ident < SINK_END - 1 else 1
        return await self.ask(ident, payload)

    async def ask(self, ident: int, payload: bytes) -> bytes:
        """Send one frame under this id and wait for its answer."""
        waiting = self._waiting[ident] = self._loop.create_future()
        self.send_frame(ident, payload)
        reply: bytes = await waiting
        return reply

    @asynccontextmanager
    async def open_bulk(self) -> AsyncIterator[BulkStream]:
        """Bulk shares the connection; the two ids set aside mark it."""
        yield RawBulk(self)


class RawBulk(BulkStream):
    """Frames to the sink, as fast as the socket takes them."""

    def __init__(self, client: RawClient) -> None:
        self._client = client

    async def send(self, chunk: bytes) -> None:
        """Write one frame, then wait if the transport asks for it."""
        self._client.send_frame(SINK, chunk)
        await self._client.drained()

    async def finish(self) -> int:
        """Ask for the count."""
        return int.from_bytes(await self._client.ask(SINK_END, b""), "little")


class RawAsyncioPeer(Peer):
    """Bare asyncio over TCP."""

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen on a free port of loopback."""
        server = await asyncio.get_running_loop().create_server(EchoServer, "127.0.0.1", 0)
        ready(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[EchoClient]:
        """Open one TCP connection."""
        host, _, port = address.rpartition(":")
        transport, client = await asyncio.get_running_loop().create_connection(RawClient, host, int(port))
        try:
            yield client
        finally:
            transport.close()
            await client.closed


def _build(_arguments: PeerArguments) -> Peer:
    return RawAsyncioPeer()


if __name__ == "__main__":
    peer_main(_build)
