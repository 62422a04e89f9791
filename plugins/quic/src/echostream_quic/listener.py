"""Listening: one socket for many connections, told apart by connection id; handshakes limited and watched."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from logging import getLogger
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from echostream_core.transport import Acceptor, Listener
from echostream_core.types import Url
from echostream_quic._aioquic import Engine, Terms
from echostream_quic._errors import cannot_bind, cannot_find, handshake_failure
from echostream_quic.clock import clock_of
from echostream_quic.connection import QuicConnection
from echostream_quic.dialect import Dialect
from echostream_quic.endpoint import Address, UdpSocket, url_of
from echostream_quic.options import MIN_DATAGRAM_BYTES, QuicOptions
from echostream_quic.packets import CID_BYTES
from echostream_quic.portable import PortableSocket, open_udp
from echostream_quic.rates import LastSecond, Warnings
from echostream_quic.refusal import refusal
from echostream_quic.tenants import Tenant
from echostream_quic.tls import listener_configuration

__all__ = ["QuicListener", "listen"]

RETRY_ABOVE: Final = 64
"""Unfinished handshakes, or first packets within a second that were none, from which on ``retry = "auto"`` asks dialers
to prove their address."""
REFUSALS_PER_SECOND: Final = 100
"""Dialers that are told, each second, that nobody listens here any more; the others hear nothing."""

_Shared = WeakValueDictionary[Address, "_Endpoint"]
_endpoints: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared]] = WeakKeyDictionary()
"""By loop and bound address: the sockets that further listeners may share."""

_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)
"""What systems say of an address that somebody has bound; the second is Windows' word for it."""

_log: Final = getLogger("echostream.quic")


