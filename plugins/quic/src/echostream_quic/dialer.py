"""Dialling: one socket per connection, the handshake, and the drain after the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final

from aioquic.quic.configuration import QuicConfiguration

from echostream_core.errors import ConnectFailed, EchoStreamError
from echostream_core.types import Url
from echostream_quic._aioquic import Engine
from echostream_quic._errors import BAD_CERTIFICATE, CRYPTO_ERROR, DEVELOPMENT, cannot_find, nobody_answers
from echostream_quic.clock import clock_of
from echostream_quic.connection import QuicConnection
from echostream_quic.dialect import Dialect
from echostream_quic.endpoint import Address, UdpSocket, url_of
from echostream_quic.options import QuicOptions
from echostream_quic.portable import PortableSocket, open_udp
from echostream_quic.tls import dialer_configuration, fingerprint, pin_of

__all__ = ["dial"]

STAGGER_S: Final = 0.25
"""How long one address of a name may stay silent before the next is tried as well (RFC 8305 section 5)."""


async def dial(
    url: Url, port: int, options: QuicOptions, make_dialect: Callable[[], Dialect] = Dialect
) -> QuicConnection:
    """Connect to ``url``, trying all addresses that its host has; the first whose handshake completes is taken."""
    loop = asyncio.get_running_loop()
    configuration = dialer_configuration(options, url.host, make_dialect().alpn)
    pin = pin_of(options.tls)
    try:
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:
        raise cannot_find(url.host, str(url), error) from error
    attempts = [
        _Attempt(loop, url, family, address, configuration, pin, options, make_dialect())
        for family, _, _, _, address in dict.fromkeys(found)
    ]
    if len(attempts) == 1:
        return await attempts[0].run()
    return await _race(attempts)


async def _race(attempts: Sequence[_Attempt]) -> QuicConnection:
    """The first attempt to succeed; each begins when the one before has failed, or has been silent for a while.

    When all fail, the answer of a peer tells more than that there was none at another address.
    """
    running: dict[asyncio.Task[QuicConnection], _Attempt] = {}
    waiting = list(attempts)
    failure: EchoStreamError | None = None
    answered = False
    taken: QuicConnection | None = None
    try:
        while True:
            pending = [task for task in running if not task.done()]
            if waiting:
                attempt = waiting.pop(0)
                task = asyncio.ensure_future(attempt.run())
                running[task] = attempt
                pending.append(task)
            elif not pending:
                assert failure is not None, "there is at least one attempt"
                raise failure
            done, _ = await asyncio.wait(
                pending, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    taken = task.result()
                    return taken
                if not isinstance(error, EchoStreamError):
                    raise error
                if failure is None or (running[task].answered and not answered):
                    failure, answered = error, running[task].answered
    finally:
        for task in running:
            if not task.cancel() and not task.cancelled() and task.exception() is None and task.result() is not taken:
                task.result().abort()  # two succeeded at once
        try:
            if running:
                await asyncio.wait(running)
        except asyncio.CancelledError:
            if taken is not None:
                taken.abort()  # nobody will have it
            raise


class _Attempt:
    """One handshake with one address; afterwards the connection's link to its socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: Url,
        family: int,
        address: Address,
        configuration: QuicConfiguration,
        pin: bytes | None,
        options: QuicOptions,
        dialect: Dialect,
    ) -> None:
        self._loop = loop
        self._clock = clock_of(loop)
        self._url = url
        self._family = family
        self._address = address
        self._configuration = configuration
        self._pin = pin
        self._options = options
        self._dialect = dialect
        self._socket: UdpSocket | PortableSocket | None = None
        self._connection: QuicConnection | None = None
        self._answer: asyncio.Future[QuicConnection] = loop.create_future()
        self.answered = False
        """It has failed, but not because nobody is there."""

    async def run(self) -> QuicConnection:
        """Connect; cancelling leaves nothing behind."""
        try:
            self._socket = await open_udp(
                self._loop,
                self._family,
                connect=self._address,
                buffer_bytes=self._options.socket_buffer_bytes,
                offload=self._options.offload,
                on_datagrams=self._on_datagrams,
                on_turn=self._on_turn,
                on_writable=self._on_turn,
                on_error=self._on_error,
            )
        except OSError as error:
            raise ConnectFailed(f"cannot reach {self._url}: {error.strerror or error}") from error
        self._address = self._socket.peer
        scheme, dialect = self._url.scheme, self._dialect
        engine = Engine(
            self._configuration,
            self._options,
            now=self._clock(),
            uni_streams=dialect.uni_streams,
            first_is_control=dialect.first_is_control,
        )
        connection = self._connection = QuicConnection(
            self._loop,
            self._clock,
            engine,
            self,
            self._options,
            dialect,
            dials=True,
            local_address=url_of(scheme, self._socket.address),
            peer_address=url_of(scheme, self._address) + dialect.path,
        )
        try:
            connection.connect(self._address)
            return await self._answer
        except BaseException:
            connection.abort()
            connection.turn()
            self._socket.close()
            raise

    # The connection's link

    @property
    def blocked(self) -> bool:
        """The socket is full."""
        return self._socket is not None and self._socket.blocked

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Send to the one peer there is."""
        if self._socket is not None:
            self._socket.send(datagrams)

    def cid_added(self, connection: QuicConnection, cid: bytes) -> None:
        """The socket has one connection: nothing to look up."""

    def cid_removed(self, connection: QuicConnection, cid: bytes) -> None:
        """The socket has one connection: nothing to look up."""

    def verified(self, connection: QuicConnection) -> bool:
        """The handshake is complete on our side: hold the certificate against the pin before the peer learns of it."""
        if self._pin is not None:
            shown = fingerprint(connection.engine.peer_certificate)
            if shown != self._pin:
                connection.refuse(
                    CRYPTO_ERROR + BAD_CERTIFICATE,
                    f"{DEVELOPMENT if self._options.tls.dev else 'pinned'} is sha256:{self._pin.hex()}, "
                    f"shown was sha256:{shown.hex()}",
                )
                return False
        return True

    def established(self, connection: QuicConnection) -> None:
        """The connection can be used."""
        if not self._answer.done():
            self._answer.set_result(connection)

    def ended(self, connection: QuicConnection) -> None:
        """Tell the dialer why, if it still waits, and close the socket.

        Without a drain, as RFC 9000 section 10.2 allows where the socket is closed: what comes late is answered by
        ICMP. The farewell cannot be repeated on demand then, so it goes twice at once.
        """
        ending = connection.engine.ending
        if not self._answer.done() and ending is not None:
            failure = connection.error
            if not isinstance(failure, ConnectFailed):
                failure = connection.dialect.connect_failed(
                    str(self._url), ending, patience_s=self._options.idle_timeout_s
                )
            self.answered = not ending.silent
            self._answer.set_exception(failure)
        if self._socket is not None:
            self._socket.send(connection.farewell)
            self._socket.close()

    # The socket's callbacks

    def _on_datagrams(self, datagrams: list[bytes], address: Address) -> None:
        if self._connection is not None:
            self._connection.receive(datagrams, self._address, self._clock())

    def _on_turn(self) -> None:
        if self._connection is not None:
            self._connection.turn()

    def _on_error(self, error: OSError) -> None:
        """What ICMP said. Before the handshake that is an answer; later it is a hint."""
        if self._answer.done():
            if error.errno == errno.ECONNREFUSED and self._connection is not None:
                self._connection.unreachable(error)
            return
        if error.errno == errno.ECONNREFUSED:
            failure = ConnectFailed(nobody_answers(str(self._url)))
        else:
            failure = ConnectFailed(f"cannot reach {self._url}: {error.strerror or error}")
        failure.__cause__ = error
        self._answer.set_exception(failure)
