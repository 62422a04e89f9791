"""Handshakes: how a dialer and a listener come to a connection, and the ports that carry its packets.

As with TFTP, an accepted connection has a port of its own: the listener's is free again as soon as the listener is
closed, and its connections go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from logging import getLogger
from struct import error as StructError
from typing import Final

from echostream_core.errors import ConnectFailed, EchoStreamError, ResourceBusy
from echostream_core.transport import Acceptor, Listener
from echostream_core.types import Url
from echostream_sim import link_frames as wire
from echostream_sim.connection import SimConnection
from echostream_sim.hosts import Host, Port
from echostream_sim.options import SimOptions

__all__ = ["SimListener", "connect"]

FIRST_WAIT_S: Final = 0.5
"""How long a dialer waits before it says HELLO again; then twice as long, up to …"""
LONGEST_WAIT_S: Final = 2.0
"""… this."""

_log: Final = getLogger("echostream.sim")


class _Carriage:
    """One port and the one connection over it."""

    def __init__(self, host: Host, receiver: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.connection: SimConnection | None = None
        self.peer: tuple[str, int] = ("", 0)
        self._port: Port = host.bind(0, receiver, unreachable=self._unreachable)
        self.on_refused: Callable[[], None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Name of the host, and port."""
        return self._port.address

    def send(self, packet: bytes) -> None:
        """One packet to the peer. The network decides what becomes of it."""
        if not self._port.closed:
            with suppress(EchoStreamError):  # a network without that host any more loses packets like any other
                self._port.send(packet, self.peer)

    def release(self) -> None:
        """No more packets."""
        self._port.close()

    def _unreachable(self, destination: tuple[str, int]) -> None:
        if destination != self.peer:
            return
        if self.connection is not None:
            self.connection.peer_gone()
        elif self.on_refused is not None:
            self.on_refused()


async def connect(
    loop: asyncio.AbstractEventLoop, host: Host, target: Host, url: Url, port: int, number: int, options: SimOptions
) -> SimConnection:
    """Shake hands with whoever listens on ``port`` of ``target``. Cancelling leaves nothing behind."""
    answer: asyncio.Future[SimConnection] = loop.create_future()

    def receive(packet: bytes, source: tuple[str, int]) -> None:
        kind = _kind(packet, number)
        connection = carriage.connection
        if kind == wire.WELCOME and connection is None and source[0] == target.name:
            try:
                _, _, version, max_streams = wire.SHAKE.unpack(packet)
            except StructError:
                return
            if version != wire.VERSION:
                _fail(answer, f"{url} speaks version {version} of this protocol, we speak {wire.VERSION}")
                return
            carriage.peer = source
            carriage.connection = connection = SimConnection(
                loop,
                number,
                options,
                carriage,
                dials=True,
                peer_max_streams=max_streams,
                local_address=_url(carriage.address),
                peer_address=_url((target.name, port)),
            )
            connection.begin()
            if not answer.done():
                answer.set_result(connection)
        elif connection is not None and source == carriage.peer:
            _pass_on(connection, kind, packet)

    carriage = _Carriage(host, receive)
    carriage.peer = (target.name, port)
    carriage.on_refused = lambda: _fail(answer, f"nobody listens at {url}: is the server running?")
    hello = wire.SHAKE.pack(wire.HELLO, number, wire.VERSION, options.max_streams)
    wait_s, until = FIRST_WAIT_S, loop.time() + options.handshake_timeout_s
    try:
        while not answer.done() and loop.time() < until:
            carriage.send(hello)
            await asyncio.wait([answer], timeout=min(wait_s, until - loop.time()))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if not answer.done():
            raise ConnectFailed(
                f"nobody answers at {url} (waited {options.handshake_timeout_s:g} s): "
                "is the server running, and the network whole?"
            )
        return answer.result()
    except BaseException:
        if carriage.connection is not None:
            carriage.connection.abort()
        carriage.release()
        raise


