"""The contract between a peer and the harness, and the command line that every peer module shares.

A peer is one way of carrying bytes. ``python -m benchmarks.peer_NAME … server`` serves it until its standard
input ends or it is terminated; ``… client`` measures one row against that server. Each prints one line of
JSON: the server its address once it listens, the client its figures. The load (``load.py``) is the same for
all peers.
"""

import argparse
import asyncio
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import ROWS

__all__ = ["BulkStream", "EchoClient", "Peer", "PeerArguments", "peer_main", "run_on_uvloop"]


class BulkStream(ABC):
    """One-way bulk to the server; the peer's own back-pressure decides how far ``send`` runs ahead."""

    @abstractmethod
    async def send(self, chunk: bytes) -> None:
        """Hand over one chunk, waiting as long as the peer asks for."""

    @abstractmethod
    async def finish(self) -> int:
        """End the stream and return how many bytes the server counted."""


class EchoClient(ABC):
    """One connection to the server."""

    @abstractmethod
    async def echo(self, payload: bytes) -> bytes:
        """Make one call and return what the server sent back."""

    @abstractmethod
    def open_bulk(self) -> AbstractAsyncContextManager[BulkStream]:
        """Open one bulk stream on this connection."""


class Peer(ABC):
    """A library under measurement, both ends of it."""

    @abstractmethod
    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen on loopback, call ``ready(address)``, then serve until cancelled."""

    @abstractmethod
    def connect(self, address: str) -> AbstractAsyncContextManager[EchoClient]:
        """Open one connection to what ``ready`` named."""


@dataclass(frozen=True, slots=True)
class PeerArguments:
    """What a peer may need: a folder for sockets and certificates, and which variant of itself to be."""

    workdir: Path
    variant: str


def peer_main(build: Callable[[PeerArguments], Peer]) -> None:
    """Run one end of a peer as this process's command line says."""
    parser = argparse.ArgumentParser(description="one end of a benchmark peer; benchmarks.run starts both")
    parser.add_argument("--workdir", type=Path, required=True, help="folder for sockets and certificates")
    parser.add_argument("--variant", default="", help="which variant of the peer, a transport for instance")
    ends = parser.add_subparsers(dest="end", required=True)
    ends.add_parser("server", help="serve until standard input ends")
    client = ends.add_parser("client", help="measure one row and print its figures")
    client.add_argument("--address", default="", help="what the server printed; empty when it is in this process")
    client.add_argument("--server-pid", type=int, default=0, help="the server's process, whose cost is read too")
    client.add_argument("--row", choices=sorted(ROWS), required=True)
    client.add_argument("--seconds", type=float, default=2.0)
    client.add_argument("--warmup", type=float, default=0.5)
    client.add_argument("--connections", type=int, default=1000, help="how many, for the row 'idle'")
    arguments = parser.parse_args()
    peer = build(PeerArguments(arguments.workdir, arguments.variant))
    if arguments.end == "server":
        run_on_uvloop(_serve(peer))
    else:
        run_on_uvloop(_measure(peer, arguments))


def run_on_uvloop(main: Coroutine[object, object, None]) -> None:
    """Run ``main`` on a fresh uvloop, on every Python from 3.11 on."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def _serve(peer: Peer) -> None:
    """Serve until standard input ends, so that a server never outlives a harness that was killed."""
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(peer.serve(_announce))

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            serving.cancel()

    loop.add_reader(sys.stdin.fileno(), on_input)
    await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()


def _announce(address: str) -> None:
    print(json.dumps({"address": address}), flush=True)


async def _measure(peer: Peer, arguments: argparse.Namespace) -> None:
    from benchmarks.load import Window, measure  # the server has no use for it, and its memory is measured

    window = Window(
        warmup_s=arguments.warmup,
        seconds=arguments.seconds,
        connections=arguments.connections,
        server_pid=arguments.server_pid or None,
    )
    try:
        await measure(peer, arguments.address, ROWS[arguments.row], window, _report)
    except ExceptionGroup as group:
        raise _first_error(group) from group


def _first_error(group: ExceptionGroup[Exception]) -> Exception:
    """Of 64 callers that failed alike, the first: the harness shows the last line of what is printed."""
    first = group.exceptions[0]
    return _first_error(first) if isinstance(first, ExceptionGroup) else first


def _report(figures: dict[str, float]) -> None:
    print(json.dumps(figures), flush=True)
