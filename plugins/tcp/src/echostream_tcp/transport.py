"""The plain transports: ``tcp://host:port`` and ``unix:///path/to.sock``."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final, TypeVar

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError
from echostream_core.transport import Acceptor, Pipe, Transport
from echostream_core.types import Url
from echostream_tcp._errors import check_network_url, check_unix_url, connect_failed
from echostream_tcp._log import ComplaintLog
from echostream_tcp.dial import connect_network, connect_unix
from echostream_tcp.listener import SocketListener
from echostream_tcp.options import TcpOptions, UnixOptions
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.sockets import bind_network, bind_unix, peer_user, url_of

__all__ = ["TCP_CAPABILITIES", "UNIX_CAPABILITIES", "TcpTransport", "UnixTransport"]

TCP_CAPABILITIES: Final = Capabilities(
    streams="muxed", datagrams="none", reset=True, half_close=True, flow_control=True, priorities=True
)
UNIX_CAPABILITIES: Final = Capabilities(
    streams="muxed",
    datagrams="none",
    reset=True,
    half_close=True,
    flow_control=True,
    priorities=True,
    peer_identity=hasattr(socket, "SO_PEERCRED"),
)

_O = TypeVar("_O", bound=msgspec.Struct)


class TcpTransport(Transport):
    """``tcp://host:port``: one TCP connection, one pipe."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> SocketListener:
        """Bind ``url``; the host "" stands for all addresses of IPv4 and IPv6, each with a socket of its own."""
        check_network_url(url, dialing=False)
        sockets = await bind_network(url, checked(options, TcpOptions).backlog)
        addresses = tuple(url_of(url.scheme, sock.getsockname()) for sock in sockets)

        def make_pipe(connection: socket.socket, peer: Any) -> StreamPipe:
            return StreamPipe(
                capabilities=TCP_CAPABILITIES,
                local_address=url_of(url.scheme, connection.getsockname()),
                peer_address=url_of(url.scheme, peer),
                on_ready=accept,
            )

        return SocketListener(sockets, addresses, make_pipe, log=ComplaintLog(addresses[0]))

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect to the first of the host's addresses that answers."""
        check_network_url(url, dialing=True)
        checked(options, TcpOptions)
        sock = await connect_network(url)
        local, peer = ends_of(url, sock)
        pipe = StreamPipe(
            capabilities=TCP_CAPABILITIES,
            local_address=local,
            peer_address=peer,
        )
        await attach(url, pipe, sock)
        return pipe


class UnixTransport(Transport):
    """``unix:///path``: one connection to a Unix socket; the system tells who the peer is."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> SocketListener:
        """Make the socket file, in place of one that nobody listens at any more."""
        check_unix_url(url)
        options = checked(options, UnixOptions)
        sock, file = bind_unix(url, options.backlog, options.mode)

        def make_pipe(connection: socket.socket, peer: Any) -> StreamPipe:
            return StreamPipe(
                capabilities=UNIX_CAPABILITIES,
                local_address=str(url),
                peer_address=str(url),  # the dialer's end has no name of its own
                peer_identity=peer_user(connection),
                on_ready=accept,
            )

        return SocketListener([sock], (str(url),), make_pipe, log=ComplaintLog(str(url)), file=file)

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect to the socket at the URL's path."""
        check_unix_url(url)
        checked(options, UnixOptions)
        sock = await connect_unix(url)
        pipe = StreamPipe(
            capabilities=UNIX_CAPABILITIES,
            local_address=str(url),
            peer_address=str(url),
            peer_identity=peer_user(sock),
        )
        await attach(url, pipe, sock)
        return pipe


def checked(options: msgspec.Struct, wanted: type[_O]) -> _O:
    """``options``, which must be of the type that the spec names."""
    if not isinstance(options, wanted):
        raise ConfigError(f"options of type {wanted.__name__} are needed, not {type(options).__name__}")
    return options


def ends_of(url: Url, sock: socket.socket) -> tuple[str, str]:
    """Our address and the peer's as URLs; both as dialled when the connection has gone meanwhile, or has no such."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return str(url), str(url)
    try:
        return url_of(url.scheme, sock.getsockname()), url_of(url.scheme, sock.getpeername())
    except OSError:
        return str(url), str(url)


async def attach(url: Url, pipe: StreamPipe, sock: socket.socket) -> None:
    """Give a connected socket to the event loop, and to ``pipe``."""
    try:
        await asyncio.get_running_loop().create_connection(lambda: pipe, sock=sock)
    except OSError as error:
        sock.close()
        raise connect_failed(url, [error]) from error
    except BaseException:
        pipe.abort()  # not the socket: it is the event loop's now, which closes it on its next turn
        raise
