"""Datagrams of the memory transport that wait: for the other end to start, within their bound and their time."""

from __future__ import annotations

import asyncio

from echostream_core.builtin.memory import MemoryOptions
from echostream_core.types import Buffer
from echostream_core.wire.datagrams import DatagramDrops
from tests.unit.memory_ends import User, connect, settle

LOOPS = ("virtual",)


async def test_what_expires_before_the_other_end_starts_is_dropped() -> None:
    ends = await connect()
    ends.one.start(ends.user)
    now = asyncio.get_running_loop().time()
    for text, expires_at in ((b"old", now + 1), (b"good", now + 1.5), (b"lasting", None)):
        assert ends.one.send_datagram([text], expires_at)
    await asyncio.sleep(1)
    ends.other.start(ends.peer)
    await settle()
    assert ends.peer.datagrams == [b"good", b"lasting"]
    assert ends.one.datagram_drops == DatagramDrops(expired=1)


async def test_a_full_queue_drops_what_has_expired_first() -> None:
    ends = await connect(MemoryOptions(max_queued_datagrams=2))
    ends.one.start(ends.user)
    now = asyncio.get_running_loop().time()
    assert ends.one.send_datagram([b"lasting"])
    assert ends.one.send_datagram([b"brief"], now + 1)
    await asyncio.sleep(1)
    assert ends.one.send_datagram([b"new"])
    assert not ends.one.send_datagram([b"newest"])
    ends.other.start(ends.peer)
    await settle()
    assert ends.peer.datagrams == [b"new", b"newest"]
    assert ends.one.datagram_drops == DatagramDrops(full=1, expired=1)


async def test_what_waits_at_the_end_and_what_comes_after_it_is_counted() -> None:
    ends = await connect()
    ends.start()
    ends.one.send_datagram([b"late"])
    ends.one.close(0, "")
    ends.one.send_datagram([b"later"])
    await settle()
    assert ends.peer.datagrams == []
    assert ends.one.datagram_drops == DatagramDrops(closed=2)


async def test_a_datagram_sent_by_a_callback_waits_for_the_next_turn() -> None:
    ends = await connect()
    ends.start()
    turns: list[int] = []
    now = 0

    class Answering(User):
        def on_datagram(self, data: Buffer) -> None:
            turns.append(now)
            if len(turns) < 3:
                ends.one.send_datagram([b"again"])

    ends.other.start(Answering())
    ends.one.send_datagram([b"first"])
    for _ in range(10):
        await asyncio.sleep(0)
        now += 1
    assert len(set(turns)) == len(turns) == 3
