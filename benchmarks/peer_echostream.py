"""EchoStream through its public face, as an application uses it: dispatch, codec, deadline and credit all on.

The variant is the transport; nothing else differs. On ``memory`` the server lives in the client's process.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.peer import BulkStream, EchoClient, Peer, PeerArguments, peer_main
from echostream_core import Context, RpcClient, RpcServer, Stream, handler, stream_handler

__all__ = ["CODECS", "EchoStreamPeer", "echo", "sink"]

CODECS: Final = ["msgpack"]
CALL_TIMEOUT_S: Final = 30.0
ENCRYPTED: Final = ("quic", "wt")
DEVELOPMENT_TLS: Final[dict[str, object]] = {"dev": True}


@handler("bench.echo")
async def echo(payload: object) -> object:
    """Send the payload back."""
    return payload


@stream_handler("bench.sink")
async def sink(stream: Stream, ctx: Context) -> int:
    """Count what arrives and answer with the sum."""
    total_bytes = 0
    async for chunk in stream:
        total_bytes += len(chunk)
    return total_bytes


class EchoStreamClient(EchoClient):
    """One session."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    async def echo(self, payload: bytes) -> bytes:
        """Make one call with a deadline."""
        reply = await self._client.request("bench.echo", payload, timeout=CALL_TIMEOUT_S)
        assert isinstance(reply, bytes), f"expected bytes, got {type(reply).__name__}"
        return reply

    @asynccontextmanager
    async def open_bulk(self) -> AsyncIterator[BulkStream]:
        """Open one stream to the sink."""
        async with self._client.open_stream("bench.sink") as stream:
            yield EchoStreamBulk(stream)


class EchoStreamBulk(BulkStream):
    """One stream; ``send`` waits for the reader's credit."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, chunk: bytes) -> None:
        """Send one raw chunk."""
        await self._stream.send(chunk)

    async def finish(self) -> int:
        """End our half and receive the handler's returned value."""
        await self._stream.end()
        total_bytes = await self._stream.recv()
        assert isinstance(total_bytes, int), f"expected a count, got {type(total_bytes).__name__}"
        return total_bytes


class EchoStreamPeer(Peer):
    """EchoStream on one transport."""

    def __init__(self, transport: str, workdir: Path) -> None:
        self._transport, self._workdir = transport, workdir

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen, and print the first bound URL."""
        async with self._server() as server:
            ready(server.addresses[0])
            await server.serve_forever()

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[EchoClient]:
        """Open one session; without an address the server is started here as well."""
        if not address:
            async with self._server() as server, self._client(server.addresses[0]) as client:
                yield EchoStreamClient(client)
        else:
            async with self._client(address) as client:
                yield EchoStreamClient(client)

    def _server(self) -> RpcServer:
        if self._transport in ENCRYPTED:
            return RpcServer(self._url(), echo, sink, codecs=CODECS, tls=DEVELOPMENT_TLS)
        return RpcServer(self._url(), echo, sink, codecs=CODECS)

    def _client(self, url: str) -> AbstractAsyncContextManager[RpcClient]:
        if self._transport in ENCRYPTED:
            return RpcClient.connect(url, codecs=CODECS, tls=DEVELOPMENT_TLS)
        return RpcClient.connect(url, codecs=CODECS)

    def _url(self) -> str:
        if self._transport == "memory":
            return "memory://benchmark"
        if self._transport == "unix":
            return f"unix://{self._workdir / 'echostream.sock'}"
        return f"{self._transport}://127.0.0.1:0"


def _build(arguments: PeerArguments) -> Peer:
    return EchoStreamPeer(arguments.variant, arguments.workdir)


if __name__ == "__main__":
    peer_main(_build)
