"""Round trips, losses, the window and the pace of packets. Time is an argument."""

from __future__ import annotations

import pytest

from echostream_sim.link_recovery import FIRST_RTT_S, LONGEST_PROBE_S, Recovery

SIZE = 1_000


def sending(recovery: Recovery, count: int, now: float) -> list[int]:
    """Send ``count`` packets; their numbers."""
    numbers = []
    for _ in range(count):
        numbers.append(recovery.next_number)
        recovery.note_sent(SIZE, [(0, recovery.next_number)], now)
    return numbers


def test_the_round_trip_is_measured_and_the_acknowledgements_delay_left_out() -> None:
    recovery = Recovery(SIZE)
    sending(recovery, 1, 0.0)
    recovery.acknowledged([(1, 2)], 0.004, 0.104)
    assert recovery.rtt == pytest.approx(0.100)
    sending(recovery, 1, 1.0)
    recovery.acknowledged([(2, 3)], 9.9, 1.205)  # more than anybody may wait: most of it does not count
    assert recovery.rtt == pytest.approx(0.1125)


def test_a_packet_is_lost_when_one_sent_three_later_has_arrived() -> None:
    recovery = Recovery(SIZE)
    sending(recovery, 5, 0.0)
    assert recovery.acknowledged([(2, 4)], 0.0, 0.1)[1] == []
    arrived, lost = recovery.acknowledged([(4, 5)], 0.0, 0.1)
    assert ([packet.number for packet in arrived], [packet.number for packet in lost]) == ([4], [1])
    assert recovery.in_flight == SIZE
    assert recovery.settled == 5


def test_a_packet_is_lost_when_one_sent_later_has_arrived_an_eighth_of_a_round_trip_ago() -> None:
    recovery = Recovery(SIZE)
    sending(recovery, 2, 0.0)
    assert recovery.acknowledged([(2, 3)], 0.0, 0.1)[1] == []
    assert recovery.deadline == pytest.approx(0.1125)
    assert [packet.number for packet in recovery.timed_out(0.1125)] == [1]
    assert recovery.deadline is None


def test_without_any_answer_two_packets_probe_the_path_ever_more_slowly() -> None:
    recovery = Recovery(SIZE)
    sending(recovery, 4, 0.0)
    waits, now = [], 0.0
    for _ in range(8):
        at = recovery.deadline
        assert at is not None
        waits.append(at - now)
        again = recovery.timed_out(at)
        assert recovery.probes == 2
        for packet in again:
            packet.frames = ()
        now = at
        sending(recovery, 2, now)
        assert recovery.probes == 0
    assert waits[1] == pytest.approx(2 * waits[0])
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_PROBE_S
    assert recovery.lost_packets == 0
    assert waits[0] == pytest.approx(3 * FIRST_RTT_S + 0.005)


def test_the_window_doubles_until_a_loss_halves_it_once_per_round_trip() -> None:
    recovery = Recovery(SIZE)
    numbers = sending(recovery, 10, 0.0)
    assert not recovery.may_send(0.0)
    recovery.acknowledged([(1, 11)], 0.0, 0.1)
    assert recovery.window == 20 * SIZE
    numbers = sending(recovery, 20, 0.1)
    assert not recovery.may_send(0.1)
    recovery.acknowledged([(numbers[5], numbers[15])], 0.0, 0.2)
    assert recovery.window == 15 * SIZE  # ten arrived, then five were lost
    recovery.acknowledged([(numbers[18], numbers[19])], 0.0, 0.2)
    assert recovery.window == 15 * SIZE  # the same round trip
    assert recovery.lost_packets == 6


def test_after_a_loss_the_window_grows_by_one_packet_per_window() -> None:
    recovery = Recovery(SIZE)
    sending(recovery, 10, 0.0)
    recovery.may_send(0.0)
    recovery.acknowledged([(5, 11)], 0.0, 0.1)
    before = recovery.window
    number = recovery.next_number
    sending(recovery, before // SIZE, 0.2)
    recovery.may_send(0.2)
    recovery.acknowledged([(number, recovery.next_number)], 0.0, 0.3)
    assert recovery.window == before + SIZE


def test_a_window_that_is_not_used_does_not_grow() -> None:
    recovery = Recovery(SIZE)
    for turn in range(50):
        number = recovery.next_number
        assert recovery.may_send(turn)
        sending(recovery, 1, turn)
        recovery.acknowledged([(number, number + 1)], 0.0, turn + 0.05)
    assert recovery.window == 10 * SIZE


def test_packets_leave_at_the_windows_rate_and_not_in_bursts() -> None:
    recovery = Recovery(SIZE)
    recovery.window = 100 * SIZE
    sending(recovery, 1, 0.0)
    recovery.acknowledged([(1, 2)], 0.0, 0.1)
    now, sent = 10.0, 0
    while recovery.may_send(now):
        sending(recovery, 1, now)
        sent += 1
    assert sent == 10
    at = recovery.next_send_at(now)
    assert at is not None
    assert now < at < now + 0.01
    assert recovery.may_send(at)


def test_a_full_window_waits_for_acknowledgements_and_not_for_a_moment() -> None:
    recovery = Recovery(SIZE)
    sending(recovery, 10, 0.0)
    assert recovery.next_send_at(0.0) is None
