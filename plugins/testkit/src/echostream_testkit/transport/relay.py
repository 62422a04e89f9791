"""A path between the two ends that a check can look at, hold up, and cut.

``up`` is from the dialer to the listener, ``down`` the other way.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from echostream_core.types import Url

__all__ = ["Direction", "Relay", "StreamRelay", "UdpRelay"]

Direction = Literal["up", "down"]

_READ_BYTES: Final = 16_384
_SOCKET_BUFFER_BYTES: Final = 32_768
"""Little may hide in the relay: what waits is to wait at the sender."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_numbers: Final = itertools.count(1)


class Relay(ABC):
    """Passes on what comes, and keeps a record of it while ``records`` is set."""

    folder: Path
    """Where a Unix socket may be made."""

    def __init__(self) -> None:
        self.records = True
        self.address = ""
        """The URL to dial, once it is started."""
        self.seen: dict[Direction, bytearray] = {"up": bytearray(), "down": bytearray()}
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        """Bytes that were passed on."""
        self.withheld: dict[Direction, int] = {"up": 0, "down": 0}
        """Pieces (reads, packets) that have come while their direction was held."""
        self._gates: dict[Direction, asyncio.Event] = {}

    async def start(self, target: str) -> str:
        """Listen in front of ``target``; the URL to dial instead."""
        for direction in self.seen:
            gate = asyncio.Event()
            gate.set()
            self._gates[direction] = gate
        self.address = await self._start(Url.parse(target))
        return self.address

    def hold(self, direction: Direction) -> None:
        """Pass nothing on in that direction until ``release``."""
        self._gates[direction].clear()

    def release(self, direction: Direction) -> None:
        """Pass on again, what was held first."""
        self._gates[direction].set()

    def note(self, direction: Direction, data: bytes) -> None:
        """``data`` passes."""
        self.passed[direction] += len(data)
        if self.records:
            self.seen[direction] += data

    @abstractmethod
    async def _start(self, target: Url) -> str:
        """Bind, and say where."""

    @abstractmethod
    def cut(self) -> None:
        """Break the path: nothing passes any more, and who asks is refused."""

    @abstractmethod
    async def move(self) -> None:
        """Change the relay's own address towards the listener. A path with connections ends them with it."""

    @abstractmethod
    async def close(self) -> None:
        """End everything."""


