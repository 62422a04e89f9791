"""Many substreams both ways over networks of every kind: each byte arrives once and in order, whatever the seed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from echostream_core.types import Priority
from echostream_sim import simulate
from plugins.sim.tests.transport_ends import Ends, Session, Stream, connected, network

STREAMS = 12


class Answering(Session):
    """Ends its own direction when the peer has ended its one, so that a place is free for another substream."""

    def on_substream(self, substream: Any) -> Stream:
        stream = super().on_substream(substream)
        end = stream.on_end

        def answer() -> None:
            end()
            substream.write([], True)

        stream.on_end = answer  # type: ignore[method-assign]
        return stream


async def write(dice: random.Random, stream: Stream, data: bytes) -> None:
    """Write in pieces of any size, and wait when asked to."""
    at = 0
    while at < len(data):
        size = dice.randrange(1, 40_000)
        if not stream.write(data[at : at + size]):
            stream.events.clear()
            await stream.happens("writable")
        at += size
        if dice.random() < 0.3:
            await asyncio.sleep(dice.random() * 0.1)
    stream.write(end=True)


async def storm(dice: random.Random, ends: Ends) -> None:
    """Substreams from both ends at once; what each carries begins with its number."""
    expected = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(STREAMS):
            data = bytes((number,)) + dice.randbytes(dice.choice([0, 100, 5_000, 120_000]))
            expected.append(data)
            session = ends.near if number % 2 else ends.far
            tasks.create_task(write(dice, session.open(Priority(dice.randrange(1, 4))), data))
    accepted: list[Stream] = []
    for session in (ends.near, ends.far):
        own = [ends.far_control] if session is ends.far else []
        await session.until(lambda session=session, own=own: len(session.accepted) == STREAMS // 2 + len(own))  # type: ignore[misc]
        accepted += [stream for stream in session.accepted if stream not in own]
    received = [await stream.ended() for stream in accepted]
    assert sorted(received) == sorted(expected)


@pytest.mark.parametrize("seed", range(8))
def test_every_byte_arrives_once_and_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.sim.tests.transport_ends.Session", Answering)
    dice = random.Random(seed)

    async def main() -> None:
        network(
            delay_s=dice.choice([0.0, 0.001, 0.03, 0.2]),
            jitter=dice.choice([0.0, 0.005]),
            fifo=dice.random() < 0.5,
            loss=dice.choice([0.0, 0.02, 0.1, 0.3]),
            reorder=dice.choice([0.0, 0.1]),
            duplicate=dice.choice([0.0, 0.1]),
            rate_bps=dice.choice([None, 2e5, 2e6, 1e8]),
        )
        near_options = {"packet_bytes": dice.choice([300, 1_200])}
        far_options = {"max_streams": dice.choice([4, 100])}
        async with connected(near_options=near_options, far_options=far_options) as ends:
            await storm(dice, ends)

    simulate(main(), seed=seed, limit_s=3_600)
