"""Datagrams: whole, unordered, bounded queues that drop the oldest and count it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import LimitExceeded
from echostream_core.wire.datagrams import DatagramDrops
from plugins.quic.tests.recording import Ends, Recorder, connect, dial, listen


async def test_datagrams_arrive_whole_both_ways(ends: Ends) -> None:
    assert ends.near.send_datagram(b"one ", bytearray(b"piece"), memoryview(b"d")) is True
    assert ends.far.send_datagram(b"") is True
    await ends.far.until(lambda: ends.far.datagrams)
    await ends.near.until(lambda: ends.near.datagrams)
    assert ends.far.datagrams == [b"one pieced"]
    assert ends.near.datagrams == [b""]


async def test_the_largest_datagram_grows_with_the_path_and_is_enforced(ends: Ends) -> None:
    for _ in range(200):
        if ends.near.connection.max_datagram_size() > 1_400:
            break
        await asyncio.sleep(0.01)
    most = ends.near.connection.max_datagram_size()
    assert most == 1_452 - 27 - 3
    ends.near.send_datagram(bytes(most))
    await ends.far.until(lambda: ends.far.datagrams)
    assert len(ends.far.datagrams[0]) == most
    with pytest.raises(
        LimitExceeded, match=f"a datagram of {most + 1} bytes: the path carries at most {most}"
    ) as error:
        ends.near.send_datagram(bytes(most + 1))
    assert (error.value.limit, error.value.value, error.value.maximum) == ("max_datagram_size", most + 1, most)


async def test_the_queue_drops_the_oldest_and_counts_it() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, near_options={"max_queued_datagrams": 10})
        answers = [ends.near.send_datagram(bytes([number])) for number in range(25)]
        assert answers == [True] * 10 + [False] * 15
        assert ends.near.connection.datagram_drops == DatagramDrops(full=15)
        await ends.far.until(lambda: len(ends.far.datagrams) == 10)
        assert ends.far.datagrams == [bytes([number]) for number in range(15, 25)]


async def test_what_has_expired_when_there_is_room_is_not_sent(ends: Ends) -> None:
    connection = ends.near.connection
    now = asyncio.get_running_loop().time()
    connection.send_datagram([b"old"], expires_at=now)
    await asyncio.sleep(0.01)  # a turn with nothing but that
    assert connection.datagram_drops == DatagramDrops(expired=1)
    connection.send_datagram([b"old too"], expires_at=now)
    connection.send_datagram([b"good"], expires_at=now + 60)
    connection.send_datagram([b"lasting"])
    await ends.far.until(lambda: len(ends.far.datagrams) == 2)
    assert ends.far.datagrams == [b"good", b"lasting"]
    assert connection.datagram_drops == DatagramDrops(expired=2)


async def test_what_waits_at_the_end_is_counted(ends: Ends) -> None:
    ends.near.send_datagram(b"late")
    ends.near.close()
    assert ends.near.connection.datagram_drops == DatagramDrops(closed=1)
    await ends.near.ended()


async def test_what_arrives_before_start_waits_bounded() -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda pipe: accepted.append(Recorder(pipe).start()))
        connection = await dial(listener, max_queued_datagrams=5)
        while not accepted:
            await asyncio.sleep(0.01)
        for number in range(20):
            accepted[0].send_datagram(bytes([number]))
        await asyncio.sleep(0.1)
        recorder = Recorder(connection).start()
        await recorder.until(lambda: len(recorder.datagrams) == 5)
        assert recorder.datagrams == [bytes([number]) for number in range(15, 20)]
        assert connection.datagram_drops == DatagramDrops(crowded=15)
        recorder.abort()
        await recorder.ended()


async def test_a_flood_of_datagrams_does_not_starve_substreams(ends: Ends) -> None:
    near, far = await ends.open()
    near.write(bytes(2_000_000), end=True)

    async def flood() -> None:
        while True:
            for _ in range(200):
                ends.near.send_datagram(bytes(1_000))
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    try:
        assert len(await far.ended()) == 2_000_005
    finally:
        flooding.cancel()


async def test_sending_after_the_end_is_ignored(ends: Ends) -> None:
    ends.near.close()
    assert ends.near.send_datagram(b"late") is True
    await ends.near.ended()
    assert ends.near.send_datagram(b"late") is True
