"""Emulated datagrams of a muxed connection over a fake pipe: the agreement, the queue, and the virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from echostream_core.engine.muxed import MuxedConnection
from echostream_core.errors import CapabilityError, CloseCode, LimitExceeded, RemoteProtocolError
from echostream_core.types import Buffer, Priority
from echostream_core.wire.datagrams import DatagramDrops
from echostream_core.wire.limits import MAX_MUX_DATAGRAM_BYTES, Limits
from echostream_core.wire.mux_frames import DATAGRAM, HEADER_BYTES, encode_close, encode_datagram
from tests.unit.test_muxed import FakePipe, User
from tests.unit.wire.mux_recorder import frames

LOOPS = ("virtual",)

turn = asyncio.sleep


class Listening(User):
    """The session above, which keeps datagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.datagrams: list[bytes] = []

    def on_datagram(self, data: Buffer) -> None:
        self.datagrams.append(bytes(data))


class Ends:
    """A connection that emulates datagrams, between a fake pipe and a user; ``agreed``: the peer does, too."""

    def __init__(self, *, agreed: bool = True, queued: int = 256) -> None:
        self.pipe = FakePipe(negotiated=True)
        limits = Limits().with_changes(max_queued_datagrams=queued)
        self.connection = MuxedConnection(self.pipe, "dialer", limits=limits, emulate_datagrams=True)
        self.user = Listening()
        self.connection.start(self.user)
        if agreed:
            self.connection.settle_datagrams(peer_takes_them=True)

    def send(self, *data: bytes, expires_at: float | None = None) -> bool:
        return self.connection.send_datagram(data, expires_at)

    @property
    def sent(self) -> list[bytes]:
        """The datagrams that the pipe was given."""
        return [body for kind, _, body in frames(self.pipe.written) if kind == DATAGRAM]

    @property
    def drops(self) -> DatagramDrops:
        assert self.connection.datagram_drops is not None
        return self.connection.datagram_drops


async def test_the_record_says_emulated_once_both_have_agreed() -> None:
    ends = Ends(agreed=False)
    before = ends.connection.capabilities
    assert before.datagrams == "none"
    assert ends.connection.datagrams_open
    ends.connection.settle_datagrams(peer_takes_them=True)
    assert ends.connection.capabilities == replace(before, datagrams="emulated")
    assert not ends.connection.datagrams_open
    assert ends.connection.max_datagram_size() == MAX_MUX_DATAGRAM_BYTES


async def test_datagrams_go_at_the_end_of_the_turn_and_come_whole() -> None:
    ends = Ends()
    assert ends.send(b"one ", b"piece")
    assert ends.send(bytes(MAX_MUX_DATAGRAM_BYTES))
    assert ends.pipe.writes == []
    await turn(0)
    assert ends.sent == [b"one piece", bytes(MAX_MUX_DATAGRAM_BYTES)]
    ends.pipe.feed(encode_datagram([b"answer"], 6))
    assert ends.user.datagrams == [b"answer"]


async def test_what_is_sent_before_the_peer_has_agreed_waits_for_it() -> None:
    ends = Ends(agreed=False)
    assert ends.send(b"early")
    await turn(1)
    assert ends.sent == []
    ends.connection.settle_datagrams(peer_takes_them=True)
    await turn(0)
    assert ends.sent == [b"early"]


async def test_a_peer_that_takes_none_makes_sending_an_error() -> None:
    ends = Ends(agreed=False)
    ends.send(b"one")
    ends.send(b"two")
    ends.connection.settle_datagrams(peer_takes_them=False)
    assert ends.drops == DatagramDrops(refused=2)
    assert ends.connection.capabilities.datagrams == "none"
    assert ends.connection.max_datagram_size() == 0
    with pytest.raises(CapabilityError, match=r"fake://there: no datagrams.*emulate_datagrams = true at both ends"):
        ends.send(b"three")
    await turn(0)
    assert ends.sent == []
    ends.pipe.feed(encode_datagram([b"x"], 1))  # and one from there is against the rules
    (error,) = ends.user.closed
    assert isinstance(error, RemoteProtocolError)
    assert error.close_code == CloseCode.PROTOCOL


async def test_one_over_the_limit_is_refused_and_nothing_is_cut_up() -> None:
    ends = Ends()
    with pytest.raises(LimitExceeded, match="at most 16384") as caught:
        ends.send(bytes(MAX_MUX_DATAGRAM_BYTES), b"x")
    assert (caught.value.limit, caught.value.value) == ("max_datagram_size", MAX_MUX_DATAGRAM_BYTES + 1)
    await turn(0)
    assert ends.sent == []


async def test_behind_a_full_pipe_the_oldest_are_dropped_and_counted() -> None:
    ends = Ends(queued=10)
    ends.pipe.room = False
    ends.send(b"fills the pipe")
    await turn(0)
    answers = [ends.send(b"%d" % number) for number in range(25)]
    assert answers == [True] * 10 + [False] * 15
    assert ends.drops == DatagramDrops(full=15)
    await turn(60)
    ends.pipe.make_room()
    assert ends.sent == [b"fills the pipe", *(b"%d" % number for number in range(15, 25))]


async def test_behind_a_full_pipe_datagrams_expire_by_the_loops_clock() -> None:
    ends = Ends()
    ends.pipe.room = False
    ends.send(b"fills the pipe")
    await turn(0)
    now = asyncio.get_running_loop().time()
    ends.send(b"old", expires_at=now + 0.5)
    ends.send(b"good", expires_at=now + 1.5)
    ends.send(b"lasting")
    await turn(0.5)
    ends.pipe.make_room()
    assert ends.sent == [b"fills the pipe", b"good", b"lasting"]
    assert ends.drops == DatagramDrops(expired=1)


async def test_a_flood_from_the_peer_leaves_nothing_behind() -> None:
    ends = Ends()
    frame = encode_datagram([bytes(MAX_MUX_DATAGRAM_BYTES)], MAX_MUX_DATAGRAM_BYTES)
    for _ in range(50):
        ends.pipe.feed(frame * 10 + frame[: HEADER_BYTES + 100])
        assert len(ends.connection.mux._held) <= len(frame)
        ends.pipe.feed(frame[HEADER_BYTES + 100 :])
    assert len(ends.user.datagrams) == 550


async def test_what_waits_at_the_end_is_counted() -> None:
    ends = Ends()
    ends.send(b"late")
    ends.pipe.feed(encode_close(0, ""))
    assert ends.drops == DatagramDrops(closed=1)
    assert ends.send(b"later") is True
    assert ends.drops == DatagramDrops(closed=2)


async def test_an_aborted_connection_counts_them_too() -> None:
    ends = Ends(agreed=False)
    ends.send(b"early")
    ends.connection.abort()
    assert ends.drops == DatagramDrops(closed=1)


async def test_a_reader_of_substreams_is_not_held_up() -> None:
    ends = Ends()
    stream = ends.connection.open_substream(Priority.NORMAL)
    stream.start(ends.user)
    ends.pipe.room = False
    for _ in range(256):
        ends.send(bytes(MAX_MUX_DATAGRAM_BYTES))
    stream.write([b"small"])
    await turn(0)
    kinds = [kind & 15 for kind, _, _ in frames(ends.pipe.written)]
    assert kinds[:2] == [DATAGRAM, 1]
