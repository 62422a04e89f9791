"""grpc.aio on uvloop: generic handlers, no protobuf, payloads as they are.

This is the cheapest form of gRPC in Python: no message class is built or parsed. It is the baseline of all
ratios.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from benchmarks.peer import BulkStream, EchoClient, Peer, PeerArguments, peer_main

__all__ = ["GrpcAioPeer"]

SERVICE: Final = "bench.Bench"

# Without the first option all channels of one process would share a single connection.
CHANNEL_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


async def _echo(payload: bytes, _context: object) -> bytes:
    return payload


async def _sink(chunks: AsyncIterator[bytes], _context: object) -> bytes:
    total_bytes = 0
    async for chunk in chunks:
        total_bytes += len(chunk)
    return total_bytes.to_bytes(8, "little")


class GrpcClient(EchoClient):
    """One channel, which is one connection."""

    def __init__(self, channel: Any) -> None:
        self._unary = channel.unary_unary(f"/{SERVICE}/Echo")
        self._sink = channel.stream_unary(f"/{SERVICE}/Sink")

    async def echo(self, payload: bytes) -> bytes:
        """Make one unary call with a deadline, as users should."""
        reply: bytes = await self._unary(payload, timeout=30.0)
        return reply

    @asynccontextmanager
    async def open_bulk(self) -> AsyncIterator[BulkStream]:
        """Open one client-streaming call."""
        yield GrpcBulk(self._sink())


class GrpcBulk(BulkStream):
    """A client-streaming call; ``write`` waits for gRPC's flow control."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, chunk: bytes) -> None:
        """Write one message."""
        await self._call.write(chunk)

    async def finish(self) -> int:
        """Half-close and read the one reply."""
        await self._call.done_writing()
        return int.from_bytes(await self._call, "little")


class GrpcAioPeer(Peer):
    """gRPC over plaintext HTTP/2 on TCP."""

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen on a free port of loopback."""
        server = grpc.aio.server()
        methods = {
            "Echo": grpc.unary_unary_rpc_method_handler(_echo),
            "Sink": grpc.stream_unary_rpc_method_handler(_sink),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ready(f"127.0.0.1:{port}")
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(grace=None)

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[EchoClient]:
        """Open one channel and wait until it is connected."""
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            await channel.channel_ready()
            yield GrpcClient(channel)


def _build(_arguments: PeerArguments) -> Peer:
    return GrpcAioPeer()


if __name__ == "__main__":
    peer_main(_build)
