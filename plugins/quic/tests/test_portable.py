"""Event loops that cannot watch sockets: the loop's own datagram endpoints behave as our sockets do."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest

from echostream_core.errors import ConnectFailed, ConnectionLost
from echostream_core.types import Priority
from echostream_quic.endpoint import MAX_PENDING, UdpSocket
from echostream_quic.portable import PortableSocket, open_udp, watches_sockets
from plugins.quic.tests.recording import Ends, connect, dial, listen
from plugins.quic.tests.unwatching import UnwatchingLoop

LOOPS = {"unwatching": UnwatchingLoop}


class Wire(asyncio.DatagramTransport):
    """A datagram transport that writes down what it is given, and fails as it is told."""

    def __init__(self, *, peer: tuple[str, int] | None = None) -> None:
        super().__init__({"sockname": ("192.0.2.1", 5000), "peername": peer})
        self.sent: list[tuple[bytes, Any]] = []
        self.room = 1_000_000
        self.error: OSError | None = None
        self.closed = False
        self.protocol: PortableSocket

    def sendto(self, data: Any, addr: Any = None) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((bytes(data), addr))
        self.room -= 1
        if self.room == 0:
            self.protocol.pause_writing()

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Side:
    """A portable socket on a :class:`Wire`, and what it called."""

    def __init__(self, *, peer: tuple[str, int] | None = None) -> None:
        self.received: list[tuple[list[bytes], Any]] = []
        self.turns = 0
        self.writable = 0
        self.errors: list[OSError] = []
        self.udp = PortableSocket(
            asyncio.get_running_loop(),
            on_datagrams=lambda datagrams, address: self.received.append((datagrams, address)),
            on_turn=self.on_turn,
            on_writable=self.on_writable,
            on_error=self.errors.append,
        )
        self.wire = Wire(peer=peer)
        self.wire.protocol = self.udp
        self.udp.connection_made(self.wire)

    def on_turn(self) -> None:
        self.turns += 1

    def on_writable(self) -> None:
        self.writable += 1


async def test_substreams_and_datagrams_work_without_add_reader() -> None:
    async with AsyncExitStack() as stack:
        ends: Ends = await connect(stack)
        assert isinstance(ends.near.connection._link._socket, PortableSocket)  # type: ignore[attr-defined]
        near, far = await ends.open(Priority.BULK)
        payload = bytes(range(256)) * 4_000
        near.write(payload, end=True)
        assert await far.ended() == b"hello" + payload
        ends.near.send_datagram(b"ping")
        await ends.far.until(lambda: ends.far.datagrams == [b"ping"])
        ends.far.close(7, "enough")
        error = await ends.near.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 7
        ends.check_rules()


async def test_dialling_nobody_fails_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ConnectFailed, match="nobody answers"):
        await dial(f"quic://127.0.0.1:{port}")


async def test_a_port_that_is_taken_is_named() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        with pytest.raises(ConnectFailed, match="cannot listen on quic"):
            await listen(stack, url=listener.addresses[0])


async def test_a_listener_goes_on_after_its_dialers_have_vanished() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        for _ in range(3):
            connection = await dial(listener)
            connection._link._socket.close()  # type: ignore[attr-defined]  # its port is closed: ICMP answers
        assert (await dial(listener)).max_datagram_size() > 1_000


async def test_a_full_endpoint_keeps_what_it_could_not_take_and_tells_of_room() -> None:
    side = Side()
    side.wire.room = 2
    target = ("192.0.2.9", 4433)
    side.udp.send([(b"1", target), (b"2", target), (b"3", target)])
    assert side.udp.blocked
    side.udp.send([(b"4", target)])
    side.udp.send([(b"x", target)] * (MAX_PENDING + 5))
    assert side.udp.lost == 7
    assert [data for data, _ in side.wire.sent] == [b"1", b"2"]
    side.wire.room = 2
    side.udp.resume_writing()
    assert [data for data, _ in side.wire.sent] == [b"1", b"2", b"3", b"4"]
    assert side.udp.blocked
    assert side.writable == 0
    side.wire.room = 1_000_000
    side.udp.resume_writing()
    assert len(side.wire.sent) == 2 + MAX_PENDING
    assert not side.udp.blocked
    assert side.writable == 1


async def test_what_comes_at_once_is_one_turn() -> None:
    side = Side()
    for data in (b"1", b"2", b"3"):
        side.udp.datagram_received(data, ("192.0.2.9", 4433))
    assert [datagrams for datagrams, _ in side.received] == [[b"1"], [b"2"], [b"3"]]
    assert side.turns == 0
    await asyncio.sleep(0)
    assert side.turns == 1


@pytest.mark.parametrize("kind", [ConnectionRefusedError, ConnectionResetError], ids=["linux", "windows"])
async def test_a_refusal_is_the_same_error_on_every_system(kind: type[OSError]) -> None:
    side = Side(peer=("192.0.2.9", 4433))
    side.udp.error_received(kind(errno.ECONNRESET, "as the system says it"))
    assert [error.errno for error in side.errors] == [errno.ECONNREFUSED]
    assert isinstance(side.errors[0].__cause__, kind)


async def test_a_refusal_of_an_overlapped_receive_is_that_error_too() -> None:
    side = Side(peer=("192.0.2.9", 4433))
    error = OSError("the network location cannot be reached")
    error.winerror = 1234  # type: ignore[attr-defined]  # Windows only
    side.udp.error_received(error)
    assert [error.errno for error in side.errors] == [errno.ECONNREFUSED]


async def test_a_datagram_too_large_for_the_route_is_lost_like_any_other() -> None:
    side = Side()
    side.wire.error = OSError(errno.EMSGSIZE, "message too long")
    side.udp.send([(bytes(65_530), ("192.0.2.9", 4433))])
    assert side.udp.lost == 1
    assert side.errors == []


async def test_an_endpoint_whose_socket_failed_reports_it_and_sends_no_more() -> None:
    side = Side()
    side.udp.connection_lost(OSError(errno.ENETDOWN, "network is down"))
    side.udp.send([(b"late", ("192.0.2.9", 4433))])
    assert [error.errno for error in side.errors] == [errno.ENETDOWN]
    assert side.wire.sent == []


async def test_a_closed_endpoint_sends_and_hears_nothing() -> None:
    side = Side()
    side.udp.datagram_received(b"just before", ("192.0.2.9", 4433))
    side.udp.close()
    side.udp.close()
    side.udp.send([(b"late", ("192.0.2.9", 4433))])
    side.udp.datagram_received(b"late", ("192.0.2.9", 4433))
    side.udp.error_received(OSError(errno.ENETDOWN, "network is down"))
    await asyncio.sleep(0)
    assert (side.wire.closed, side.udp.closed) == (True, True)
    assert (side.wire.sent, len(side.received), side.turns, side.errors) == ([], 1, 0, [])


async def test_which_way_is_taken_depends_on_the_loop() -> None:
    loop = asyncio.get_running_loop()
    assert not watches_sockets(loop)
    watching = asyncio.SelectorEventLoop()
    try:
        assert watches_sockets(watching)
    finally:
        watching.close()


async def test_addresses_and_buffers_are_those_of_the_socket() -> None:
    handlers: dict[str, Any] = {
        "on_datagrams": lambda datagrams, address: None,
        "on_turn": lambda: None,
        "on_writable": lambda: None,
        "on_error": lambda error: None,
    }
    loop = asyncio.get_running_loop()
    settings: dict[str, Any] = {"buffer_bytes": 200_000, "offload": True, **handlers}
    bound = await open_udp(loop, socket.AF_INET, bind=("127.0.0.1", 0), **settings)
    connected = await open_udp(loop, socket.AF_INET, connect=bound.address, **settings)
    assert not isinstance(bound, UdpSocket)
    assert not isinstance(connected, UdpSocket)
    assert bound.address[0] == connected.address[0] == "127.0.0.1"
    assert (bound.peer, connected.peer) == (None, bound.address)
    assert bound._transport is not None
    sock = bound._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 200_000
    bound.close()
    connected.close()
    await asyncio.sleep(0)
