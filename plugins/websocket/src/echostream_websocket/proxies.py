"""Reaching a server through a proxy: CONNECT over HTTP or HTTPS, and SOCKS by the library ``python-socks``."""

from __future__ import annotations

import asyncio
import socket
import ssl
from http import HTTPStatus
from importlib import import_module
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

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
    wire_host,
)

__all__ = ["connect_through", "is_loopback", "proxy_for", "stays_here"]

_RECEIVE_BYTES: Final = 4_096


def proxy_for(url: Url, setting: str, *, secure: bool) -> str | None:
    """The URL of the proxy to reach ``url`` by, credentials and all; None: none is needed."""
    if setting != "auto":
        return None if setting == "none" else setting
    found = None if is_loopback(url.host) else environment_proxy(url, secure=secure)
    # As other programs read their environment: proxy.example:3128 is a proxy, too.
    return f"http://{found}" if found and "://" not in found else found


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself, for which no proxy stands: browsers except it too."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return f".{host.lower()}".endswith(".localhost")


def stays_here(proxy: str) -> bool:
    """Whether the proxy with this URL is on this machine."""
    try:
        return is_loopback(urlsplit(proxy).hostname or "")
    except ValueError:  # it is no URL, which connect_through tells
        return False


async def connect_through(proxy: str, url: Url, *, secure: bool, timeout_s: float) -> socket.socket:
    """A socket whose other end is, through ``proxy``, the host and port of ``url``. ConnectFailed, ConfigError."""
    try:
        address = proxy_address(proxy, url, secure=secure)
    except ValueError as error:
        # It may hold a password, so it is not shown; nor is it known whether the option or the environment names it.
        text = f"the proxy's URL cannot be used: {error}; it is the option proxy, or a variable such as https_proxy"
        raise ConfigError(text, key="proxy") from None
    at = address.at
    try:
        async with asyncio.timeout(timeout_s):
            if at.scheme.startswith("socks"):
                return await _socks(address, url, secure=secure)
            try:
                sock = await (_relayed(at) if at.scheme == "https" else connect_network(at))
            except ConnectFailed as error:
                raise ConnectFailed(f"the proxy {at} for {url} cannot be used: {error}") from error
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
    try:
        far = await _HTTPS.dial(at, TlsTransportOptions(), TLS_CAPABILITIES)
    except ConnectFailed as error:
        cause = error.__cause__
        if not isinstance(cause, ssl.SSLCertVerificationError):
            raise
        raise ConnectFailed(
            f"its certificate does not hold: {cause.verify_message}; it is verified by the system's certificates "
            "(SSL_CERT_FILE names others)"
        ) from cause
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:  # no descriptors are left
        far.abort()
        raise ConnectFailed(reason_of(error)) from error
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
    relay = _Relay(near, far, ours)
    near.start(_Half(relay, near, far))
    far.start(_Half(relay, far, near))
    return ours


PATIENCE_S: Final = 30.0
"""How long the proxy may take nothing of what was sent before our end was closed."""


class _Relay:
    """The two pipes of a relay, and how it ends when the proxy reads no more.

    What waits for the proxy stops us from reading ``near``, and who does not read does not see the other end go:
    so while we wait the socket there, ``ours``, is looked at.
    """

    __slots__ = ("_far", "_loop", "_near", "_ours", "_timer")

    def __init__(self, near: Pipe, far: Pipe, ours: socket.socket) -> None:
        self._near = near
        self._far = far
        self._ours = ours
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def full(self, pipe: Pipe) -> None:
        """``pipe`` takes no more."""
        if pipe is self._far and self._timer is None:
            self._timer = self._loop.call_later(PATIENCE_S, self._look)

    def ready(self, pipe: Pipe) -> None:
        """``pipe`` has room again, or is gone."""
        if pipe is self._far and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._ours.fileno() >= 0:
            self.full(self._far)
            return
        self._near.abort()
        self._far.abort()


class _Half:
    """Receives from one pipe and writes to the other, no faster than that one takes it."""

    __slots__ = ("_from", "_relay", "_to")

    def __init__(self, relay: _Relay, source: Pipe, target: Pipe) -> None:
        self._relay = relay
        self._from = source
        self._to = target

    def on_data(self, data: Buffer) -> None:
        """Hand on; what is written must outlive the call, so it is copied."""
        if not self._to.write((bytes(data),)):
            self._from.pause()
            self._relay.full(self._to)

    def on_writable(self) -> None:
        """There is room in the pipe that we receive from: it is the one the other half writes to."""
        self._relay.ready(self._from)
        self._to.resume()

    def on_closed(self, error: EchoStreamError | None) -> None:
        """One end is gone: the other follows, when it has sent what it has."""
        self._relay.ready(self._from)
        self._to.close()
        self._relay.full(self._to)


# --- SOCKS


_SOCKS_TYPES: Final = {"socks4": "SOCKS4", "socks4a": "SOCKS4", "socks5": "SOCKS5", "socks5h": "SOCKS5"}
MAX_SOCKS_CREDENTIAL: Final = 255
"""Source: RFC 1929."""
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
    for value in (address.username or "", address.password or ""):
        if not value.isascii() or len(value) > MAX_SOCKS_CREDENTIAL:
            raise ConfigError(
                f"the proxy {at}: user and password of SOCKS are ASCII, of at most {MAX_SOCKS_CREDENTIAL} signs each",
                key="proxy",
            )
    proxy = asynchronous.Proxy(
        library.ProxyType[_SOCKS_TYPES[at.scheme]],
        at.host,
        at.port,
        address.username,
        address.password,
        at.scheme in _REMOTE_NAMES,
    )
    try:
        sock: socket.socket = await proxy.connect(wire_host(url), url.port or (443 if secure else 80))
    except (library.ProxyError, OSError, ValueError) as error:  # ValueError: an answer, or a name, that it cannot read
        said = printable(str(error), 120)[1:-1]
        raise ConnectFailed(f"the proxy {at}, asked for {url}, did not connect us: {said}") from error
    set_connection_options(sock)
    return sock
