"""UDP sockets: many packets in and out with one system call, on event loops that watch sockets.

The socket is driven with ``add_reader`` and ``add_writer``, not as a datagram endpoint of asyncio, because
only ``sendmsg`` and ``recvmsg`` know segmentation offload: with UDP_SEGMENT the kernel cuts one large buffer
into packets (GSO), with UDP_GRO it hands over a run of packets of one sender at once. Where the system or the
route refuses, each packet has a system call of its own. Loops without ``add_reader`` are ``portable.py``'s business.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

__all__ = ["MAX_PENDING", "Address", "UdpSocket", "open_socket", "tune", "url_of"]

Address = Any
"""What the socket module calls an address: a tuple that begins with host and port."""

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_PROBE: Final = 3
"""Never fragment, and let us find the path's size ourselves (RFC 9000 section 14)."""

RECEIVE_BYTES: Final = 65_535
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
MAX_RECEIVES_PER_TURN: Final = 16
"""System calls per wake-up; with GRO each brings up to 64 KiB. Then the rest of the loop has its turn."""
MAX_SEGMENTS: Final = 64
"""The kernel's UDP_MAX_SEGMENTS before Linux 6.9."""
MAX_RUN_BYTES: Final = 65_000
MAX_PENDING: Final = 1_024
"""Datagrams that wait for a full socket; what comes beyond is lost, as on any network."""
REFUSALS: Final = 3
"""Segmented sends that may fail before segmentation is left alone."""

_GSO_REFUSED: Final = frozenset(
    {errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE, errno.ENOTSUP}
)
_U16: Final = struct.Struct("H")
_I32: Final = struct.Struct("i")


def open_socket(family: int, *, buffer_bytes: int, offload: bool) -> socket.socket:
    """A non-blocking UDP socket with the options that help, as far as the system grants them."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tune(sock, buffer_bytes=buffer_bytes, offload=offload)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket, *, buffer_bytes: int, offload: bool) -> None:
    """Set the options that help a UDP socket, as far as the system grants them."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
    if sys.platform == "linux":
        with suppress(OSError):
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        if offload:
            with suppress(OSError):
                sock.setsockopt(SOL_UDP, UDP_GRO, 1)


def url_of(scheme: str, address: Address) -> str:
    """An address as a URL; what is bound to all addresses is named by the loopback one, which a dialer can use."""
    host, port = address[0], address[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


if hasattr(socket.socket, "recvmsg"):

    def _receive(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int, Address]:
        return sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)

else:  # Windows

    def _receive(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int, Address]:
        data, address = sock.recvfrom(RECEIVE_BYTES)
        return data, [], 0, address


class UdpSocket:
    """One bound or connected socket in the loop's hands.

    ``on_datagrams(datagrams, address)`` is called for what each system call brought, ``on_turn()`` once after
    the last of a wake-up, ``on_writable()`` when a full socket has room again, ``on_error(error)`` for what
    the network reported.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        connected: bool,
        offload: bool,
        on_datagrams: Callable[[list[bytes], Address], None],
        on_turn: Callable[[], None],
        on_writable: Callable[[], None],
        on_error: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._connected = connected
        self._gso = offload and sys.platform == "linux"
        self._on_datagrams = on_datagrams
        self._on_turn = on_turn
        self._on_writable = on_writable
        self._on_error = on_error
        self._pending: deque[tuple[bytes, Address]] = deque()
        self._refusals = 0
        self.lost = 0
        """Datagrams that the socket did not take."""
        self.address: Address = sock.getsockname()
        self.peer: Address | None = sock.getpeername() if connected else None
        """Whom the socket is connected with."""
        loop.add_reader(sock, self._readable)

    @property
    def blocked(self) -> bool:
        """The socket is full: build no more packets until ``on_writable``."""
        return bool(self._pending)

    @property
    def closed(self) -> bool:
        """``close`` was called."""
        return self._sock is None

    def close(self) -> None:
        """Take the socket out of the loop and close it. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._release(sock)
            sock.close()

    def detach(self) -> int:
        """Take the socket out of the loop and give away its file descriptor."""
        sock, self._sock = self._sock, None
        if sock is None:
            raise ValueError("the socket is closed")
        self._release(sock)
        return sock.detach()

    def _release(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        if self._pending:
            self._loop.remove_writer(sock)
            self._pending.clear()

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Send, or keep until the socket has room; never raises for what the network does."""
        if self._sock is None:
            return
        if self._pending:
            room = MAX_PENDING - len(self._pending)
            self._pending.extend(datagrams[:room])
            self.lost += max(0, len(datagrams) - room)
            return
        sent = self._send_runs(datagrams)
        if sent < len(datagrams) and self._sock is not None:
            self._pending.extend(datagrams[sent:])
            self._loop.add_writer(self._sock, self._flush)

    def _flush(self) -> None:
        waiting = list(self._pending)
        sent = self._send_runs(waiting)
        if self._sock is None:
            return
        for _ in range(sent):
            self._pending.popleft()
        if not self._pending:
            self._loop.remove_writer(self._sock)
            self._on_writable()

    def _send_runs(self, datagrams: Sequence[tuple[bytes, Address]]) -> int:
        """Send until the socket is full; how many it took (or lost for good)."""
        at, count = 0, len(datagrams)
        while at < count and self._sock is not None:
            data, address = datagrams[at]
            size = len(data)
            end = at + 1
            if self._gso and end < count:
                most = min(count, at + MAX_SEGMENTS, at + MAX_RUN_BYTES // size)
                while end < most and len(datagrams[end][0]) == size and datagrams[end][1] == address:
                    end += 1
                if end < most and len(datagrams[end][0]) < size and datagrams[end][1] == address:
                    end += 1
            try:
                if end - at > 1:
                    self._send_segmented([datagram for datagram, _ in datagrams[at:end]], size, address)
                elif self._connected:
                    self._sock.send(data)
                else:
                    self._sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                return at
            except OSError as error:
                if end - at > 1 and error.errno in _GSO_REFUSED:
                    self._refusals += 1
                    self._gso = False  # this batch again, packet by packet
                    at += self._send_runs(datagrams[at:end])
                    self._gso = self._refusals < REFUSALS
                    if at < end:
                        return at
                    continue
                self.lost += end - at
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    self._on_error(error)
            at = end
        return at

    def _send_segmented(self, datagrams: list[bytes], size: int, address: Address) -> None:
        ancillary = [(SOL_UDP, UDP_SEGMENT, _U16.pack(size))]
        if self._connected:
            self._sock.sendmsg(datagrams, ancillary)  # type: ignore[union-attr]  # checked by the caller
        else:
            self._sock.sendmsg(datagrams, ancillary, 0, address)  # type: ignore[union-attr]  # checked by the caller

    def _readable(self) -> None:
        on_datagrams = self._on_datagrams
        for _ in range(MAX_RECEIVES_PER_TURN):
            if self._sock is None:
                return
            try:
                data, ancillary, _flags, address = _receive(self._sock)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._on_error(error)
                continue
            size = 0
            for level, kind, value in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    (size,) = _I32.unpack_from(value)
            if 0 < size < len(data):
                on_datagrams([data[at : at + size] for at in range(0, len(data), size)], address)
            else:
                on_datagrams([data], address)
        if self._sock is not None:
            self._on_turn()
