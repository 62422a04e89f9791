"""Finding the packet size of a path, and leaving it when large packets vanish."""

from __future__ import annotations

from echostream_quic.pathsize import AGAIN_AFTER_S, PROBES_PER_SIZE, PathSize


def give_up(size: PathSize, now: float) -> int:
    """Lose all probes of the present size; which it was."""
    wanted = size.wanted(now)
    for _ in range(PROBES_PER_SIZE):
        assert size.wanted(now) == wanted
        size.on_way = True
        assert size.wanted(now) == 0
        size.lost(wanted)
    return wanted


def test_the_largest_is_tried_first_and_then_nothing() -> None:
    size = PathSize(1_452)
    assert size.size == 1_200
    assert size.wanted(0.0) == 1_452
    size.on_way = True
    size.carried(1_452)
    assert size.size == 1_452
    assert size.wanted(0.0) == 0


def test_sizes_that_do_not_arrive_are_given_up_one_by_one() -> None:
    size = PathSize(8_192)
    tried = []
    while size.wanted(0.0):
        tried.append(give_up(size, 0.0))
    assert tried == [8_192, 4_096, 1_452, 1_400, 1_350, 1_280]
    assert size.size == 1_200


def test_one_lost_probe_gives_up_nothing() -> None:
    size = PathSize(1_452)
    size.on_way = True
    size.lost(1_452)
    assert size.wanted(0.0) == 1_452


def test_another_path_begins_small_at_once() -> None:
    size = PathSize(1_452)
    size.carried(1_452)
    size.begin_again(5.0, suspect=False)
    assert size.size == 1_200
    assert size.wanted(5.0) == 1_452


def test_a_path_that_swallows_large_packets_is_left_alone_for_a_while() -> None:
    size = PathSize(1_452)
    size.carried(1_452)
    size.begin_again(5.0, suspect=True)
    assert size.size == 1_200
    assert size.wanted(5.0 + AGAIN_AFTER_S - 1) == 0
    assert size.wanted(5.0 + AGAIN_AFTER_S) == 1_452


def test_with_the_smallest_size_nothing_is_probed() -> None:
    assert PathSize(1_200).wanted(0.0) == 0
