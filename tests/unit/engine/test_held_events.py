"""What is held back for a slow peer: one order for all queues, one bound for all bytes."""

from __future__ import annotations

import pytest

from echostream_core.engine.held_events import HeldEvents, Interest


def interest(policy: str = "block", max_queue: int = 100) -> Interest:
    return Interest(1, "n", policy, max_queue, None)


def taken(held: HeldEvents) -> list[tuple[int, int]]:
    """Everything that may leave: its place, and for how many."""
    found = []
    while (following := held.next()) is not None:
        found.append((following[0].order, len(following[1])))
    return found


def test_one_event_that_several_hold_leaves_once_for_all_of_them() -> None:
    held = HeldEvents(1_000)
    one, two = interest(), interest()
    for order, takers in ((1, (one,)), (2, (one, two)), (3, (two,)), (4, (two, one))):
        frame = bytes(10 + order)
        for taker in takers:
            assert held.hold(taker, order, "n", None, frame)
    assert (held.count, held.bytes) == (6, 11 + 2 * 12 + 13 + 2 * 14)
    assert taken(held) == [(1, 1), (2, 2), (3, 1), (4, 2)]
    assert (held.count, held.bytes) == (0, 0)


def test_what_is_paused_stays_and_leaves_in_its_place_later() -> None:
    held = HeldEvents(1_000)
    one, two = interest(), interest()
    for order in range(4):
        held.hold((one, two)[order % 2], order, "n", None, b"x")
    one.paused = True
    assert taken(held) == [(1, 1), (3, 1)]
    one.paused = False
    held.enlist(one)
    held.enlist(one)
    assert taken(held) == [(0, 1), (2, 1)]


def test_a_conflated_event_leaves_apart_from_the_one_whose_place_it_has() -> None:
    held = HeldEvents(1_000)
    keeps, latest = interest(), interest("conflate")
    for order in range(2):
        frame = b"frame %d" % order
        held.hold(keeps, order, "n", None, frame)
        held.hold(latest, order, "n", None, frame)
    found = []
    while (following := held.next()) is not None:
        found.append((following[0].frame, [one.policy for one in following[1]]))
    assert sorted(found) == [(b"frame 0", ["block"]), (b"frame 1", ["block"]), (b"frame 1", ["conflate"])]
    assert latest.dropped == {"conflate": 1}


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [("block", 5, 0), ("drop_oldest", 2, 3), ("drop_newest", 2, 3), ("conflate", 1, 4), ("disconnect", 2, 3)],
)
def test_a_full_queue_does_what_its_policy_says(policy: str, kept: int, dropped: int) -> None:
    held = HeldEvents(1_000)
    one = interest(policy, 2)
    answers = [held.hold(one, order, "n", None, b"x") for order in range(5)]
    assert answers == [True, True, *([policy != "disconnect"] * 3)]
    assert len(one.queue) == held.count == kept
    assert sum(one.dropped.values()) == dropped
    assert held.has_too_much(one) == (policy == "block")
    held.forget(one)
    assert (held.count, held.bytes, held.untold) == (0, 0, {})
    assert held.next() is None
