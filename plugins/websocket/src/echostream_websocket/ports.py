"""Listening: one port, several paths, each with a listener of its own.

All listeners of an event loop that name the same address share its port, whichever server they belong to: the first
binds it, the last frees it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.transport import Acceptor, Listener
from echostream_core.types import Url
from echostream_tcp._log import ComplaintLog
from echostream_tcp.listener import SocketListener
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.sockets import bind_network, url_of
from echostream_tcp.tls import listener_context, verified_identity
from echostream_tcp.tls_pipe import TlsPipe
from echostream_websocket._http import Request, quoted_path
from echostream_websocket._log import logger
from echostream_websocket.admission import Admission, TrustedProxies
from echostream_websocket.options import PORT_WIDE, WsOptions, WssOptions
from echostream_websocket.pages import load_pages
from echostream_websocket.pipe import WebSocketPipe
from echostream_websocket.routing import Decision, Route, decide
from echostream_websocket.visitor import Visitor

__all__ = ["ALPN", "listen_at"]

ALPN: Final = "http/1.1"
"""What browsers offer beside h2. A client that offers nothing is served as well: HTTP/1.1 is what it will speak."""

_Key = tuple[str, str, int | None]
_ports: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Port]] = WeakKeyDictionary()


async def listen_at(url: Url, options: WsOptions, accept: Acceptor, capabilities: Capabilities) -> Listener:
    """Listen at ``url``, on a port of our own or of another listener in this loop. ConfigError, ConnectFailed."""
    shown_path = quoted_path(url) if url.path else ""
    route = Route(url.path or "/", shown_path, options, load_pages(options.pages), accept)
    ports = _ports.setdefault(asyncio.get_running_loop(), {})
    key = (url.scheme, url.host, url.port)
    port = ports.get(key) if url.port else None
    if port is None:
        context = listener_context(options.tls, ALPN) if isinstance(options, WssOptions) else None
        try:
            sockets = await bind_network(url, options.backlog)
        except ConnectFailed as error:
            port = ports.get(key) if url.port else None  # another was faster while the name was looked up
            if port is None:
                raise _named_otherwise(url, ports, error) from error.__cause__
        else:
            port = Port(url.scheme, sockets, options, context, capabilities)
            key = (url.scheme, url.host, sockets[0].getsockname()[1])
            port.on_free = partial(_forget, ports, key, port)
            ports[key] = port
            port.routes[route.path] = route
            return PathListener(port, route)
    port.check_same(url, options)
    if route.path in port.routes:
        raise ConnectFailed(f"cannot listen at {url}: another listener of this process has that path; choose another")
    port.routes[route.path] = route
    return PathListener(port, route)


def _named_otherwise(url: Url, ports: dict[_Key, Port], error: ConnectFailed) -> ConnectFailed:
    """``error``; or, when it is we who have the port but under another name, what to write to share it."""
    if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
        for key in ports:
            if key[2] == url.port:
                return ConnectFailed(
                    f"cannot listen at {url}: this process has that port as {Url(*key)}; "
                    "its paths share it by that very name"
                )
    return error


def _forget(ports: dict[_Key, Port], key: _Key, port: Port) -> None:
    if ports.get(key) is port:
        del ports[key]


class PathListener(Listener):
    """A listener's share of a port: one path."""

    def __init__(self, port: Port, route: Route) -> None:
        self.addresses = tuple(base + route.shown_path for base in port.bases)
        self._port = port
        self._route = route
        self._closed = False

    async def close(self) -> None:
        """Accept no more at this path; the last one frees the port. Connections that were accepted go on."""
        if not self._closed:
            self._closed = True
            await self._port.remove(self._route)


