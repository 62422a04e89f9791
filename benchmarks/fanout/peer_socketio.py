"""python-socketio: ``emit`` to all from an ASGI server (uvicorn), its own client with the WebSocket transport."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import socketio
import uvicorn

from benchmarks.fanout.ends import PAYLOAD

__all__ = ["publish_to", "subscribe"]


async def publish_to(tell_address: Callable[[str], None], next_count: Callable[[], Awaitable[int]]) -> None:
    """See ``ends.Peer``."""
    server = socketio.AsyncServer(async_mode="asgi")
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(server), log_level="error"))
    serving = asyncio.ensure_future(web.serve(sockets=[sock]))
    while not web.started:
        await asyncio.sleep(0.01)
    tell_address(f"http://127.0.0.1:{sock.getsockname()[1]}")
    while count := await next_count():
        for _ in range(count):
            await server.emit("news", PAYLOAD)
            await asyncio.sleep(0)
    web.should_exit = web.force_exit = True
    await serving


async def subscribe(address: str, connections: int, on_event: Callable[[], None]) -> object:
    """See ``ends.Peer``."""
    clients = []
    for _ in range(connections):
        client = socketio.AsyncClient(reconnection=False)

        async def callback(_payload: object) -> None:
            on_event()

        client.on("news", callback)
        await client.connect(address, transports=["websocket"])
        clients.append(client)
    return clients
