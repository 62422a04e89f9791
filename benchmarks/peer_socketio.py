"""python-socketio: calls with acknowledgements, an ASGI server (uvicorn), its own client over WebSocket.

``call`` is what it offers for request and response: an event whose handler's return value comes back.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import socketio
import uvicorn

from benchmarks.peer import BulkStream, EchoClient, Peer, PeerArguments, peer_main

__all__ = ["SocketioPeer"]

TIMEOUT_S: Final = 30


class SocketioClient(EchoClient):
    """One connection."""

    def __init__(self, client: socketio.AsyncClient) -> None:
        self._client = client

    async def echo(self, payload: bytes) -> bytes:
        """Make one call with a timeout."""
        answer = await self._client.call("echo", payload, timeout=TIMEOUT_S)
        assert isinstance(answer, bytes), f"expected bytes, got {type(answer).__name__}"
        return answer

    @asynccontextmanager
    async def open_bulk(self) -> AsyncIterator[BulkStream]:
        """Bulk shares the connection."""
        yield SocketioBulk(self._client)


class SocketioBulk(BulkStream):
    """Events to the sink, each awaited: ``emit`` alone has no back-pressure."""

    def __init__(self, client: socketio.AsyncClient) -> None:
        self._client = client

    async def send(self, chunk: bytes) -> None:
        """Send one chunk and wait for its acknowledgement."""
        await self._client.call("sink", chunk, timeout=TIMEOUT_S)

    async def finish(self) -> int:
        """Ask for the count."""
        return int(await self._client.call("count", timeout=TIMEOUT_S))


class SocketioPeer(Peer):
    """Socket.IO over WebSocket without TLS."""

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen on a free port of loopback."""
        server = socketio.AsyncServer(async_mode="asgi")
        sunk: dict[str, int] = {}

        async def echo(_sid: str, payload: bytes) -> bytes:
            return payload

        async def sink(sid: str, chunk: bytes) -> None:
            sunk[sid] = sunk.get(sid, 0) + len(chunk)

        async def count(sid: str, *_: object) -> int:
            return sunk.pop(sid, 0)

        server.on("echo", echo)
        server.on("sink", sink)
        server.on("count", count)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        web = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(server), log_level="error"))
        serving = asyncio.ensure_future(web.serve(sockets=[sock]))
        try:
            while not web.started:
                await asyncio.sleep(0.01)
            ready(f"http://127.0.0.1:{sock.getsockname()[1]}")
            await serving
        finally:
            web.should_exit = web.force_exit = True
            await asyncio.wait({serving})

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[EchoClient]:
        """Open one connection, WebSocket from the beginning."""
        client = socketio.AsyncClient(reconnection=False)
        await client.connect(address, transports=["websocket"])
        try:
            yield SocketioClient(client)
        finally:
            await client.disconnect()


def _build(_arguments: PeerArguments) -> Peer:
    return SocketioPeer()


if __name__ == "__main__":
    peer_main(_build)
