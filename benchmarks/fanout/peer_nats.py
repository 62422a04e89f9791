"""NATS: nats-server between a publisher and the subscribers, all of them nats-py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import nats

from benchmarks.fanout.ends import PAYLOAD, TOPIC

__all__ = ["publish_to", "subscribe"]


async def publish_to(tell_address: Callable[[str], None], next_count: Callable[[], Awaitable[int]]) -> None:
    """See ``ends.Peer``. The broker is a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = await asyncio.create_subprocess_exec(
        "nats-server", "-a", "127.0.0.1", "-p", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        address = f"nats://127.0.0.1:{port}"
        client = await nats.connect(address)
        tell_address(address)
        data = PAYLOAD.encode()
        while count := await next_count():
            for number in range(count):
                await client.publish(TOPIC, data)
                if number % 32 == 31:
                    await client.flush()
            await client.flush()
        await client.close()
    finally:
        broker.terminate()
        await broker.wait()


async def subscribe(address: str, connections: int, on_event: Callable[[], None]) -> object:
    """See ``ends.Peer``."""

    async def callback(_message: object) -> None:
        on_event()

    clients = [await nats.connect(address) for _ in range(connections)]
    for client in clients:
        await client.subscribe("news.*", cb=callback)
        await client.flush()
    return clients