class SimListener(Listener):
    """A port of a host that answers HELLO, and hands each connection that comes of it to ``accept``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: Host, port: int, url: Url, options: SimOptions, accept: Acceptor
    ) -> None:
        self._loop = loop
        self._host = host
        self._options = options
        self._accept = accept
        self._context = copy_context()
        self._handshakes: dict[tuple[tuple[str, int], int], _Handshake] = {}
        try:
            self._port = host.bind(port, self._receive)
        except ResourceBusy as error:
            raise ConnectFailed(f"cannot listen on {url}: {error}") from error
        self.address = _url(self._port.address)
        self.addresses = (self.address,)

    async def close(self) -> None:
        """Accept no more and free the port. Connections that were accepted go on."""
        self._port.close()
        for handshake in list(self._handshakes.values()):
            handshake.give_up()

    @property
    def unfinished_handshakes(self) -> int:
        """Handshakes that have begun, and whose dialer has not been heard of again."""
        return len(self._handshakes)

    def _receive(self, packet: bytes, source: tuple[str, int]) -> None:
        try:
            kind, number, _version, max_streams = wire.SHAKE.unpack(packet)
        except StructError:
            return
        if kind != wire.HELLO:
            return
        key = source, number
        handshake = self._handshakes.get(key)
        if handshake is None:
            handshake = self._handshakes[key] = _Handshake(self, key, max_streams)
        handshake.answer()

    # What handshakes call

    def begin(self, handshake: _Handshake, carriage: _Carriage, max_streams: int) -> SimConnection:
        """The connection of a handshake that a dialer has confirmed, on its way to the acceptor."""
        _, number = handshake.key
        connection = SimConnection(
            self._loop,
            number,
            self._options,
            carriage,
            dials=False,
            peer_max_streams=max_streams,
            local_address=self.address,
            peer_address=_url(carriage.peer),
        )
        self.forget(handshake)
        self._loop.call_soon(self._hand_over, connection, context=self._context)
        return connection

    def forget(self, handshake: _Handshake) -> None:
        """It has come to its end, either way."""
        self._handshakes.pop(handshake.key, None)

    def _hand_over(self, connection: SimConnection) -> None:
        if self._port.closed:
            connection.abort()
            return
        try:
            self._accept(connection)
        except Exception:
            _log.exception("%s: the acceptor failed", self.address)
            connection.abort()

    def carriage(self, receiver: Callable[[bytes, tuple[str, int]], None]) -> _Carriage:
        """A port of its own for one connection."""
        return _Carriage(self._host, receiver)

    def welcome(self, number: int) -> bytes:
        """The answer to HELLO."""
        return wire.SHAKE.pack(wire.WELCOME, number, wire.VERSION, self._options.max_streams)

    def expiry(self, give_up: Callable[[], None]) -> asyncio.TimerHandle:
        """When a dialer that falls silent is forgotten."""
        return self._loop.call_later(self._options.handshake_timeout_s, give_up)


class _Handshake:
    """The listener's side of one handshake, until the dialer's first packet confirms it."""

    def __init__(self, listener: SimListener, key: tuple[tuple[str, int], int], max_streams: int) -> None:
        self.key = key
        self._listener = listener
        self._max_streams = max_streams
        self._carriage = listener.carriage(self._receive)
        self._carriage.peer = key[0]
        self._carriage.on_refused = self.give_up
        self._expiry = listener.expiry(self.give_up)

    def answer(self) -> None:
        """Say WELCOME: the HELLO is here, perhaps once more."""
        self._carriage.send(self._listener.welcome(self.key[1]))

    def give_up(self) -> None:
        """The dialer is gone, or we are."""
        self._expiry.cancel()
        self._listener.forget(self)
        if self._carriage.connection is None:
            self._carriage.release()

    def _receive(self, packet: bytes, source: tuple[str, int]) -> None:
        source_expected, number = self.key
        kind = _kind(packet, number)
        if source != source_expected:
            return
        connection = self._carriage.connection
        if connection is None:
            if kind == wire.GONE:
                self.give_up()
            if kind != wire.PACKET:
                return
            self._expiry.cancel()
            connection = self._listener.begin(self, self._carriage, self._max_streams)
            self._carriage.connection = connection
        _pass_on(connection, kind, packet)


def _pass_on(connection: SimConnection, kind: int, packet: bytes) -> None:
    if kind == wire.PACKET:
        connection.receive(packet)
    elif kind == wire.GONE:
        connection.peer_gone()


def _kind(packet: bytes, number: int) -> int:
    """The packet's kind; 0 when it is for another connection, or too short."""
    if len(packet) < wire.SHORT.size:
        return 0
    kind, found = wire.SHORT.unpack_from(packet)
    return int(kind) if found == number else 0


def _fail(answer: asyncio.Future[SimConnection], message: str) -> None:
    if not answer.done():
        answer.set_exception(ConnectFailed(message))


def _url(address: tuple[str, int]) -> str:
    return f"sim://{address[0]}:{address[1]}"
