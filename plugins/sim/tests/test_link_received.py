"""What has arrived: packet numbers as ranges, bytes in order."""

from __future__ import annotations

import random

import pytest

from echostream_sim.link_received import MAX_RANGES, Assembly, ReceivedNumbers


def numbers_of(received: ReceivedNumbers) -> list[int]:
    return [number for start, stop in received.ranges for number in range(start, stop)]


@pytest.mark.parametrize("seed", range(20))
def test_numbers_in_any_order_become_ranges_that_never_adjoin(seed: int) -> None:
    dice = random.Random(seed)
    received, reference = ReceivedNumbers(), set[int]()
    for _ in range(300):
        number = dice.randrange(1, 120)
        assert received.add(number) == (number not in reference)
        reference.add(number)
        assert numbers_of(received) == sorted(reference)
        assert all(left[1] < right[0] for left, right in zip(received.ranges, received.ranges[1:], strict=False))
        assert received.largest == max(reference)


def test_what_is_settled_is_forgotten_and_not_taken_again() -> None:
    received = ReceivedNumbers()
    for number in (1, 2, 5, 6, 9):
        received.add(number)
    received.settle(7)
    assert received.ranges == [(9, 10)]
    assert not received.add(3)
    assert received.add(8)
    received.settle(3)  # it never goes back
    assert not received.add(4)
    received.settle(50)
    assert received.largest == 9


def test_only_so_many_ranges_are_remembered() -> None:
    received = ReceivedNumbers()
    for number in range(1, 1_000, 2):
        received.add(number)
    assert len(received.ranges) == MAX_RANGES
    assert received.largest == 999
    assert not received.add(2)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_in_any_order_overlapping_and_repeated_give_the_bytes_once(seed: int) -> None:
    dice = random.Random(seed)
    whole = dice.randbytes(2_000)
    assembly, out = Assembly(), bytearray()
    assembly.end = len(whole)
    while not assembly.complete:
        offset = dice.randrange(len(whole))
        piece = whole[offset : offset + dice.randrange(1, 200)]
        out += b"".join(assembly.add(offset, piece))
        assert len(out) == assembly.position
    assert bytes(out) == whole
    assert assembly.add(100, whole[100:200]) == []


def test_a_longer_piece_at_the_same_place_is_not_lost_behind_a_shorter_one() -> None:
    assembly = Assembly()
    assert assembly.add(2, b"c") == []
    assert assembly.add(2, b"cdef") == []
    assert assembly.add(2, b"cd") == []
    assert b"".join(assembly.add(0, b"ab")) == b"abcdef"
