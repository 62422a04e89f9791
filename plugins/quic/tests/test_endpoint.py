"""The socket: segmentation where the system offers it, single packets where it does not, patience when it is full."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any

import pytest

from echostream_quic.endpoint import MAX_PENDING, UDP_GRO, UdpSocket, open_socket, url_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="segmentation offload is Linux's")


class Side:
    """One socket and what it received."""

    def __init__(self, *, offload: bool = True, peer: Side | None = None) -> None:
        self.sock = open_socket(socket.AF_INET, buffer_bytes=1_000_000, offload=offload)
        self.sock.bind(("127.0.0.1", 0))
        if peer is not None:
            self.sock.connect(peer.udp.address)
        self.batches: list[list[bytes]] = []
        self.turns = 0
        self.writable = 0
        self.errors: list[OSError] = []
        self.changed = asyncio.Event()
        self.udp: UdpSocket = UdpSocket(
            asyncio.get_running_loop(),
            self.sock,
            connected=peer is not None,
            offload=offload,
            on_datagrams=lambda datagrams, address: self.batches.append(datagrams),
            on_turn=self.on_turn,
            on_writable=self.on_writable,
            on_error=self.errors.append,
        )

    def on_turn(self) -> None:
        self.turns += 1
        self.changed.set()

    def on_writable(self) -> None:
        self.writable += 1

    async def received(self, count: int) -> list[bytes]:
        """The first ``count`` datagrams."""
        while sum(map(len, self.batches)) < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)
        return [data for batch in self.batches for data in batch]


MIXED = [bytes([number]) * size for number, size in enumerate([1_200] * 70 + [300] + [1_400] * 3 + [50, 60, 1_200])]


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("connected", [True, False])
async def test_datagrams_of_any_sizes_arrive_in_order_and_whole(offload: bool, connected: bool) -> None:
    far = Side(offload=offload)
    near = Side(offload=offload, peer=far if connected else None)
    near.udp.send([(data, far.udp.address) for data in MIXED])
    assert await far.received(len(MIXED)) == MIXED
    assert near.errors == far.errors == []
    near.udp.close()
    far.udp.close()


async def test_runs_of_equal_datagrams_cost_one_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Side()
    near = Side(peer=far)
    calls: list[int] = []
    real = UdpSocket._send_segmented

    def counting(self: UdpSocket, datagrams: list[bytes], size: int, address: Any) -> None:
        calls.append(len(datagrams))
        real(self, datagrams, size, address)

    monkeypatch.setattr(UdpSocket, "_send_segmented", counting)
    near.udp.send([(bytes(1_200), far.udp.address)] * 40 + [(b"shorter", far.udp.address)])
    await far.received(41)
    assert calls == [41]
    if far.sock.getsockopt(17, UDP_GRO):
        assert len(far.batches) < 41
    near.udp.close()
    far.udp.close()


@pytest.mark.parametrize("refusal", [errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EMSGSIZE])
async def test_where_segmentation_is_refused_each_datagram_goes_alone(
    refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Side()
    near = Side(peer=far)
    tried = 0

    def refusing(self: UdpSocket, datagrams: list[bytes], size: int, address: Any) -> None:
        nonlocal tried
        tried += 1
        raise OSError(refusal, "no")

    monkeypatch.setattr(UdpSocket, "_send_segmented", refusing)
    for _ in range(10):
        near.udp.send([(bytes(1_000), far.udp.address)] * 5)
    assert len(await far.received(50)) == 50
    assert tried == 3  # then it is left alone
    assert near.errors == []
    near.udp.close()
    far.udp.close()


async def test_a_full_socket_keeps_what_it_could_not_take_and_tells_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Side(offload=False)
    near = Side(offload=False, peer=far)
    full = True

    class Full:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

        def send(self, data: bytes) -> int:
            if full:
                raise BlockingIOError
            return self._sock.send(data)

    near.udp._sock = Full(near.sock)  # type: ignore[assignment]
    near.udp.send([(b"1", None), (b"2", None)])
    assert near.udp.blocked
    near.udp.send([(b"3", None)])
    near.udp.send([(b"x", None)] * (MAX_PENDING + 5))
    assert near.udp.lost == 8
    full = False
    assert (await far.received(MAX_PENDING))[:3] == [b"1", b"2", b"3"]
    assert not near.udp.blocked
    assert near.writable == 1
    near.udp.close()
    far.udp.close()


async def test_a_datagram_too_large_for_the_route_is_lost_like_any_other() -> None:
    far = Side()
    near = Side(peer=far)
    near.udp.send([(bytes(65_530), None), (b"next", None)])
    assert await far.received(1) == [b"next"]
    assert near.udp.lost == 1
    assert near.errors == []
    near.udp.close()
    far.udp.close()


async def test_what_icmp_reports_is_passed_on() -> None:
    gone = Side()
    near = Side(peer=gone)
    gone.udp.close()
    near.udp.send([(b"anybody?", None)])
    for _ in range(100):
        if near.errors:
            break
        await asyncio.sleep(0.01)
    assert isinstance(near.errors[0], ConnectionRefusedError)
    near.udp.close()


async def test_a_closed_socket_sends_and_hears_nothing() -> None:
    far = Side()
    near = Side(peer=far)
    near.udp.close()
    near.udp.close()
    near.udp.send([(b"late", None)])
    await asyncio.sleep(0.05)
    assert far.batches == []
    far.udp.close()


def test_addresses_as_urls() -> None:
    assert url_of("quic", ("192.0.2.1", 4433)) == "quic://192.0.2.1:4433"
    assert url_of("quic", ("2001:db8::1", 4433, 0, 0)) == "quic://[2001:db8::1]:4433"
    assert url_of("quic", ("0.0.0.0", 4433)) == "quic://127.0.0.1:4433"
    assert url_of("quic", ("::", 4433, 0, 0)) == "quic://[::1]:4433"
