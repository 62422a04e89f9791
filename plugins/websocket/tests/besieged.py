"""A server that serves an honest client before, during and after an attack, and attackers with plain sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from echostream_core import ConnectFailed, ConnectionLost, RpcClient, RpcServer, handler
from echostream_core.types import Url
from plugins.websocket.tests.peers import UPGRADE, frame
from tests.support.waiting import other_tasks, until

__all__ = [
    "ANY",
    "FRIENDLY",
    "Attacker",
    "Relay",
    "attack",
    "besieged",
    "connect_many",
    "ended",
    "gets_through",
    "many_descriptors",
    "masked",
    "request",
    "resident_bytes",
]

ANY = "ws://127.0.0.1:0"
FRIENDLY = {"ws": {"proxy": "none"}, "wss": {"proxy": "none"}}


@handler("echo")
async def echo(value: object) -> object:
    """What it was given."""
    return value


@asynccontextmanager
async def besieged(
    url: str = ANY,
    *,
    tls: Mapping[str, object] | None = None,
    limits: Mapping[str, float] | None = None,
    **options: object,
) -> AsyncIterator[RpcServer]:
    """A server. In the end it still answers, and of what came meanwhile nothing is left: descriptors, tasks, sessions.

    ``options`` are those of the listener's transport.
    """
    transport = {url.partition(":")[0]: options}
    await warm_up()
    before = descriptors()
    server = RpcServer(url, echo, tls=tls, transport=transport, limits=limits, drain_timeout=0)
    async with (
        server,
        RpcClient.connect(server.addresses[0], tls=tls, transport=FRIENDLY, reconnect=False) as honest,
    ):
        assert await honest.request("echo", 1) == 1
        await until(lambda: len(server.sessions) == 1)
        quiet, tasks = descriptors(), len(other_tasks())
        yield server
        assert await honest.request("echo", 2) == 2
        await gets_through(server, tls=tls)
        await until(lambda: len(server._sessions) == 1)
        await until(lambda: descriptors() == quiet)
        await until(lambda: len(other_tasks()) == tasks)
    await until(lambda: descriptors() == before)
    await until(lambda: not other_tasks())


async def warm_up() -> None:
    """Let the event loop open what it keeps for itself."""
    async with RpcServer(ANY, echo, drain_timeout=0) as server:
        await gets_through(server)
    await until(lambda: not other_tasks())


async def gets_through(server: RpcServer, *, tls: Mapping[str, object] | None = None) -> int:
    """A new honest client is served, at the latest when the attackers' time is over; how often it was turned away."""
    refused = 0
    async with asyncio.timeout(20):
        while True:
            try:
                async with RpcClient.connect(server.addresses[0], tls=tls, transport=FRIENDLY, reconnect=False) as late:
                    assert await late.request("echo", 3) == 3
                return refused
            except (ConnectFailed, ConnectionLost):
                refused += 1
                await asyncio.sleep(0.02)


class Attacker:
    """One plain connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes, right or wrong."""
        self.writer.write(data)

    async def pour(self, data: bytes) -> None:
        """Send much, as far as somebody takes it."""
        with suppress(OSError):
            for position in range(0, len(data), 65_536):
                self.writer.write(data[position : position + 65_536])
                await self.writer.drain()

    async def upgrade(self, **headers: str) -> str:
        """Become a WebSocket: the head of the answer."""
        self.send(request({**UPGRADE, **headers}))
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        assert head.startswith("HTTP/1.1 101 "), head
        return head

    async def heard(self) -> bytes:
        """Everything up to the end of the connection."""
        data = bytearray()
        with suppress(OSError):
            async with asyncio.timeout(20):
                while piece := await self.reader.read(65_536):
                    data += piece
        return bytes(data)

    async def closed_with(self) -> tuple[int | None, bytes]:
        """The code and reason of the server's close frame, the last thing that it says; None: it just went."""
        data = await self.heard()
        frames = list(frames_of(data))
        if not frames or frames[-1][0] != 0x88:
            return None, b""
        payload = frames[-1][1]
        return struct.unpack("!H", payload[:2])[0] if payload else 1_005, payload[2:]

    def cut(self) -> None:
        """Hang up without a word: the other side sees a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Hang up, if that has not happened yet."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def frames_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The frames of a server: first byte and payload."""
    position = 0
    while position < len(data):
        first, length = data[position], data[position + 1]
        position += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        yield first, data[position : position + length]
        position += length


@asynccontextmanager
async def attack(server: RpcServer, **keywords: Any) -> AsyncIterator[Attacker]:
    """One attacker; ``keywords`` as for ``asyncio.open_connection``."""
    url = Url.parse(server.addresses[0])
    attacker = Attacker(*await asyncio.open_connection(url.host, url.port, **keywords))
    try:
        yield attacker
    finally:
        await attacker.close()


class Relay:
    """Passes one connection on to ``target``, byte by byte the same, and keeps what passed in each direction."""

    def __init__(self, target: str, *, cut_down_after: int | None = None) -> None:
        """After so many bytes from the server both ends are cut off."""
        self.up = bytearray()
        self.down = bytearray()
        self.address = ""
        self._target = Url.parse(target)
        self._cut_after = cut_down_after
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._tasks.add(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)

        async def up() -> None:
            while data := await reader.read(65_536):
                self.up += data
                far_writer.write(data)
            far_writer.write_eof()

        async def down() -> None:
            while data := await far_reader.read(65_536):
                if self._cut_after is not None:
                    data = data[: self._cut_after - len(self.down)]
                self.down += data
                writer.write(data)
                if len(self.down) == self._cut_after:
                    return

        if self._cut_after == 0:
            for each in (writer, far_writer):
                each.transport.abort()
            return
        upwards = asyncio.ensure_future(up())
        try:
            with suppress(OSError):
                await down()
        finally:
            upwards.cancel()
            await asyncio.wait([upwards])
            for each in (writer, far_writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


def request(headers: Mapping[str, str], line: str = "GET / HTTP/1.1") -> bytes:
    """A request's head."""
    lines = [line, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@asynccontextmanager
async def connect_many(
    server: RpcServer, number: int, *, sources: int = 1, first: bytes = b""
) -> AsyncIterator[list[socket.socket]]:
    """``number`` sockets from 127.0.0.2 and further ``sources``, each of which has sent ``first``."""
    url = Url.parse(server.addresses[0])
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for index in range(number):
            sock = socket.socket()
            sockets.append(sock)
            sock.setblocking(False)
            sock.bind((f"127.0.0.{2 + index % sources}", 0))
            await loop.sock_connect(sock, (url.host, url.port))
            if first:
                with suppress(OSError):
                    sock.send(first)
            if index % 50 == 0:
                await asyncio.sleep(0)
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def ended(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection; what it sent before is read and dropped."""
    try:
        while data := sock.recv(65_536):
            assert data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@contextmanager
def many_descriptors(number: int = 8_192) -> Iterator[None]:
    """Let this process open ``number`` files, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def masked(first: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """A client's frame."""
    return frame(first, payload, mask=b"\x0a\x0b\x0c\x0d", length=length)
