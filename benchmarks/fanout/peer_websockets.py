"""websockets: ``broadcast`` of a text, the subscriber takes it from its iterator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.fanout.ends import PAYLOAD

__all__ = ["publish_to", "subscribe"]


async def publish_to(tell_address: Callable[[str], None], next_count: Callable[[], Awaitable[int]]) -> None:
    """See ``ends.Peer``."""
    connections: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        tell_address(f"ws://{host}:{port}")
        while count := await next_count():
            for _ in range(count):
                broadcast(connections, PAYLOAD)
                await asyncio.sleep(0)


async def subscribe(address: str, connections: int, on_event: Callable[[], None]) -> object:
    """See ``ends.Peer``."""

    async def read(connection: ClientConnection) -> None:
        async for _ in connection:
            on_event()

    opened = [await connect(address, compression=None) for _ in range(connections)]
    return [asyncio.ensure_future(read(connection)) for connection in opened]
