"""Queues and turns: pieces cut to fit, lost frames first, classes that share 16:4:1 and none that starves."""

from __future__ import annotations

import random
from collections import Counter

from echostream_core.types import Priority
from echostream_quic.frames import varint_size
from echostream_quic.outgoing import Frame, Outgoing, Scheduler


def queued(*pieces: bytes, priority: Priority = Priority.NORMAL, credit: int = 1 << 40, end: bool = False) -> Outgoing:
    outgoing = Outgoing(priority)
    outgoing.credit = credit
    outgoing.push(list(pieces), end=end)
    return outgoing


def take_all(outgoing: Outgoing, room: int) -> list[Frame]:
    frames = []
    while (frame := outgoing.take(room, 1 << 40)) is not None:
        frames.append(frame)
    return frames


def test_pieces_are_cut_and_joined_to_fit() -> None:
    dice = random.Random(1)
    for _ in range(200):
        pieces = [dice.randbytes(dice.choice([0, 1, 5, 100, 1_000])) for _ in range(dice.randrange(8))]
        outgoing = queued(*pieces, end=True)
        frames = take_all(outgoing, dice.randrange(20, 300))
        assert b"".join(frame[1] for frame in frames) == b"".join(pieces)
        assert [frame[2] for frame in frames].count(True) == 1
        assert frames[-1][2]
        at = 0
        for frame in frames:
            assert frame[0] == at
            at += len(frame[1])
        assert outgoing.take(100, 100) is None


def test_memoryviews_of_any_item_size_are_taken_as_bytes() -> None:
    outgoing = Outgoing(Priority.NORMAL)
    outgoing.credit = 1_000
    outgoing.push([memoryview(bytearray(range(8))).cast("I"), bytearray(b"xyz")], end=False)
    assert outgoing.queued_bytes == 11
    assert [frame[1] for frame in take_all(outgoing, 100)] == [bytes(range(8)) + b"xyz"]


def test_credit_of_the_substream_and_of_the_connection_both_hold() -> None:
    outgoing = queued(bytes(100), credit=30)
    first = outgoing.take(100, 20)
    assert first is not None
    assert len(first[1]) == 20
    second = outgoing.take(100, 1_000)
    assert second is not None
    assert len(second[1]) == 10
    assert outgoing.take(100, 1_000) is None
    assert not outgoing.sendable
    outgoing.credit = 31
    assert outgoing.sendable


def test_lost_frames_go_first_need_no_credit_and_may_be_cut() -> None:
    outgoing = queued(b"0123456789", credit=10, end=True)
    frame = outgoing.take(100, 100)
    assert frame == (0, b"0123456789", True)
    assert not outgoing.finished
    outgoing.frame_lost(frame)
    assert outgoing.sendable
    again = [outgoing.take(header + 4, 0) for header in (3, 4, 4)]
    assert again == [(0, b"0123", False), (4, b"4567", False), (8, b"89", True)]
    assert outgoing.in_flight == 3
    outgoing.in_flight = 0
    assert outgoing.finished


def test_a_reset_drops_everything_and_is_done_when_it_was_acknowledged() -> None:
    outgoing = queued(b"never", end=True)
    assert outgoing.reset(7) is True
    assert outgoing.reset(8) is False
    assert outgoing.reset_code == 7
    assert outgoing.take(100, 100) is None
    assert not outgoing.sendable
    assert not outgoing.finished
    outgoing.reset_done = True
    assert outgoing.finished


def test_there_is_nothing_to_reset_when_all_has_arrived() -> None:
    outgoing = queued(b"all", end=True)
    outgoing.take(100, 100)
    outgoing.in_flight = 0
    assert outgoing.reset(7) is False
    assert outgoing.reset_code is None


def serve(scheduler: Scheduler, size: int, turns: int) -> Counter[Priority]:
    """Who sends how many bytes in so many turns."""
    sent: Counter[Priority] = Counter()
    for _ in range(turns):
        outgoing = scheduler.peek()
        assert outgoing is not None
        offset = outgoing.next_offset
        frame = outgoing.take(size + 3 + (varint_size(offset) if offset else 0), 1 << 40)
        assert frame is not None
        sent[outgoing.priority] += len(frame[1])
        scheduler.served(outgoing, len(frame[1]))
    return sent


def test_classes_share_sixteen_to_four_to_one() -> None:
    scheduler = Scheduler()
    for priority in (Priority.BULK, Priority.NORMAL, Priority.URGENT):
        scheduler.add(queued(bytes(10_000_000), priority=priority))
    sent = serve(scheduler, 1_000, 2_100)
    assert sent == {Priority.URGENT: 1_600_000, Priority.NORMAL: 400_000, Priority.BULK: 100_000}


def test_control_goes_before_everything() -> None:
    scheduler = Scheduler()
    scheduler.add(queued(bytes(10_000), priority=Priority.URGENT))
    scheduler.add(queued(bytes(5_000), priority=Priority.CONTROL))
    assert serve(scheduler, 1_000, 5) == {Priority.CONTROL: 5_000}
    assert serve(scheduler, 1_000, 1) == {Priority.URGENT: 1_000}


def test_substreams_of_one_class_take_turns() -> None:
    scheduler = Scheduler()
    two = [queued(bytes(3_000)), queued(bytes(3_000))]
    for outgoing in two:
        scheduler.add(outgoing)
    serve(scheduler, 1_000, 2)
    assert [outgoing.queued_bytes for outgoing in two] == [2_000, 2_000]


def test_a_class_that_was_idle_claims_nothing_for_it() -> None:
    scheduler = Scheduler()
    scheduler.add(queued(bytes(10_000_000), priority=Priority.URGENT))
    serve(scheduler, 1_000, 1_000)
    scheduler.add(queued(bytes(10_000_000), priority=Priority.BULK))
    sent = serve(scheduler, 1_000, 170)
    assert 150_000 <= sent[Priority.URGENT] <= 165_000


def test_a_changed_class_holds_at_once() -> None:
    scheduler = Scheduler()
    one, two = queued(bytes(10_000), priority=Priority.BULK), queued(bytes(10_000), priority=Priority.URGENT)
    scheduler.add(one)
    scheduler.add(two)
    scheduler.reclass(one, Priority.CONTROL)
    assert scheduler.peek() is one
    idle = Outgoing(Priority.BULK)
    scheduler.reclass(idle, Priority.URGENT)
    assert idle.priority is Priority.URGENT
    assert not idle.scheduled


def test_what_has_nothing_more_leaves() -> None:
    scheduler = Scheduler()
    outgoing = queued(b"x")
    scheduler.add(outgoing)
    scheduler.add(outgoing)
    serve(scheduler, 1_000, 1)
    assert not scheduler
    assert scheduler.peek() is None
    assert not outgoing.scheduled
