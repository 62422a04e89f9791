"""EchoStream over TCP: ``RpcServer.broadcast`` to ``client.on`` with a plain callback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.fanout.ends import PAYLOAD, TOPIC
from echostream_core import Event, RpcClient, RpcServer

__all__ = ["publish_to", "subscribe"]

URL = "tcp://127.0.0.1:0"


async def publish_to(tell_address: Callable[[str], None], next_count: Callable[[], Awaitable[int]]) -> None:
    """See ``ends.Peer``."""
    async with RpcServer(URL, drain_timeout=0) as server:
        tell_address(server.addresses[0])
        while count := await next_count():
            for _ in range(count):
                await server.broadcast(TOPIC, PAYLOAD)


async def subscribe(address: str, connections: int, on_event: Callable[[], None]) -> object:
    """See ``ends.Peer``."""

    def callback(_event: Event) -> None:
        on_event()

    clients = [await RpcClient.connect(address) for _ in range(connections)]
    for client in clients:
        await client.on("news.*", callback)
    return clients
