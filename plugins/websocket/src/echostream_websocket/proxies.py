"""Reaching a server through a proxy: CONNECT over HTTP or HTTPS, and SOCKS by the library ``python-socks``."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from importlib import import_module
from ipaddress import ip_address
from typing import Final

from echostream_core.errors import ConfigError, ConnectFailed, EchoStreamError
from echostream_core.transport import Pipe
from echostream_core.types import Buffer, Url
from echostream_tcp._errors import reason_of
from echostream_tcp._log import printable
from echostream_tcp.dial import connect_network
from echostream_tcp.options import TlsTransportOptions
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.sockets import set_connection_options
from echostream_tcp.tls_transport import TLS_CAPABILITIES, TlsDialer
from echostream_tcp.transport import attach
from echostream_websocket._http import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    BadHead,
    ProxyAddress,
    environment_proxy,
    parse_response,
    proxy_address,
)

__all__ = ["connect_through", "proxy_for"]

_RECEIVE_BYTES: Final = 4_096


def proxy_for(url: Url, setting: str, *, secure: bool) -> str | None:
    """The URL of the proxy to reach ``url`` by, credentials and all; None: none is needed."""
    if setting == "none" or (setting == "auto" and _is_loopback(url.host)):
        return None
    return environment_proxy(url, secure=secure) if setting == "auto" else setting


def _is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself, for which no proxy stands: browsers except it too."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return False


async def connect_through(proxy: str, url: Url, *, secure: bool, timeout_s: float) -> socket.socket:
    """A socket whose other end is, through ``proxy``, the host and port of ``url``. ConnectFailed, ConfigError."""
    try:
        address = proxy_address(proxy, url, secure=secure)
    except ValueError as error:
        raise ConfigError(f"the proxy's URL cannot be used: {error}", key="proxy") from None  # it may hold a password
    at = address.at
    try:
        async with asyncio.timeout(timeout_s):
            if at.scheme.startswith("socks"):
                return await _socks(address, url, secure=secure)
            sock = await (_relayed(at) if at.scheme == "https" else connect_network(at))
            return await _tunnel(sock, address.connect, at, url)
    except TimeoutError as error:
        raise ConnectFailed(f"the proxy {at} did not answer within {timeout_s:g} s, asked for {url}") from error


# --- CONNECT


async def _tunnel(sock: socket.socket, request: bytes, at: Url, url: Url) -> socket.socket:
    """Ask the proxy at the other end of ``sock`` for ``url``."""
    loop = asyncio.get_running_loop()
    head = b""
    try:
        await loop.sock_sendall(sock, request)
        while END_OF_HEAD not in head:
            if len(head) >= MAX_HEAD_BYTES:
                raise ConnectFailed(f"the proxy {at} answers with a head of more than {MAX_HEAD_BYTES} bytes")
            received = await loop.sock_recv(sock, _RECEIVE_BYTES)
            if not received:
                raise ConnectFailed(f"the proxy {at} closed the connection when asked for {url}")
            head += received
        _check_tunnel(head, at, url)
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"the connection to the proxy {at} is lost: {reason_of(error)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _check_tunnel(answer: bytes, at: Url, url: Url) -> None:
    end = answer.index(END_OF_HEAD) + len(END_OF_HEAD)
    try:
        response = parse_response(answer[:end])
    except BadHead as error:
        raise ConnectFailed(f"the proxy {at} does not answer in HTTP: it began with {printable(answer, 48)}") from error
    status = response.status_code
    if 200 <= status < 300:
        if len(answer) > end:
            raise ConnectFailed(f"the proxy {at} sends data before anybody asked for it: is it one for CONNECT?")
        return
    named = printable(f"{status} {response.reason_phrase}".rstrip()[:60])[1:-1]
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        why = f"demands a user and a password, or does not accept them: write {at.scheme}://user:password@host:port"
    elif status in (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED):
        why = "does not allow it; set the option proxy to another, or to none"
    elif status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        why = "cannot reach it: is the server started, and its name known there?"
    else:
        why = "refuses"
    raise ConnectFailed(f"the proxy {at}, asked for {url}, {why} ({named})")


# --- a proxy behind TLS

_HTTPS: Final = TlsDialer(
    alpn="http/1.1", alpn_demanded=False, plain_hint="is it a proxy without TLS? Then its URL begins with http://"
)


async def _relayed(at: Url) -> socket.socket:
    """A socket whose other end is the proxy behind TLS.

    A pair of sockets with a relay between: so whatever comes on top, TLS to the server among it, need not know.
    """
    far = await _HTTPS.dial(at, TlsTransportOptions(), TLS_CAPABILITIES)
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        theirs.setblocking(False)
        near = StreamPipe(capabilities=TLS_CAPABILITIES, local_address="relay", peer_address="relay")
        await attach(at, near, theirs)
    except BaseException:
        ours.close()
        theirs.close()
        far.abort()
        raise
    near.start(_Half(near, far))
    far.start(_Half(far, near))
    return ours


class _Half:
    """Receives from one pipe and writes to the other, no faster than that one takes it."""

    __slots__ = ("_from", "_to")

    def __init__(self, source: Pipe, target: Pipe) -> None:
        self._from = source
        self._to = target

    def on_data(self, data: Buffer) -> None:
        """Hand on; what is written must outlive the call, so it is copied."""
        if not self._to.write((bytes(data),)):
            self._from.pause()

    def on_writable(self) -> None:
        """There is room in the pipe that we receive from: it is the one the other half writes to."""
        self._to.resume()

    def on_closed(self, error: EchoStreamError | None) -> None:
        """One end is gone: the other follows, when it has sent what it has."""
        self._to.close()


# --- SOCKS


_SOCKS_TYPES: Final = {"socks4": "SOCKS4", "socks4a": "SOCKS4", "socks5": "SOCKS5", "socks5h": "SOCKS5"}
_REMOTE_NAMES: Final = frozenset({"socks4a", "socks5h"})
"""Schemes by which the proxy looks up the server's name, not we."""


async def _socks(address: ProxyAddress, url: Url, *, secure: bool) -> socket.socket:
    at = address.at
    try:
        library = import_module("python_socks")
        asynchronous = import_module("python_socks.async_.asyncio")
    except ImportError as error:
        raise ConfigError(
            f"the proxy {at} needs the library python-socks: run pip install 'echostream-websocket[socks]', "
            "or set the option proxy to an http:// proxy or to none",
            key="proxy",
        ) from error
    proxy = asynchronous.Proxy(
        library.ProxyType[_SOCKS_TYPES[at.scheme]],
        at.host,
        at.port,
        address.username,
        address.password,
        at.scheme in _REMOTE_NAMES,
    )
    try:
        sock: socket.socket = await proxy.connect(url.host, url.port or (443 if secure else 80))
    except (library.ProxyError, OSError) as error:
        said = printable(str(error), 120)[1:-1]
        raise ConnectFailed(f"the proxy {at}, asked for {url}, did not connect us: {said}") from error
    set_connection_options(sock)
    return sock
