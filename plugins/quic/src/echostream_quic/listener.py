"""Listening: one socket for many connections, told apart by connection id; handshakes limited and watched."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from logging import getLogger
from typing import Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from echostream_core.errors import ConnectFailed
from echostream_core.transport import Acceptor, Listener
from echostream_core.types import Url
from echostream_quic._aioquic import Engine
from echostream_quic._errors import cannot_bind, handshake_failure
from echostream_quic.clock import clock_of
from echostream_quic.connection import QuicConnection
from echostream_quic.endpoint import Address, UdpSocket, url_of
from echostream_quic.options import MIN_DATAGRAM_BYTES, QuicOptions
from echostream_quic.packets import CID_BYTES
from echostream_quic.portable import PortableSocket, open_udp
from echostream_quic.tls import listener_configuration

__all__ = ["QuicListener", "listen"]

RETRY_ABOVE: Final = 64
"""Unfinished handshakes, or first packets within a second that were none, from which on ``retry = "auto"`` asks dialers
to prove their address."""
LOG_BURST: Final = 10
LOG_INTERVAL_S: Final = 10.0
"""At most so many warnings about failed handshakes in so many seconds; the next one says how many were left out."""

_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_log: Final = getLogger("echostream.quic")


async def listen(url: Url, port: int, options: QuicOptions, accept: Acceptor) -> QuicListener:
    """Bind all addresses that the URL's host has (all of the machine's for "")."""
    loop = asyncio.get_running_loop()
    configuration = listener_configuration(options)
    try:
        found = await loop.getaddrinfo(url.host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConnectFailed(f"cannot find {url.host!r} of {url}: {error.strerror or error}") from error
    endpoints: list[_Endpoint] = []
    listener = QuicListener(endpoints)
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if endpoints and not port:
                address = (address[0], endpoints[0].address[1], *address[2:])  # the same port on all
            endpoint = _Endpoint(loop, url.scheme, configuration, options, accept)
            try:
                await endpoint.open(family, address)
            except OSError as error:
                if endpoints and error.errno in _NO_SUCH_ADDRESS:
                    continue
                raise cannot_bind(str(url), error) from error
            endpoints.append(endpoint)
    except BaseException:
        await listener.close()
        raise
    listener.addresses = tuple(url_of(url.scheme, endpoint.address) for endpoint in endpoints)
    return listener


class QuicListener(Listener):
    """One bound URL, which may be several sockets (a name with IPv4 and IPv6 addresses)."""

    def __init__(self, endpoints: Sequence[_Endpoint]) -> None:
        self.addresses = ()
        self._endpoints = endpoints

    async def close(self) -> None:
        """Accept no more. Accepted connections go on; a socket is closed when the last of its connections has ended."""
        for endpoint in self._endpoints:
            endpoint.close()

    @property
    def unfinished_handshakes(self) -> int:
        """Handshakes that have begun and not completed."""
        return sum(endpoint.unfinished.total() for endpoint in self._endpoints)

    @property
    def ignored_datagrams(self) -> int:
        """Datagrams that were no QUIC, or for no connection that is here."""
        return sum(endpoint.ignored for endpoint in self._endpoints)

    @property
    def refused_handshakes(self) -> int:
        """Handshakes that were not begun because of the limits."""
        return sum(endpoint.refused for endpoint in self._endpoints)


class _Farewell:
    """What is left of a connection that we closed, until its peer must have heard of it (RFC 9000 section 10.2)."""

    __slots__ = ("datagrams", "heard")

    def __init__(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        self.datagrams = datagrams
        self.heard = 0

    def due(self) -> bool:
        """Another packet came: repeat the farewell for the first, second, fourth and so on."""
        self.heard += 1
        return bool(self.datagrams) and not self.heard & (self.heard - 1)


class _Endpoint:
    """One socket and its connections; the link of each of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scheme: str,
        configuration: QuicConfiguration,
        options: QuicOptions,
        accept: Acceptor,
    ) -> None:
        self._loop = loop
        self._clock = clock_of(loop)
        self._scheme = scheme
        self._configuration = configuration
        self._options = options
        self._accept = accept
        self._accepting = True
        self._tokens = QuicRetryTokenHandler()
        self._connections: dict[bytes, QuicConnection | _Farewell] = {}
        self._cids: dict[QuicConnection, set[bytes]] = {}
        self._expiries: dict[QuicConnection, asyncio.TimerHandle] = {}
        self._touched: dict[QuicConnection, None] = {}
        self._warnings = _Warnings(self._clock)
        self._noise = _LastSecond()
        self.unfinished: Counter[str] = Counter()
        """IP address → handshakes that it has begun and not completed."""
        self.ignored = 0
        self.refused = 0
        self._socket: UdpSocket | PortableSocket
        self.address: Address
        self.local_address = ""

    async def open(self, family: int, address: Address) -> None:
        """Bind ``address``; raises OSError when the system refuses."""
        self._socket = await open_udp(
            self._loop,
            family,
            bind=address,
            buffer_bytes=self._options.socket_buffer_bytes,
            offload=self._options.offload,
            on_datagrams=self._on_datagrams,
            on_turn=self._on_turn,
            on_writable=self._on_writable,
            on_error=self._on_error,
        )
        self.address = self._socket.address
        self.local_address = url_of(self._scheme, self.address)

    def close(self) -> None:
        """Accept no more, drop what has not finished its handshake, and go when the rest has ended."""
        self._accepting = False
        for connection in list(self._expiries):
            connection.abort()
            connection.turn()
        self._close_when_empty()

    def _close_when_empty(self) -> None:
        if not self._accepting and not self._cids:
            self._connections.clear()
            self._socket.close()

    # The connections' link

    @property
    def blocked(self) -> bool:
        """The socket is full."""
        return self._socket.blocked

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        """Send to whichever addresses they are for."""
        self._socket.send(datagrams)

    def cid_added(self, connection: QuicConnection, cid: bytes) -> None:
        """Packets with ``cid`` are for ``connection``."""
        self._connections[cid] = connection
        self._cids[connection].add(cid)

    def cid_removed(self, connection: QuicConnection, cid: bytes) -> None:
        """Packets with ``cid`` no longer are."""
        self._connections.pop(cid, None)
        self._cids[connection].discard(cid)

    def established(self, connection: QuicConnection) -> None:
        """A handshake is complete: hand the connection over."""
        self._settle(connection)
        try:
            self._accept(connection)
        except Exception:
            _log.exception("%s: the acceptor failed", self.local_address)
            connection.abort()

    def ended(self, connection: QuicConnection) -> None:
        """Forget ``connection``, when what its peer may still send has come."""
        ending = connection.engine.ending
        if self._settle(connection) and ending is not None and self._accepting:
            why = handshake_failure(ending)
            self._warnings.log("%s: the handshake of %s failed: %s", self.local_address, connection.peer_address, why)
        cids = self._cids.pop(connection, set())
        until = connection.engine.close_at
        if until is not None and self._accepting:
            farewell = _Farewell(connection.farewell)
            for cid in cids:
                self._connections[cid] = farewell
            self._loop.call_later(max(0.0, until - self._clock()), self._forget, cids)
        else:
            self._forget(cids)
        self._close_when_empty()

    def _forget(self, cids: set[bytes]) -> None:
        for cid in cids:
            self._connections.pop(cid, None)

    def _settle(self, connection: QuicConnection) -> bool:
        """The handshake of ``connection`` is no longer unfinished; False when it was not before."""
        expiry = self._expiries.pop(connection, None)
        if expiry is None:
            return False
        expiry.cancel()
        host = connection.peer_host
        self.unfinished[host] -= 1
        if not self.unfinished[host]:
            del self.unfinished[host]
        return True

    # The socket's callbacks

    def _on_datagrams(self, datagrams: list[bytes], address: Address) -> None:
        now = self._clock()
        at, count = 0, len(datagrams)
        while at < count:
            data = datagrams[at]
            end = at + 1
            if not data or data[0] & 0x80 or len(data) <= CID_BYTES:
                self._on_long_header(data, address, now)
            else:
                cid = data[1 : 1 + CID_BYTES]
                while end < count and datagrams[end][1 : 1 + CID_BYTES] == cid and not datagrams[end][0] & 0x80:
                    end += 1
                self._pass_on(self._connections.get(cid), datagrams[at:end], address, now)
            at = end

    def _pass_on(
        self, target: QuicConnection | _Farewell | None, datagrams: list[bytes], address: Address, now: float
    ) -> None:
        if target is None:
            self.ignored += len(datagrams)
        elif isinstance(target, _Farewell):
            if target.due():
                self._socket.send(target.datagrams)
        else:
            target.receive(datagrams, address, now)
            self._touched[target] = None

    def _on_turn(self) -> None:
        touched, self._touched = self._touched, {}
        for connection in touched:
            if connection in self._cids:
                connection.turn()

    def _on_writable(self) -> None:
        for connection in list(self._cids):
            connection.turn()

    def _on_error(self, error: OSError) -> None:
        _log.debug("%s: %s", self.local_address, error)

    # Handshakes

    def _on_long_header(self, data: bytes, address: Address, now: float) -> None:
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CID_BYTES)
        except ValueError:
            self.ignored += 1
            return
        target = self._connections.get(header.destination_cid)
        if target is not None:
            self._pass_on(target, [data], address, now)
        elif not self._accepting or len(data) < MIN_DATAGRAM_BYTES or header.version is None:
            self.ignored += 1
        elif header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            self.ignored += 1  # answering one with another would never end
        elif header.version not in self._configuration.supported_versions:
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self._configuration.supported_versions,
            )
            self._socket.send([(answer, address)])
        elif header.packet_type is QuicPacketType.INITIAL:
            self._on_initial(data, header, address, now)
        else:
            self.ignored += 1

    def _on_initial(self, data: bytes, header: QuicHeader, address: Address, now: float) -> None:
        """The first packet of a handshake."""
        options, version = self._options, header.version or 0
        unfinished = len(self._expiries)
        if unfinished >= options.max_handshakes or self.unfinished[address[0]] >= options.max_handshakes_per_address:
            self.refused += 1
            self._warnings.log(
                "%s: too many unfinished handshakes (%d, of them %d from %s): further ones are ignored",
                self.local_address,
                unfinished,
                self.unfinished[address[0]],
                address[0],
            )
            return
        original_cid, retry_cid = header.destination_cid, None
        proved = False
        if header.token:
            with suppress(ValueError):
                original_cid = self._tokens.validate_token(
                    address=address, destination_cid=header.destination_cid, token=header.token, now=now
                )
                retry_cid = header.destination_cid
                proved = True
        under_pressure = unfinished >= RETRY_ABOVE or self._noise.count(now) >= RETRY_ABOVE
        if not proved and (options.retry is True or (options.retry == "auto" and under_pressure)):
            if not header.token:
                self._send_retry(header, version, address, now)
            return
        engine = Engine(
            self._configuration,
            options,
            now=now,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        connection = QuicConnection(
            self._loop,
            self._clock,
            engine,
            self,
            options,
            dials=False,
            local_address=self.local_address,
            peer_address=url_of(self._scheme, address),
        )
        connection.peer_host = address[0]
        self._cids[connection] = set()
        self.cid_added(connection, header.destination_cid)
        self.cid_added(connection, engine.host_cid)
        self.unfinished[address[0]] += 1
        self._expiries[connection] = self._loop.call_later(options.handshake_timeout_s, self._expire, connection)
        self._pass_on(connection, [data], address, now)
        if not engine.begun:
            # It only looked like a first packet: keep nothing for it.
            self.ignored += 1
            self._noise.note(now)
            self._settle(connection)
            self._forget(self._cids.pop(connection))

    def _send_retry(self, header: QuicHeader, version: int, address: Address, now: float) -> None:
        source_cid = os.urandom(CID_BYTES)
        token = self._tokens.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_cid,
            now=now,
        )
        answer = encode_quic_retry(
            version=version,
            source_cid=source_cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self._socket.send([(answer, address)])

    def _expire(self, connection: QuicConnection) -> None:
        """The handshake took too long."""
        if connection in self._expiries:
            connection.give_up_handshake()


class _LastSecond:
    """How often something happened within the last second or so."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._count = 0

    def note(self, now: float) -> None:
        """It happened again."""
        self._count = self.count(now) + 1

    def count(self, now: float) -> int:
        """How often since the second began."""
        if now - self._since > 1.0:
            self._since, self._count = now, 0
        return self._count


class _Warnings:
    """A log that a flood of bad handshakes cannot fill."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._count = 0

    def log(self, text: str, *values: object) -> None:
        """Log one warning, or count it as left out."""
        now = self._clock()
        if now - self._since > LOG_INTERVAL_S:
            left_out = self._count - LOG_BURST
            if left_out > 0:
                _log.warning("%d warnings like those before were left out", left_out)
            self._since, self._count = now, 0
        self._count += 1
        if self._count <= LOG_BURST:
            _log.warning(text, *values)
