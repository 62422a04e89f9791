"""The two processes of one measurement: ``python -m benchmarks.fanout.ends PEER publisher|subscribers …``.

The publisher's process prints where to subscribe, then publishes as many events as each line of its standard input
says. The subscribers' process connects, prints ``ready``, and prints a line each time every subscriber has had as many
events as its standard input says. Both end with their standard input.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import uvloop

__all__ = ["PAYLOAD", "TOPIC", "Peer", "lines_in"]

TOPIC = "news.flash"
PAYLOAD = "x" * 64


class Peer(Protocol):
    """What a module of this folder named ``peer_…`` has."""

    async def publish_to(self, tell_address: Callable[[str], None], next_count: Callable[[], Awaitable[int]]) -> None:
        """Serve; publish ``next_count()`` events again and again until it answers 0."""

    async def subscribe(self, address: str, connections: int, on_event: Callable[[], None]) -> object:
        """Connect so many subscribers, each on a connection of its own; the answer is kept alive."""


async def lines_in() -> asyncio.StreamReader:
    """Standard input, as a stream."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _publisher(peer: Peer) -> None:
    lines = await lines_in()

    async def next_count() -> int:
        return int(await lines.readline() or b"0")

    await peer.publish_to(lambda address: print(address, flush=True), next_count)


async def _subscribers(peer: Peer, address: str, connections: int) -> None:
    lines = await lines_in()
    received = 0
    wanted = 0
    done = asyncio.Event()

    def on_event() -> None:
        nonlocal received
        received += 1
        if received == wanted:
            done.set()

    kept = await peer.subscribe(address, connections, on_event)
    print("ready", flush=True)
    while line := await lines.readline():
        received, wanted = 0, int(line) * connections
        done.clear()
        before = time.process_time()
        print("go", flush=True)
        await done.wait()
        print(time.process_time() - before, flush=True)
    del kept


def main() -> None:
    """Run one end."""
    peer: Peer = importlib.import_module(f"benchmarks.fanout.peer_{sys.argv[1]}")
    if sys.argv[2] == "publisher":
        uvloop.run(_publisher(peer))
    else:
        uvloop.run(_subscribers(peer, sys.argv[3], int(sys.argv[4])))


if __name__ == "__main__":
    main()
