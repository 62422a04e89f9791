"""aioquic as its documentation shows it: ``serve``, ``connect`` and ``create_stream``, default settings.

A call is a stream of its own. Bulk is one stream; aioquic's ``drain`` never waits, so without a rule of ours
the sender would queue without bound. The rule: the server acknowledges every MiB, and the client keeps at
most ``AHEAD_BYTES`` unacknowledged, enough that aioquic always has data to send.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from benchmarks.certificate import write_self_signed
from benchmarks.peer import BulkStream, EchoClient, Peer, PeerArguments, peer_main

__all__ = ["AioquicStockPeer"]

ALPN: Final = ["bench"]
ECHO: Final = b"E"
SINK: Final = b"S"
ACKNOWLEDGE_EVERY_BYTES: Final = 1024 * 1024
AHEAD_BYTES: Final = 4 * 1024 * 1024
COUNT_BYTES: Final = 8


async def _serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo what follows the first byte, or count it and say so every MiB."""
    if await reader.readexactly(1) == ECHO:
        writer.write(await reader.read())
        writer.write_eof()
        return
    total_bytes, told_bytes = 0, 0
    while data := await reader.read(ACKNOWLEDGE_EVERY_BYTES):
        total_bytes += len(data)
        if total_bytes - told_bytes >= ACKNOWLEDGE_EVERY_BYTES:
            told_bytes = total_bytes
            writer.write(total_bytes.to_bytes(COUNT_BYTES, "little"))
    writer.write(total_bytes.to_bytes(COUNT_BYTES, "little"))
    writer.write_eof()


class AioquicClient(EchoClient):
    """One QUIC connection."""

    def __init__(self, connection: QuicConnectionProtocol) -> None:
        self._connection = connection

    async def echo(self, payload: bytes) -> bytes:
        """Make one call on a stream of its own."""
        reader, writer = await self._connection.create_stream()
        writer.write(ECHO + payload)
        writer.write_eof()
        return bytes(await reader.read())

    @asynccontextmanager
    async def open_bulk(self) -> AsyncIterator[BulkStream]:
        """Open one stream to the sink."""
        reader, writer = await self._connection.create_stream()
        writer.write(SINK)
        yield AioquicBulk(reader, writer)


class AioquicBulk(BulkStream):
    """One stream, held back by the server's acknowledgements."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._sent_bytes = self._acknowledged_bytes = 0

    async def send(self, chunk: bytes) -> None:
        """Write one chunk, then wait while too much is unacknowledged."""
        self._writer.write(chunk)
        await self._writer.drain()
        self._sent_bytes += len(chunk)
        while self._sent_bytes - self._acknowledged_bytes > AHEAD_BYTES:
            self._acknowledged_bytes = await self._read_count()

    async def finish(self) -> int:
        """End the stream and wait for the last count."""
        self._writer.write_eof()
        while True:
            try:
                self._acknowledged_bytes = await self._read_count()
            except asyncio.IncompleteReadError:
                return self._acknowledged_bytes

    async def _read_count(self) -> int:
        return int.from_bytes(await self._reader.readexactly(COUNT_BYTES), "little")


class AioquicStockPeer(Peer):
    """QUIC with TLS 1.3, verified against a certificate made for this run."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir

    async def serve(self, ready: Callable[[str], None]) -> None:
        """Listen on a free port of loopback."""
        configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
        configuration.load_cert_chain(*write_self_signed(self._workdir))
        handling: set[asyncio.Task[None]] = set()

        def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(_serve_stream(reader, writer))
            handling.add(task)
            task.add_done_callback(handling.discard)

        port = _free_udp_port()
        server = await serve("127.0.0.1", port, configuration=configuration, stream_handler=on_stream)
        ready(f"127.0.0.1:{port}")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[EchoClient]:
        """Open one QUIC connection."""
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=ALPN,
            server_name="localhost",
            verify_mode=ssl.CERT_REQUIRED,
            cafile=str(self._workdir / "certificate.pem"),
        )
        host, _, port = address.rpartition(":")
        async with connect(host, int(port), configuration=configuration) as connection:
            yield AioquicClient(connection)


def _free_udp_port() -> int:
    """Find a port by taking and leaving it: aioquic tells nowhere which port it bound when asked for any."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _build(arguments: PeerArguments) -> Peer:
    return AioquicStockPeer(arguments.workdir)


if __name__ == "__main__":
    peer_main(_build)
