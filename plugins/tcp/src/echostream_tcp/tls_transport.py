"""The encrypted transport: ``tls://host:port``, TLS over TCP with ALPN ``echostream/1`` on both ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError, ConnectFailed, EchoStreamError
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import Acceptor, Pipe, Transport
from echostream_core.types import Buffer, Url
from echostream_tcp._errors import caused_by, check_network_url
from echostream_tcp._log import ComplaintLog, logger
from echostream_tcp._tls_errors import ALPN, EXPIRED, verification_failed
from echostream_tcp.dial import connect_network
from echostream_tcp.listener import SocketListener
from echostream_tcp.options import TlsTransportOptions
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.sockets import bind_network, url_of
from echostream_tcp.tls import DialerTls, dialer_tls, files_stamp, listener_context, verified_identity
from echostream_tcp.tls_pipe import TlsPipe
from echostream_tcp.transport import TCP_CAPABILITIES, attach, checked, ends_of

__all__ = ["TLS_CAPABILITIES", "TlsDialer", "TlsTransport", "proves_peers"]

TLS_CAPABILITIES: Final = replace(TCP_CAPABILITIES, encrypted=True, peer_identity=True)
_ANONYMOUS: Final = replace(TLS_CAPABILITIES, peer_identity=False)

EXPIRY_TIMEOUT_S: Final = 3.0
"""How long a failed dial may go on to find out since when the certificate has been out of date."""


_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name."""


class TlsTransport(Transport):
    """``tls://host:port``: one TLS connection, one pipe."""

    def __init__(self) -> None:
        self._dialer = TlsDialer()

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        """A listener knows its peers by ``tls.client_ca`` only; a dialer knows its listener by the certificate.

        Which of the two is asking is not said: settings that fit both are taken for a listener's.
        """
        proves = proves_peers(checked(options, TlsTransportOptions).tls)
        return replace(capabilities, peer_identity=capabilities.peer_identity and proves)

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> SocketListener:
        """Bind ``url``; a connection is handed over when its handshake has succeeded."""
        check_network_url(url, dialing=False)
        options = checked(options, TlsTransportOptions)
        context = listener_context(options.tls)
        sockets = await bind_network(url, options.backlog)
        addresses = tuple(url_of(url.scheme, sock.getsockname()) for sock in sockets)
        log = ComplaintLog(addresses[0])
        handshakes = _Handshakes(options, context, log, accept)

        def make_pipe(connection: socket.socket, peer: Any) -> StreamPipe | None:
            return handshakes.begin(url_of(url.scheme, connection.getsockname()), url_of(url.scheme, peer))

        return SocketListener(sockets, addresses, make_pipe, log=log, on_close=handshakes.abort)

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect, shake hands, and verify the certificate or compare it with the pin."""
        check_network_url(url, dialing=True)
        options = checked(options, TlsTransportOptions)
        return await self._dialer.dial(url, options, self.configured(options, TLS_CAPABILITIES))


def proves_peers(tls: TlsOptions) -> bool:
    """Whether an end with these settings knows who its peers are."""
    return bool(tls.client_ca or tls.ca or tls.pin) or not (tls.certificate or tls.dev)


class TlsDialer:
    """Dials TLS for one protocol (ALPN), with a context that is made once and again when a file has changed."""

    def __init__(
        self,
        *,
        alpn: str = ALPN,
        alpn_demanded: bool = True,
        plain_hint: str = "is it an EchoStream server without TLS? Then its URL begins with tcp://",
    ) -> None:
        """``plain_hint`` is what a user is told whose listener does not speak TLS."""
        self._alpn = alpn
        self._alpns: tuple[str | None, ...] = (alpn,) if alpn_demanded else (alpn, None)
        self._plain_hint = plain_hint
        self._made: DialerTls | None = None
        self._stamp: tuple[object, ...] = ()

    async def dial(
        self,
        url: Url,
        options: TlsTransportOptions,
        capabilities: Capabilities,
        connect: Callable[[], Awaitable[socket.socket]] | None = None,
    ) -> TlsPipe:
        """A pipe whose handshake has succeeded; ``connect`` makes its socket where it is not the URL's host's."""
        how = self._how(options)
        name = options.tls.server_name or url.host
        try:
            how.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
        except ValueError as error:
            raise ConfigError(f"{name!r} cannot be the name of a TLS server: {error}", key="tls.server_name") from error

        async def attempt(context: ssl.SSLContext, check_peer: Callable[[ssl.SSLObject], str | None]) -> TlsPipe:
            sock = await (connect() if connect is not None else connect_network(url))
            return await _dial(url, sock, options, capabilities, context, check_peer, self._alpns, self._plain_hint)

        try:
            return await attempt(how.context, lambda tls: how.check_peer(str(url), tls))
        except ssl.SSLCertVerificationError as error:
            expiry = None
            if error.verify_code == EXPIRED:
                expiry = await _expiry(dialer_tls(options.tls, self._alpn).context, attempt)
            raise verification_failed(str(url), error, expiry=expiry) from error

    def _how(self, options: TlsTransportOptions) -> DialerTls:
        """How to dial, made once and again when a file has changed: to load the system's authorities takes 20 ms."""
        stamp = files_stamp(options.tls)
        if self._made is None or self._stamp != stamp:
            self._made, self._stamp = dialer_tls(options.tls, self._alpn), stamp
        return self._made


