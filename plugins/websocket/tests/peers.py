"""How to listen and dial, raw peers that speak as much of HTTP and WebSocket as a test wants, and their answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import cast

from echostream_core.options import convert_options
from echostream_core.transport import Connection, Listener, Pipe
from echostream_core.types import Url
from echostream_websocket import echostream_transports
from plugins.tcp.tests.recording import Ends, Recorder

SPECS = {spec.scheme: spec for spec in echostream_transports()}
ANY = "ws://127.0.0.1:0"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The key of RFC 6455 section 1.3, and what a server answers to it."""

UPGRADE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "echostream.v1",
}


async def listen(
    stack: AsyncExitStack,
    url: str = ANY,
    accept: Callable[[Recorder], None] | None = None,
    **options: object,
) -> Listener:
    """A listener that is closed with ``stack``; ``accept`` gets each accepted end, started."""
    spec = SPECS[url.partition(":")[0]]
    recorders: list[Recorder] = []

    def accepted(pipe: Connection | Pipe) -> None:
        recorder = Recorder(pipe).start()
        recorders.append(recorder)
        if accept is not None:
            accept(recorder)

    listener = await spec.factory().listen(
        Url.parse(url), convert_options(spec.options, options, key="transport"), accepted
    )

    async def end() -> None:
        await listener.close()
        await gone(*recorders)
        for recorder in recorders:
            recorder.check_rules()

    stack.push_async_callback(end)
    return listener


async def dial(url: str, **options: object) -> Pipe:
    """Dial with ``options`` as they would stand in a file."""
    spec = SPECS[url.partition(":")[0]]
    settings = convert_options(spec.options, options, key="transport")
    return cast("Pipe", await spec.factory().dial(Url.parse(url), settings))


async def gone(*recorders: Recorder) -> None:
    """Abort, and await the end."""
    for recorder in recorders:
        recorder.abort()
    for recorder in recorders:
        await recorder.ended()


async def connect(stack: AsyncExitStack, url: str = ANY, **options: object) -> Ends:
    """Two ends: near dialled, far was accepted; aborted with ``stack`` if need be."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    def accept(recorder: Recorder) -> None:
        if not accepted.done():
            accepted.set_result(recorder)

    listener = await listen(stack, url, accept, **options)
    near = Recorder(await dial(listener.addresses[0], **options)).start()
    stack.push_async_callback(gone, near)
    return Ends(near, await accepted, listener, Url.parse(listener.addresses[0]))


@dataclass
class Response:
    """What an HTTP server said."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Raw:
    """A socket's two streams, and helpers that know frames but no rules."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    mask: bytes = field(default_factory=lambda: b"\x0a\x0b\x0c\x0d")

    async def ask(self, headers: dict[str, str] | None = None, line: str = "GET / HTTP/1.1") -> Response:
        """Send a request, and read the answer."""
        lines = [line, *(f"{name}: {value}" for name, value in (UPGRADE if headers is None else headers).items())]
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        return await self.answer(without_body=line.startswith("HEAD"))

    async def answer(self, *, without_body: bool = False) -> Response:
        """Read an answer; one that is no 101 is read to the end of the connection."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        response = Response(int(first.split()[1]), headers)
        if response.status != 101:
            response.body = await self.reader.read()
            expected = 0 if without_body else int(headers.get("content-length", 0))
            assert len(response.body) == expected
        return response

    def send(self, first: int, payload: bytes = b"", *, masked: bool = True, length: int | None = None) -> None:
        """Send a frame: its first byte, and a payload; ``length`` lies about it."""
        self.writer.write(frame(first, payload, mask=self.mask if masked else b"", length=length))

    async def frame(self) -> tuple[int, bytes]:
        """Read an unmasked frame: its first byte, and the payload."""
        first, second = await self.reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        mask = await self.reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
        payload = await self.reader.readexactly(length)
        return first, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))

    async def closed(self) -> tuple[int, bytes]:
        """Read up to a close frame: its code and reason."""
        while True:
            first, payload = await self.frame()
            if first == 0x88:
                return int.from_bytes(payload[:2], "big"), payload[2:]

    async def over(self) -> bytes:
        """Read to the end, and hang up too, as every client does but those of some tests; what was still read."""
        rest = await self.reader.read()
        self.writer.close()
        return rest

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass  # it was reset, as some tests want it


def frame(first: int, payload: bytes = b"", *, mask: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of one frame, right or wrong."""
    size = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + mask + payload


async def raw(stack: AsyncExitStack, address: str) -> Raw:
    """A plain connection to the host and port of ``address``."""
    url = Url.parse(address)
    peer = Raw(*await asyncio.open_connection(url.host, url.port))
    stack.push_async_callback(peer.close)
    return peer


async def upgraded(stack: AsyncExitStack, listener: Listener) -> Raw:
    """A raw client whose handshake is done."""
    peer = await raw(stack, listener.addresses[0])
    path = Url.parse(listener.addresses[0]).path or "/"
    assert (await peer.ask(line=f"GET {path} HTTP/1.1")).status == 101
    return peer


async def serve_raw(stack: AsyncExitStack, serve: Callable[[Raw], Awaitable[None]]) -> str:
    """A server that does what ``serve`` does with each connection, then closes it; its address as ``ws://``."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Raw(reader, writer)
        try:
            await serve(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side has gone
        finally:
            await peer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)

    async def end() -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stack.push_async_callback(end)
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def accept_upgrade(peer: Raw, **headers: str) -> str:
    """Be a WebSocket server as far as the handshake goes; returns the request's head."""
    head = (await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    peer.writer.write(answer_to(head, **headers))
    return head


def answer_to(head: str, **headers: str) -> bytes:
    """The 101 that a WebSocket server answers the request's ``head`` with; ``headers`` are in place of the right."""
    key = next(line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    sent = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
        "Sec-WebSocket-Protocol": "echostream.v1",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in sent.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def payload_of(size: int) -> bytes:
    """Bytes in which every place can be told from its neighbours."""
    return (os.urandom(251) * (size // 251 + 1))[:size]