class Port:
    """Listening sockets, the paths behind them, and the visitors at the door."""

    def __init__(
        self,
        scheme: str,
        sockets: list[socket.socket],
        options: WsOptions,
        context: ssl.SSLContext | None,
        capabilities: Capabilities,
    ) -> None:
        """Begin to accept."""
        self.bases = tuple(url_of(scheme, sock.getsockname()) for sock in sockets)
        self.routes: dict[str, Route] = {}
        self.timeout_s = options.handshake_timeout_s
        self.on_free: Callable[[], None] = lambda: None
        self._scheme = scheme
        self._options = options
        self._context = context
        self._capabilities = capabilities
        self._proxies = TrustedProxies(options.trusted_proxies)
        self._admission = Admission(options.max_handshakes, options.max_handshakes_per_address, self._proxies)
        self._visitors: set[Visitor] = set()
        self._closing = False
        self._changed = asyncio.Event()
        self._log = ComplaintLog(self.bases[0], logger)
        self._listener = SocketListener(sockets, self.bases, self._make_pipe, log=self._log, on_close=self._see_all_off)

    # --- called by listeners

    def check_same(self, url: Url, options: WsOptions) -> None:
        """ConfigError when a further listener wants the port otherwise than the first."""
        for name in PORT_WIDE:
            if getattr(options, name, None) != getattr(self._options, name, None):
                raise ConfigError(
                    f"{url}: another listener of this process has this port with another {name}; "
                    "what concerns the whole port must be the same for all its paths",
                    key=name,
                )

    async def remove(self, route: Route) -> None:
        """End one path; with the last one, the port."""
        if len(self.routes) > 1:
            del self.routes[route.path]
            return
        self._closing = True  # the route stays: who is in the middle of a request is told that we close
        self.on_free()
        await self._listener.close()
        self.routes.clear()

    # --- called by the accept loop

    def _make_pipe(self, connection: socket.socket, peer: Any) -> StreamPipe | None:
        local, address = url_of(self._scheme, connection.getsockname()), url_of(self._scheme, peer)
        refused = self._admission.enter(Url.parse(address).host)
        if refused is not None:
            self._log.warn(f"turned away {address}: {refused}")
            return None
        visitor = Visitor(self, address)
        self._visitors.add(visitor)
        visitor.lower = self._lower(visitor, local, address)
        return visitor.lower

    def _lower(self, visitor: Visitor, local: str, address: str) -> StreamPipe:
        if self._context is None:
            return StreamPipe(
                capabilities=self._capabilities,
                local_address=local,
                peer_address=address,
                on_ready=visitor.connected,
            )
        return TlsPipe(
            capabilities=self._capabilities,
            local_address=local,
            peer_address=address,
            context=self._context,
            server_name=None,
            handshake_timeout_s=self.timeout_s,
            check_peer=verified_identity,
            on_ready=visitor.connected,
            on_failed=visitor.tls_failed,
            alpns=(ALPN, None),
        )

    # --- called by visitors

    def decide(self, request: Request) -> Decision:
        """What to do with a request."""
        return decide(request, self.routes, closing=self._closing)

    def admit(self, visitor: Visitor, route: Route, request: Request, early: bytes) -> None:
        """The visitor's connection is a WebSocket now: it is the session's from here on."""
        lower = visitor.lower
        assert lower is not None
        options = route.options
        pipe = WebSocketPipe(
            lower,
            client=False,
            capabilities=self._capabilities,
            peer_address=self._proxies.peer_of(self._scheme, visitor.address, request.headers),
            local_address=lower.local_address + route.shown_path,
            max_message_bytes=options.max_message_bytes,
            early=early,
            ping_interval_s=options.ping_interval_s,
        )
        try:
            route.accept(pipe)
        except Exception:
            logger.exception("%s: the acceptor failed on a connection; it is dropped", pipe.local_address)
            pipe.abort()

    def complain(self, visitor: Visitor, text: str) -> None:
        """Tell the log why a visitor is turned away."""
        self._log.warn(f"turned away {visitor.address}: {text}")

    def gone(self, visitor: Visitor) -> None:
        """The visitor need not be thought of any more."""
        if visitor in self._visitors:
            self._visitors.discard(visitor)
            self._admission.leave(visitor.host)
            self._changed.set()

    # --- closing

    async def _see_all_off(self) -> None:
        """The sockets are closed: who has not finished its handshake was never accepted."""
        for visitor in list(self._visitors):
            visitor.shut()
        while self._visitors:
            self._changed.clear()
            await self._changed.wait()
