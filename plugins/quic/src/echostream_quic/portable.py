"""UDP on event loops that cannot watch sockets: through the loop's own datagram endpoints.

Windows' ``ProactorEventLoop`` has no ``add_reader``, and a simulated network has no sockets. There each datagram costs
a call of its own, without segmentation offload; the rest behaves as ``endpoint.UdpSocket`` does.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, Final
from weakref import WeakKeyDictionary

from echostream_quic.endpoint import MAX_PENDING, Address, UdpSocket, open_socket, tune

__all__ = ["PortableSocket", "open_udp", "watches_sockets"]

_REFUSED: Final = (ConnectionRefusedError, ConnectionResetError)
"""What Linux and Windows make of ICMP's "port unreachable"."""

_PORT_UNREACHABLE: Final = 1234
"""ERROR_PORT_UNREACHABLE: the same, as an overlapped receive reports it on Windows."""

_watching: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, bool]] = WeakKeyDictionary()


def watches_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether ``loop`` has ``add_reader``; tried out once per loop."""
    known = _watching.get(loop)
    if known is None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            try:
                loop.add_reader(probe, _nothing)
            except NotImplementedError:
                known = False
            else:
                loop.remove_reader(probe)
                known = True
        _watching[loop] = known
    return known


async def open_udp(
    loop: asyncio.AbstractEventLoop,
    family: int,
    *,
    bind: Address = None,
    connect: Address = None,
    buffer_bytes: int,
    offload: bool,
    on_datagrams: Callable[[list[bytes], Address], None],
    on_turn: Callable[[], None],
    on_writable: Callable[[], None],
    on_error: Callable[[OSError], None],
) -> UdpSocket | PortableSocket:
    """A UDP socket bound to ``bind`` or connected with ``connect``, in the way that ``loop`` allows.

    The callbacks are those of ``UdpSocket``. Raises OSError when the system refuses.
    """
    if not watches_sockets(loop):
        portable = PortableSocket(
            loop, on_datagrams=on_datagrams, on_turn=on_turn, on_writable=on_writable, on_error=on_error
        )
        await loop.create_datagram_endpoint(
            lambda: portable, local_addr=_pair(bind), remote_addr=_pair(connect), family=family
        )
        portable.tune(buffer_bytes)
        return portable
    sock = open_socket(family, buffer_bytes=buffer_bytes, offload=offload)
    try:
        if connect is not None:
            sock.connect(connect)
        else:
            sock.bind(bind)
    except OSError:
        sock.close()
        raise
    return UdpSocket(
        loop,
        sock,
        connected=connect is not None,
        offload=offload,
        on_datagrams=on_datagrams,
        on_turn=on_turn,
        on_writable=on_writable,
        on_error=on_error,
    )


class PortableSocket(asyncio.DatagramProtocol):
    """One datagram endpoint of asyncio with the face of ``UdpSocket``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_datagrams: Callable[[list[bytes], Address], None],
        on_turn: Callable[[], None],
        on_writable: Callable[[], None],
        on_error: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._context = copy_context()
        self._on_datagrams = on_datagrams
        self._on_turn = on_turn
        self._on_writable = on_writable
        self._on_error = on_error
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = False
        self._connected = False
        self._full = False
        self._pending: deque[tuple[bytes, Address]] = deque()
        self._soon: asyncio.Handle | None = None
        self.lost = 0
        """Datagrams that the socket did not take."""
        self.address: Address = ("", 0)
        self.peer: Address | None = None
        """Whom the socket is connected with."""

    @property
    def blocked(self) -> bool:
        """The socket is full: build no more packets until ``on_writable``."""
        return self._full

    @property
    def closed(self) -> bool:
        """``close`` was called."""
        return self._closed

    def tune(self, buffer_bytes: int) -> None:
        """Set the options that help, where there is a real socket underneath."""
        sock: Any = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is not None:
            tune(sock, buffer_bytes=buffer_bytes, offload=False)

    def close(self) -> None:
        """Close the socket; what was sent goes out. Idempotent."""
        self._closed = True
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._transport is not None:
            if not self._transport.is_closing():
                self._send_now(self._pending)
            self._transport.close()
        self._pending.clear()

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Send, or keep until the socket has room; never raises for what the network does."""
        if self._closed or self._transport is None or self._transport.is_closing():
            return
        if self._full:
            room = MAX_PENDING - len(self._pending)
            self._pending.extend(datagrams[:room])
            self.lost += max(0, len(datagrams) - room)
            return
        at = 0
        while at < len(datagrams) and not self._full:
            self._send_now(datagrams[at : at + 1])
            at += 1
        self._pending.extend(datagrams[at:])

    def _send_now(self, datagrams: Sequence[tuple[bytes, Address]] | deque[tuple[bytes, Address]]) -> None:
        for data, address in datagrams:
            try:
                self._transport.sendto(data, None if self._connected else address)  # type: ignore[union-attr]  # it is there
            except OSError as error:
                self.error_received(error)

    # What asyncio calls

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # a datagram endpoint's
        """The socket is open."""
        self._transport = transport
        self.address = transport.get_extra_info("sockname")
        self.peer = transport.get_extra_info("peername")
        self._connected = self.peer is not None

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """One datagram; the turn that follows is one for all that come at once."""
        if self._closed:
            return
        self._on_datagrams([data], addr)
        if self._soon is None:
            self._soon = self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._soon = None
        if not self._closed:
            self._on_turn()

    def error_received(self, exc: Exception) -> None:
        """The network reported something, or a datagram could not be sent."""
        if self._closed or not isinstance(exc, OSError):
            return
        if exc.errno in (errno.EMSGSIZE, errno.ENOBUFS):
            self.lost += 1
            return
        if isinstance(exc, _REFUSED) or getattr(exc, "winerror", None) == _PORT_UNREACHABLE:
            refused = ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
            refused.__cause__ = exc
            exc = refused
        self._on_error(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """The endpoint is closed; by us, or because its socket failed."""
        if exc is not None:
            self.error_received(exc)
        self._transport = None

    def pause_writing(self) -> None:
        """The socket is full."""
        self._full = True

    def resume_writing(self) -> None:
        """There is room again: first for what waits here."""
        self._full = False
        while self._pending and not self._full:
            self._send_now([self._pending.popleft()])
        if not self._full and not self._closed:
            self._on_writable()


def _pair(address: Address) -> tuple[str, int] | None:
    """Host and port, as asyncio takes them; the scope of a link-local address goes into its host."""
    if address is None:
        return None
    host, port = address[0], address[1]
    if len(address) == 4 and address[3] and "%" not in host:
        host = f"{host}%{address[3]}"
    return host, port


def _nothing() -> None:
    pass
