"""The writing side of the control substream: one write per loop turn, large bodies at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from echostream_core import Priority
from echostream_core.engine.link import BIG_BODY_BYTES, FRAMES_PER_WRITE, ControlLink
from echostream_core.transport import Substream, SubstreamReceiver
from echostream_core.types import Buffer
from tests.support.waiting import settle

LOOPS = ("virtual",)


class Recorded(Substream):
    """Keeps each write; answers False while ``full``."""

    known_to_peer = True

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.full = False

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        self.writes.append([bytes(buffer) for buffer in buffers])
        return not self.full

    def start(self, receiver: SubstreamReceiver) -> None:
        raise NotImplementedError

    def consume(self, size: int) -> None:
        raise NotImplementedError

    def reset(self, code: int) -> None:
        raise NotImplementedError

    def stop(self, code: int) -> None:
        raise NotImplementedError

    def set_priority(self, priority: Priority) -> None:
        raise NotImplementedError


class Flushed:
    """The part of a connection that a link needs."""

    def flush(self) -> None:
        pass


class Joined:
    """A link with its substream, and how often it said that all had left."""

    def __init__(self) -> None:
        self.substream = Recorded()
        self.flushed = 0
        connection: Any = Flushed()
        self.link = ControlLink(asyncio.get_running_loop(), connection, self.on_flushed)

    def on_flushed(self) -> None:
        self.flushed += 1

    @property
    def written(self) -> list[bytes]:
        return [b"".join(parts) for parts in self.substream.writes]


async def test_frames_of_one_turn_become_one_write() -> None:
    joined = Joined()
    joined.link.attach(joined.substream, b"first ")
    joined.link.send(b"one ")
    joined.link.send(b"two")
    assert joined.written == []
    await settle()
    assert joined.written == [b"first one two"]
    assert joined.flushed == 1
    joined.link.send(b"three")
    await settle()
    assert joined.written == [b"first one two", b"three"]


async def test_what_is_sent_before_the_substream_is_there_waits_behind_its_first_frame() -> None:
    joined = Joined()
    joined.link.send(b"early ")
    joined.link.send_big(b"head ", b"body")
    await settle()
    assert joined.flushed == 0
    joined.link.attach(joined.substream, b"SETUP ")
    await settle()
    assert joined.written == [b"SETUP early head body"]


async def test_a_large_body_goes_at_once_behind_what_is_queued_and_is_not_joined() -> None:
    joined = Joined()
    joined.link.attach(joined.substream, b"SETUP")
    joined.link.send(b"small")
    body = bytes(BIG_BODY_BYTES)
    joined.link.send_big(b"head", body)
    assert joined.substream.writes == [[b"SETUPsmallhead", body]]


async def test_slots_are_free_only_when_a_full_substream_has_room_again() -> None:
    joined = Joined()
    joined.link.attach(joined.substream, b"SETUP")
    joined.substream.full = True
    joined.link.send(b"one")
    await settle()
    assert joined.link.blocked
    assert joined.flushed == 0
    joined.link.send(b"two")
    await settle()
    assert joined.flushed == 0, "what was written is still in the substream's queue"
    joined.substream.full = False
    joined.link.on_writable()
    assert joined.flushed == 1
    assert not joined.link.blocked


async def test_a_scheduled_flush_reports_even_when_nothing_was_sent() -> None:
    joined = Joined()
    joined.link.attach(joined.substream, b"SETUP")
    await settle()
    joined.link.schedule()
    joined.link.schedule()
    await settle()
    assert joined.flushed == 2
    assert joined.written == [b"SETUP"]


async def test_many_frames_of_one_turn_go_before_its_end_so_that_both_ends_work_at_once() -> None:
    joined = Joined()
    joined.link.attach(joined.substream, b"SETUP")
    await settle()
    frames = [b"%d," % number for number in range(2 * FRAMES_PER_WRITE + 1)]
    for frame in frames:
        joined.link.send(frame)
    full = [b"".join(frames[:FRAMES_PER_WRITE]), b"".join(frames[FRAMES_PER_WRITE : 2 * FRAMES_PER_WRITE])]
    assert joined.written == [b"SETUP", *full]
    assert joined.flushed == 1, "slots are counted at the end of the turn"
    await settle()
    assert joined.written == [b"SETUP", *full, frames[-1]]
    assert joined.flushed == 2


async def test_many_frames_before_the_substream_is_there_wait_for_it() -> None:
    joined = Joined()
    for _ in range(FRAMES_PER_WRITE + 1):
        joined.link.send(b".")
    await settle()
    joined.link.attach(joined.substream, b"SETUP")
    await settle()
    assert joined.written == [b"SETUP" + b"." * (FRAMES_PER_WRITE + 1)]