class StreamRelay(Relay):
    """For TCP and Unix sockets."""

    def __init__(self, *, unix: bool) -> None:
        super().__init__()
        self._unix = unix
        self._server: asyncio.Server | None = None
        self._target = Url("")
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def _start(self, target: Url) -> str:
        self._target = target
        if self._unix:
            path = str(self.folder / f"relay{next(_numbers)}")
            self._server = await asyncio.start_unix_server(self._accept, path, limit=_READ_BYTES)
            return str(Url(target.scheme, path=path))
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)  # what is accepted inherits it
        sock.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._accept, sock=sock, limit=_READ_BYTES)
        return str(Url(target.scheme, "127.0.0.1", sock.getsockname()[1], target.path))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._unix:
                upper, upward = await asyncio.open_unix_connection(self._target.path, limit=_READ_BYTES)
            else:
                upper, upward = await asyncio.open_connection(self._target.host, self._target.port, limit=_READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(upward)
        pumps = [
            asyncio.ensure_future(self._pump(reader, upward, "up")),
            asyncio.ensure_future(self._pump(upper, writer, "down")),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps)
        for end in (writer, upward):
            end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        gate = self._gates[direction]
        try:
            while data := await reader.read(_READ_BYTES):
                if not gate.is_set():
                    self.withheld[direction] += 1
                    await gate.wait()
                self.note(direction, data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):  # one of the ends is gone: the other shall not wait for it
            writer.transport.abort()

    def cut(self) -> None:
        """Reset every connection."""
        if self._server is not None:
            self._server.close()
        writers, self._writers = self._writers, []
        for writer in writers:
            sock = writer.get_extra_info("socket")
            if not self._unix and sock is not None and not writer.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    async def move(self) -> None:
        """A connection of TCP cannot move: the change of address is its end."""
        self.cut()

    async def close(self) -> None:
        """End everything."""
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


class UdpRelay(Relay):
    """For UDP: one socket in front, and one towards the listener for each dialer."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: dict[Direction, int] = {"up": 0, "down": 0}
        self._front: asyncio.DatagramTransport | None = None
        self._target: tuple[str, int] = ("", 0)
        self._dialers: dict[Any, _Upper] = {}
        self._pending: dict[Direction, list[Callable[[], None]]] = {"up": [], "down": []}
        self._drops: dict[Direction, int] = {"up": 0, "down": 0}
        self._old: list[asyncio.DatagramTransport] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cut = False

    async def _start(self, target: Url) -> str:
        self._target = (target.host, target.port or 0)
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(lambda: _Front(self), local_addr=("127.0.0.1", 0))
        port = self._front.get_extra_info("sockname")[1]
        return str(Url(target.scheme, "127.0.0.1", port, target.path))

    def drop(self, direction: Direction, count: int) -> None:
        """Lose the next ``count`` packets."""
        self._drops[direction] += count

    def dropping(self, direction: Direction) -> bool:
        """Whether packets are still to be lost."""
        return self._drops[direction] > 0

    def release(self, direction: Direction) -> None:
        """Pass on again, what was held first."""
        super().release(direction)
        pending, self._pending[direction] = self._pending[direction], []
        for send in pending:
            send()

    def from_dialer(self, data: bytes, address: Any) -> None:
        """A packet for the listener."""
        upper = self._dialers.get(address)
        if upper is None:
            upper = self._dialers[address] = _Upper(self, address)
            self._begin(upper)
        self._pass("up", data, lambda: upper.send(data))

    def from_listener(self, data: bytes, address: Any) -> None:
        """A packet for the dialer at ``address``."""

        def send() -> None:
            if self._front is not None:
                self._front.sendto(data, address)

        self._pass("down", data, send)

    def _pass(self, direction: Direction, data: bytes, send: Callable[[], None]) -> None:
        if self._cut:
            return
        if self._drops[direction]:
            self._drops[direction] -= 1
            return
        self.packets[direction] += 1
        self.note(direction, data)
        if self._gates[direction].is_set():
            send()
        else:
            self.withheld[direction] += 1
            self._pending[direction].append(send)

    def _begin(self, upper: _Upper) -> None:
        task = asyncio.ensure_future(self._open(upper))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, upper: _Upper) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: upper, remote_addr=self._target)
        upper.attach(transport)

    def cut(self) -> None:
        """Close every socket: who still sends is told that nobody is there."""
        self._cut = True
        for transport in (self._front, *self._old, *(upper.transport for upper in self._dialers.values())):
            if transport is not None:
                transport.close()

    async def move(self) -> None:
        """Go on from other ports. The old ones stay open: nobody says that they are gone."""
        for upper in self._dialers.values():
            if upper.transport is not None:
                self._old.append(upper.transport)
            upper.transport = None
            await self._open(upper)

    async def close(self) -> None:
        """End everything."""
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Front(asyncio.DatagramProtocol):
    def __init__(self, relay: UdpRelay) -> None:
        self._relay = relay

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._relay.from_dialer(data, addr)

    def error_received(self, exc: Exception) -> None:
        """A port at which nobody listens any more: as on a real path, nobody is told."""


class _Upper(asyncio.DatagramProtocol):
    """The side towards the listener, for one dialer."""

    def __init__(self, relay: UdpRelay, address: Any) -> None:
        self._relay = relay
        self._address = address
        self._early: list[bytes] = []
        self.transport: asyncio.DatagramTransport | None = None

    def attach(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport
        early, self._early = self._early, []
        for data in early:
            transport.sendto(data)

    def send(self, data: bytes) -> None:
        if self.transport is None:
            self._early.append(data)
        elif not self.transport.is_closing():
            self.transport.sendto(data)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._relay.from_listener(data, self._address)

    def error_received(self, exc: Exception) -> None:
        """The listener's port is closed: as on a real path, the dialer is not told."""