class _Handshakes:
    """The unfinished handshakes of one listener."""

    def __init__(
        self, options: TlsTransportOptions, context: ssl.SSLContext, log: ComplaintLog, accept: Acceptor
    ) -> None:
        self._options = options
        self._context = context
        self._log = log
        self._accept = accept
        self._unfinished: set[StreamPipe] = set()
        self._leaving: set[StreamPipe] = set()
        self._changed = asyncio.Event()
        self._capabilities = TLS_CAPABILITIES if options.tls.client_ca else _ANONYMOUS

    def begin(self, local_address: str, peer_address: str) -> TlsPipe | None:
        """A pipe for a new connection; None when too many are unfinished."""
        if len(self._unfinished) >= self._options.max_handshakes:
            self._log.warn(
                f"turned away {peer_address}: {self._options.max_handshakes} handshakes are unfinished "
                "(transport.tls.max_handshakes)"
            )
            return None
        pipe = TlsPipe(
            capabilities=self._capabilities,
            local_address=local_address,
            peer_address=peer_address,
            context=self._context,
            server_name=None,
            handshake_timeout_s=self._options.handshake_timeout_s,
            check_peer=verified_identity,
            on_ready=self._succeeded,
            on_failed=self._failed,
        )
        self._unfinished.add(pipe)
        return pipe

    async def abort(self) -> None:
        """The listener is closed: who has not finished was never accepted."""
        for pipe in self._unfinished | self._leaving:
            pipe.abort()
            self._see_off(pipe)
        while self._leaving:
            self._changed.clear()
            await self._changed.wait()

    def _succeeded(self, pipe: StreamPipe) -> None:
        self._unfinished.discard(pipe)
        self._accept(pipe)

    def _failed(self, pipe: TlsPipe, what: str, cause: Exception | None) -> None:
        if pipe.manner == "left":  # as load balancers do every few seconds, to see whether we are there
            logger.debug("%s: %s %s", pipe.local_address, pipe.peer_address, what)
        else:
            self._log.warn(f"turned away {pipe.peer_address}: it {what}")
        self._see_off(pipe)

    def _see_off(self, pipe: StreamPipe) -> None:
        """Remember ``pipe`` until its connection is gone, so that a closed listener leaves none behind."""
        self._unfinished.discard(pipe)
        if pipe not in self._leaving:
            self._leaving.add(pipe)
            pipe.start(_Leaving(self, pipe))

    def gone(self, pipe: StreamPipe) -> None:
        """The connection of one that was turned away is gone."""
        self._leaving.discard(pipe)
        self._changed.set()


class _Leaving:
    """The receiver of a pipe that was turned away: awaits its end."""

    __slots__ = ("_handshakes", "_pipe")

    def __init__(self, handshakes: _Handshakes, pipe: StreamPipe) -> None:
        self._handshakes = handshakes
        self._pipe = pipe

    def on_data(self, data: Buffer) -> None:
        """Nothing comes from a closed pipe."""

    def on_writable(self) -> None:
        """Nobody writes."""

    def on_closed(self, error: EchoStreamError | None) -> None:
        """It is gone."""
        self._handshakes.gone(self._pipe)


async def _dial(
    url: Url,
    sock: socket.socket,
    options: TlsTransportOptions,
    capabilities: Capabilities,
    context: ssl.SSLContext,
    check_peer: Callable[[ssl.SSLObject], str | None],
    alpns: Sequence[str | None],
    plain_hint: str,
) -> TlsPipe:
    """A pipe whose handshake has succeeded. ConnectFailed, or SSLCertVerificationError as it is."""
    local, peer = ends_of(url, sock)
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ready(pipe: StreamPipe) -> None:
        if not ready.done():
            ready.set_result(None)

    def on_failed(pipe: TlsPipe, what: str, cause: Exception | None) -> None:
        if ready.done():
            return
        if isinstance(cause, (ConnectFailed, ssl.SSLCertVerificationError)):
            ready.set_exception(cause)
        else:
            hint = "" if pipe.manner == "tls" else f"; {plain_hint}"
            ready.set_exception(caused_by(ConnectFailed(f"the peer at {url} {what}{hint}"), cause))

    pipe = TlsPipe(
        capabilities=capabilities,
        local_address=local,
        peer_address=peer,
        context=context,
        server_name=options.tls.server_name or url.host,
        handshake_timeout_s=options.handshake_timeout_s,
        check_peer=check_peer,
        on_ready=on_ready,
        on_failed=on_failed,
        alpns=alpns,
    )
    try:
        await attach(url, pipe, sock)
        await ready
    except asyncio.CancelledError:
        pipe.abort()
        raise
    return pipe


async def _expiry(
    context: ssl.SSLContext,
    attempt: Callable[[ssl.SSLContext, Callable[[ssl.SSLObject], str | None]], Awaitable[TlsPipe]],
) -> str | None:
    """Until when the listener's certificate was valid, ``2026-11-21``; None when that cannot be found out.

    OpenSSL does not show the certificate of a failed handshake, so this is a second one, in which everything but the
    time is verified, and which is given up once the certificate is there.
    """
    found: list[str] = []

    def look(tls: ssl.SSLObject) -> str | None:
        found.append(str((tls.getpeercert() or {}).get("notAfter", "")))
        raise ConnectFailed("only looked")

    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        async with asyncio.timeout(EXPIRY_TIMEOUT_S):
            await attempt(context, look)
    except (ConnectFailed, ssl.SSLCertVerificationError, TimeoutError):
        pass
    if not found or not found[0]:
        return None
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(found[0]), UTC)
    return None if end > datetime.now(UTC) else end.date().isoformat()  # else it is its authority's that has expired
