"""Sockets before asyncio gets them: resolving, binding, options, addresses as URLs."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

from echostream_core.errors import ConnectFailed
from echostream_core.types import Url
from echostream_tcp._errors import bind_failed, caused_by, name_not_found

__all__ = [
    "SocketFile",
    "bind_network",
    "bind_unix",
    "peer_user",
    "resolve",
    "set_connection_options",
    "url_of",
]

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family and a socket address: ``(AF_INET6, ("::1", 80, 0, 0))``."""

NOTSENT_LOWAT_BYTES: Final = 65_536
"""What the system takes ahead of the network, per connection. More could no longer be overtaken by urgent frames, and
costs: with credit windows of 1 and 4 MiB, loopback, 128 KiB took 1.5-1.9 times the CPU per byte of 64 KiB, on both ends
(what is in flight falls out of the caches). Less leaves a fast network idle while the event loop is busy."""

_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)


def url_of(scheme: str, address: Any) -> str:
    """A socket address as URL; IPv4 addresses in IPv6 clothes are undressed."""
    host, port = address[0], address[1]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return str(Url(scheme, host, port))


async def resolve(url: Url) -> list[Address]:
    """The addresses of the URL's host and port, in the system's order. ConnectFailed when the name is not known."""
    loop = asyncio.get_running_loop()
    try:
        # An address needs no look-up, and so no thread.
        found = socket.getaddrinfo(
            url.host, url.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError):
        try:
            found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError, ValueError) as error:
            raise name_not_found(url, error) from error
    return list(dict.fromkeys((item[0], item[4]) for item in found))


async def bind_network(url: Url, backlog: int) -> list[socket.socket]:
    """Listening sockets for ``url``, one per address of the host; "" is all of IPv4 and all of IPv6. One port for all.

    Raises ConnectFailed.
    """
    if url.host:
        addresses = await resolve(url)
    else:
        addresses = [(socket.AF_INET, ("0.0.0.0", url.port)), (socket.AF_INET6, ("::", url.port, 0, 0))]
    attempts = 8 if url.port == 0 and len(addresses) > 1 else 1
    while True:
        attempts -= 1
        try:
            return _bind_all(addresses, backlog)
        except OSError as error:
            # A port that was free on IPv4 may be taken on IPv6.
            if error.errno != errno.EADDRINUSE or not attempts:
                raise bind_failed(url, error) from error


def _bind_all(addresses: Sequence[Address], backlog: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    skipped: OSError | None = None
    try:
        for family, address in addresses:
            if sockets and address[1] == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(_listening(family, address, backlog))
            except OSError as error:
                # A machine without IPv6 may still have ::1 as an address of localhost.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
                    raise
                skipped = skipped or error
        if not sockets:
            raise skipped or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _listening(family: int, address: tuple[Any, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows it would let two programs have the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


class SocketFile:
    """The file of a bound Unix socket, so that it can be removed later if it is still ours."""

    __slots__ = ("_identity", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Remove the file, unless somebody else has put another in its place."""
        try:
            status = os.stat(self._path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self._path)
        except OSError:
            pass  # gone already, or no longer ours to remove


def bind_unix(url: Url, backlog: int, mode: int) -> tuple[socket.socket, SocketFile]:
    """A listening socket at the path of ``url`` with permissions ``mode``.

    A socket file that nobody listens at, left over by a server that was killed, is replaced. Raises ConnectFailed.
    """
    path = url.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(url, error)
            sock.bind(path)
        file = SocketFile(path)
        try:
            os.chmod(path, mode)  # before listen: until then everybody is refused
            sock.listen(backlog)
        except OSError:
            file.remove()
            raise
    except OSError as error:
        sock.close()
        raise bind_failed(url, error) from error
    except BaseException:
        sock.close()
        raise
    return sock, file


def _remove_stale(url: Url, cause: OSError) -> None:
    """Remove the socket file in our way if nobody listens at it; ConnectFailed otherwise."""
    path = url.path
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            text = f"cannot listen at {url}: there is a file that is no socket; move it away or choose another path"
            raise caused_by(ConnectFailed(text), cause)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except BlockingIOError:
        raise cause from None  # its queue is full: somebody is there
    else:
        raise cause


def set_connection_options(sock: socket.socket) -> None:
    """Set what every connection wants: at once, watched, and little ahead of the network."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if _NOTSENT_LOWAT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
    except OSError:
        pass  # gone already, which the first read tells; or a system without the option


def peer_user(sock: socket.socket) -> str | None:
    """Who is at the other end of a Unix socket, ``uid:1000``, as the system vouches for it; None where it cannot."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("iII"))
        _, uid, _ = struct.unpack("iII", credentials)
    except OSError:
        return None
    return f"uid:{uid}"