async def listen(
    url: Url,
    port: int,
    options: QuicOptions,
    accept: Acceptor,
    dialect: type[Dialect] = Dialect,
    route: str = "",
) -> QuicListener:
    """Bind all addresses that the URL's host has (all of the machine's for "").

    An address that a listener of this process and loop has bound already is shared, if that one speaks another
    protocol, or the same one with another ``route``.
    """
    loop = asyncio.get_running_loop()
    configuration = listener_configuration(options, dialect.alpn)
    tenant = Tenant(url, dialect.alpn, route, options, configuration, dialect, accept)
    try:
        found = await loop.getaddrinfo(url.host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise cannot_find(url.host, str(url), error) from error
    endpoints: list[_Endpoint] = []
    listener = QuicListener(endpoints, tenant)
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if endpoints and not port:
                address = (address[0], endpoints[0].address[1], *address[2:])  # the same port on all
            try:
                endpoint = await _open(loop, family, address, tenant)
            except OSError as error:
                if endpoints and error.errno in _NO_SUCH_ADDRESS:
                    continue
                raise cannot_bind(str(url), error) from error
            endpoints.append(endpoint)
    except BaseException:
        await listener.close()
        raise
    path = url.path if route else ""
    listener.addresses = tuple(url_of(url.scheme, endpoint.address) + path for endpoint in endpoints)
    return listener


async def _open(loop: asyncio.AbstractEventLoop, family: int, address: Address, tenant: Tenant) -> _Endpoint:
    """A new socket for ``tenant``, or its place at one that is there already; OSError where there is none for it."""
    endpoint = _Endpoint(loop, tenant)
    try:
        await endpoint.open(family, address)
    except OSError as error:
        shared = _endpoints.get(loop, _Shared()).get(address)
        if error.errno not in _TAKEN or shared is None or not shared.join(tenant):
            raise
        return shared
    _endpoints.setdefault(loop, _Shared())[endpoint.address] = endpoint
    return endpoint


class QuicListener(Listener):
    """One bound URL, which may be several sockets (a name with IPv4 and IPv6 addresses)."""

    def __init__(self, endpoints: Sequence[_Endpoint], tenant: Tenant) -> None:
        self.addresses = ()
        self._endpoints = endpoints
        self._tenant = tenant

    async def close(self) -> None:
        """Accept no more. Accepted connections go on; a socket is closed when the last of its connections has ended,
        and none of its listeners is left.
        """
        for endpoint in self._endpoints:
            endpoint.leave(self._tenant)

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
    """One socket, those who listen at it, and their connections; the link of each of them.

    What concerns the socket and unfinished handshakes goes by the settings of the first to have listened.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tenant: Tenant) -> None:
        self._loop = loop
        self._clock = clock_of(loop)
        self._scheme = tenant.url.scheme
        self._options = tenant.options
        self._versions = tenant.configuration.supported_versions
        self._tenants = [tenant]
        self._tokens = QuicRetryTokenHandler()
        self._connections: dict[bytes, QuicConnection | _Farewell] = {}
        self._cids: dict[QuicConnection, set[bytes]] = {}
        self._expiries: dict[QuicConnection, asyncio.TimerHandle] = {}
        self._touched: dict[QuicConnection, None] = {}
        self._warnings = Warnings(self._clock)
        self._noise = LastSecond()
        self._turned_away = LastSecond()
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

    def join(self, tenant: Tenant) -> bool:
        """Let ``tenant`` listen here too; False when another one has the same protocol and route.

        ConfigError when its settings do not agree with those of another route.
        """
        for other in self._tenants:
            if (other.alpn, other.route) == (tenant.alpn, tenant.route):
                return False
            tenant.check_beside(other)
        self._tenants.append(tenant)
        return True

    def leave(self, tenant: Tenant) -> None:
        """Accept no more for ``tenant``, drop what has not finished its handshake, and go when the rest has ended."""
        if tenant not in self._tenants:
            return
        self._tenants.remove(tenant)
        spoken = {other.alpn for other in self._tenants}
        for connection in list(self._expiries):
            theirs = connection.tenant
            if not spoken or (theirs is not None and theirs.alpn not in spoken):
                connection.abort()
                connection.turn()
        self._close_when_empty()

    def _close_when_empty(self) -> None:
        if not self._tenants and not self._cids:
            self._connections.clear()
            self._socket.close()
            shared = _endpoints.get(self._loop, _Shared())
            if shared.get(self.address) is self:
                del shared[self.address]

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

    def verified(self, connection: QuicConnection) -> bool:
        """Who dials is not verified here."""
        return True

    def established(self, connection: QuicConnection) -> None:
        """A handshake is complete: hand the connection over."""
        self._settle(connection)
        assert connection.tenant is not None, "it was found out in the handshake"
        try:
            connection.tenant.accept(connection)
        except Exception:
            _log.exception("%s: the acceptor failed", self.local_address)
            connection.abort()

    def ended(self, connection: QuicConnection) -> None:
        """Forget ``connection``, when what its peer may still send has come."""
        ending = connection.engine.ending
        if self._settle(connection) and ending is not None and self._tenants:
            if connection.is_verified:
                why = connection.dialect.never_ready(ending)
            else:
                why = handshake_failure(ending, " or ".join(dict.fromkeys(tenant.alpn for tenant in self._tenants)))
            if why:
                peer = connection.peer_address
                self._warnings.log("%s: the handshake of %s failed: %s", self.local_address, peer, why)
        cids = self._cids.pop(connection, set())
        until = connection.engine.close_at
        if until is not None and self._tenants:
            farewell = _Farewell(connection.farewell)
            for cid in cids:
                self._connections[cid] = farewell
            self._loop.call_later(max(0.0, until - self._clock()), self._forget, cids)
        else:
            # It cannot be repeated on demand: the socket goes with the last connection. So twice, as a dialer's.
            self._socket.send(connection.farewell)
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
        elif len(data) < MIN_DATAGRAM_BYTES or header.version is None:
            self.ignored += 1
        elif header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            self.ignored += 1  # answering one with another would never end
        elif header.version not in self._versions:
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self._versions,
            )
            self._socket.send([(answer, address)])
        elif header.packet_type is QuicPacketType.INITIAL:
            self._on_initial(data, header, address, now)
        else:
            self.ignored += 1

    def _on_initial(self, data: bytes, header: QuicHeader, address: Address, now: float) -> None:
        """The first packet of a handshake."""
        options, version = self._options, header.version or 0
        if not self._tenants:
            self._turn_away(header, version, address, now)
            return
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
        tenant = self._tenants[0]
        engine = Engine(
            tenant.configuration,
            tenant.options,
            now=now,
            uni_streams=tenant.dialect.uni_streams,
            first_is_control=tenant.dialect.first_is_control,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        connection = QuicConnection(
            self._loop,
            self._clock,
            engine,
            self,
            tenant.options,
            self._speak(tenant),
            dials=False,
            local_address=self.local_address,
            peer_address=url_of(self._scheme, address),
        )
        connection.peer_host = address[0]
        if len(self._tenants) > 1:
            engine.choose = partial(self._choose, connection, address)
        else:
            self._assign(connection, tenant, address)
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

    def _speak(self, tenant: Tenant) -> Dialect:
        dialect = tenant.dialect()
        dialect.routes = partial(self._routes, tenant.alpn)
        return dialect

    def _routes(self, alpn: str) -> dict[str, Tenant]:
        return {tenant.route: tenant for tenant in self._tenants if tenant.alpn == alpn}

    def _assign(self, connection: QuicConnection, tenant: Tenant, address: Address) -> None:
        connection.tenant = tenant
        connection.local_address = url_of(tenant.url.scheme, self.address)
        connection.peer_address = url_of(tenant.url.scheme, address)

    def _choose(self, connection: QuicConnection, address: Address, offered: Sequence[str]) -> Terms | None:
        """The first of those who listen here whose protocol the dialer offers gets the connection."""
        for tenant in self._tenants:
            if tenant.alpn in offered:
                self._assign(connection, tenant, address)
                connection.adopt(tenant.options, self._speak(tenant))
                return tenant.terms
        return self._tenants[0].terms if self._tenants else None  # whose protocol it is not: TLS refuses it

    def _turn_away(self, header: QuicHeader, version: int, address: Address, now: float) -> None:
        """Nobody listens here any more; the socket is still there for the connections that were accepted."""
        self.refused += 1
        if self._turned_away.count(now) < REFUSALS_PER_SECOND:
            self._turned_away.note(now)
            self._socket.send([(refusal(header, version), address)])

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
