"""The queue in which datagrams wait: bounded, the oldest and the expired go, and every one is accounted for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


def queue(most: int) -> tuple[DatagramQueue, Clock]:
    clock = Clock()
    return DatagramQueue(most, clock, DatagramDrops()), clock


def rest(waiting: DatagramQueue) -> list[bytes]:
    found = []
    while (datagram := waiting.peek()) is not None:
        found.append(datagram)
        waiting.pop()
    return found


def test_what_waits_comes_out_in_order() -> None:
    waiting, clock = queue(10)
    assert all(waiting.put(b"%d" % number, None) for number in range(10))
    assert rest(waiting) == [b"%d" % number for number in range(10)]
    assert waiting.drops == DatagramDrops()
    assert clock.asked == 0  # nobody asks for the time where nothing expires


def test_a_full_queue_drops_the_oldest_and_says_so() -> None:
    waiting, _ = queue(3)
    assert [waiting.put(b"%d" % number, None) for number in range(5)] == [True, True, True, False, False]
    assert rest(waiting) == [b"2", b"3", b"4"]
    assert waiting.drops.as_dict() == DatagramDrops(full=2).as_dict()


def test_a_full_queue_drops_the_expired_before_the_oldest() -> None:
    waiting, clock = queue(3)
    waiting.put(b"lasting", None)
    waiting.put(b"brief", 1.0)
    waiting.put(b"longer", 5.0)
    clock.now = 1.0
    assert waiting.put(b"new", 9.0) is True
    assert rest(waiting) == [b"lasting", b"longer", b"new"]
    assert waiting.drops == DatagramDrops(expired=1)


def test_what_expires_at_this_moment_is_not_sent_any_more() -> None:
    waiting, clock = queue(3)
    waiting.put(b"old", 1.0)
    waiting.put(b"good", 1.5)
    assert waiting.peek() == b"old"
    clock.now = 1.0
    assert waiting.peek() == b"good"
    clock.now = 2.0
    assert waiting.peek() is None
    assert not waiting.waiting
    assert waiting.drops == DatagramDrops(expired=2)


def test_a_full_queue_is_searched_only_when_something_can_have_expired() -> None:
    waiting, clock = queue(100)
    for number in range(100):
        waiting.put(b"", 10.0 + number)
    clock.asked = 0
    for _ in range(50):
        waiting.put(b"", 500.0)
    assert (waiting.drops.full, clock.asked) == (50, 50)
    clock.now = 70.0
    waiting.put(b"", 500.0)
    assert waiting.drops == DatagramDrops(full=50, expired=11)  # those that end at 60 to 70


def test_the_end_and_a_refusal_count_what_waited() -> None:
    waiting, _ = queue(5)
    waiting.put(b"a", None)
    waiting.put(b"b", None)
    waiting.refuse()
    waiting.put(b"c", None)
    waiting.close()
    waiting.close()
    assert not waiting.waiting
    assert waiting.drops == DatagramDrops(refused=2, closed=1)
    assert waiting.drops.total == 3


@given(
    st.integers(1, 5),
    st.lists(st.one_of(st.just("take"), st.just("wait"), st.none(), st.integers(1, 4)), max_size=60),
)
def test_what_comes_out_is_a_subsequence_of_what_came_in_and_all_are_accounted_for(
    most: int, steps: list[object]
) -> None:
    waiting, clock = queue(most)
    put: list[bytes] = []
    expiry: dict[bytes, float] = {}
    taken: list[bytes] = []
    for step in steps:
        if step == "take":
            datagram = waiting.peek()
            if datagram is not None:
                waiting.pop()
                taken.append(datagram)
                assert expiry[datagram] > clock.now
        elif step == "wait":
            clock.now += 1.0
        else:
            datagram = b"%d" % len(put)
            put.append(datagram)
            expires_at = clock.now + step if isinstance(step, int) else None
            expiry[datagram] = float("inf") if expires_at is None else expires_at
            dropped = waiting.drops.full
            assert waiting.put(datagram, expires_at) is (waiting.drops.full == dropped)
        assert len(waiting.waiting) <= most
    left = iter(put)
    assert all(datagram in left for datagram in taken)
    assert len(put) == len(taken) + len(waiting.waiting) + waiting.drops.total
