"""The queue of the policy ``conflate``: the latest of each key, in the place of the first."""

from __future__ import annotations

import pytest

from echostream_core.engine.latest_queue import LatestQueue


def test_a_newer_item_takes_the_place_of_the_older_one() -> None:
    queue: LatestQueue[str] = LatestQueue()
    assert queue.put("a", "a1") is None
    assert queue.put("b", "b1") is None
    assert queue.put("a", "a2") == "a1"
    assert len(queue) == 2
    assert queue[0] == "a2"
    assert [queue.popleft(), queue.popleft()] == ["a2", "b1"]
    assert not queue


def test_after_it_was_taken_a_key_stands_at_the_end_again() -> None:
    queue: LatestQueue[int] = LatestQueue()
    for key in "ab":
        queue.put(key, 1)
    queue.popleft()
    assert queue.put("a", 2) is None
    assert [queue.popleft(), queue.popleft()] == [1, 2]


def test_what_is_empty_says_so() -> None:
    queue: LatestQueue[int] = LatestQueue()
    with pytest.raises(IndexError, match="empty"):
        queue.popleft()
    with pytest.raises(IndexError):
        queue[0]
    queue.put("a", 1)
    with pytest.raises(IndexError):
        queue[1]
    queue.clear()
    assert not queue


def test_a_hundred_thousand_keys_are_taken_one_by_one() -> None:
    """With a plain dict each taking would search from the beginning: that took minutes."""
    queue: LatestQueue[int] = LatestQueue()
    for number in range(100_000):
        queue.put(number, number)
    assert [queue.popleft() for _ in range(100_000)] == list(range(100_000))
