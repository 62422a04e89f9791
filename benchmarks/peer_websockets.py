"""``websockets`` on uvloop: a binary echo with nothing on top, which is the least that a user of it has.

No codec, no dispatch, no deadline; compression off. Replies are matched to calls by a number in front of the payload.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from struct import Struct
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.peer import BulkStream, EchoClient, Peer, PeerArguments, peer_main

__all__ = ["WebSocketsPeer"]

NUMBER: Final = Struct("<I")
SINK: Final = 0
SINK_END: Final = 0xFFFFFFFF
MAX_BYTES: Final = 1_048_576


async def _answer(connection: ServerConnection) -> None:
    """Send each message back; those to the sink are counted."""
    sunk = 0
    async for message in connection:
        assert isinstance(message, bytes)
        (number,) = NUMBER.unpack_from(message)
        if number == SINK:
            sunk += len(message) - NUMBER.size
        elif number == SINK_END:
            await connection.send(NUMBER.pack(SINK_END) + sunk.to_bytes(8, "little"))
            sunk = 0
        else:
            await connection.send(message)


class WebSocketsClient(EchoClient):
    """One connection with a task that reads the replies."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = SINK
        self._reader = self._loop.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._connection:
            assert isinstance(message, bytes)
            waiting = self._waiting.pop(NUMBER.unpack_from(message)[0])
            if not waiting.done():
                waiting.set_result(message[NUMBER.size :])

    async def close(self) -> None:
        """End the reading task."""
        self._reader.cancel()
        await asyncio.wait({self._reader})

    async def echo(self, payload: bytes) -> bytes:
        """Send one message and wait for the one with the same number."""
        self._number = self._number + 1 if self._number < SINK_END - 1 else 1
        return await self.ask(self._number, payload)

    async def ask(self, number: int, payload: bytes) -> bytes:
        """Send under this number and wait for the answer."""
        waiting = self._waiting[number] = self._loop.create_future()
        await self._connection.send(NUMBER.pack(number) + payload)
        reply: bytes = await waiting
        return reply

    async def sink(self, chunk: bytes) -> None:
        """Send one chunk to the sink; ``websockets`` waits by itself when its buffer is full."""
        await self._connection.send(NUMBER.pack(SINK) + chunk)

    @asynccontextmanager
    async def open_bulk(self) -> AsyncIterator[BulkStream]:
        """Bulk shares the connection."""
        yield WebSocketsBulk(self)


class WebSocketsBulk(BulkStream):
    """Messages to the sink."""

    def __init__(self, client: WebSocketsClient) -> None:
        self._client = client

    async def send(self, chunk: bytes) -> None:
        """Send one chunk."""
        await self._client.sink(chunk)

    async def finish(self) -> int:
        """Ask for the count."""
        return int.from_bytes(await self._client.ask(SINK_END, b""), "little")


class WebSocketsPeer(Peer):
    """WebSocket without TLS."""

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen on a free port of loopback."""
        async with serve(_answer, "127.0.0.1", 0, compression=None, max_size=MAX_BYTES) as server:
            ready(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
            await server.serve_forever()

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[EchoClient]:
        """Open one connection."""
        async with connect(address, compression=None, max_size=MAX_BYTES, proxy=None) as connection:
            client = WebSocketsClient(connection)
            try:
                yield client
            finally:
                await client.close()


def _build(_arguments: PeerArguments) -> Peer:
    return WebSocketsPeer()


if __name__ == "__main__":
    peer_main(_build)
