"""The pacer: the controller's rate on average, in quanta that event loops can time."""

from __future__ import annotations

import pytest

from echostream_quic.pacing import BURST_PACKETS, BURST_QUANTA, GAIN, QUANTUM_S, Pacer

PACKET = 1_200


def paced(window: int = 120_000, rtt_s: float = 0.010) -> Pacer:
    pacer = Pacer(max_datagram_size=PACKET)
    pacer.update_rate(window, rtt_s)
    return pacer


def drain(pacer: Pacer, now: float) -> int:
    """Send as much as is allowed; how many bytes."""
    sent = 0
    while pacer.allowance(now) > 0:
        pacer.spend(PACKET)
        sent += PACKET
    return sent


def test_before_the_first_round_trip_nothing_is_held_back() -> None:
    pacer = Pacer(max_datagram_size=PACKET)
    for _ in range(100):
        assert pacer.next_send_time(5.0) is None
        pacer.spend(PACKET)


def test_a_burst_is_at_most_a_few_quanta() -> None:
    pacer = paced()
    pacer.allowance(0.0)
    drain(pacer, 1.0)
    assert drain(pacer, 2.0) <= pacer.rate * QUANTUM_S * BURST_QUANTA + PACKET


def test_slow_connections_may_still_send_ten_packets_at_once() -> None:
    pacer = paced(window=12_000, rtt_s=0.2)
    drain(pacer, 1.0)
    assert drain(pacer, 60.0) == BURST_PACKETS * PACKET


def test_an_empty_bucket_asks_for_a_whole_quantum() -> None:
    pacer = paced()
    drain(pacer, 1.0)
    at = pacer.next_send_time(1.0)
    assert at is not None
    assert at >= 1.0 + QUANTUM_S


def test_the_wait_is_long_enough_that_something_may_be_sent_after_it() -> None:
    pacer = paced(window=2_400, rtt_s=1.0)  # three kilobytes per second
    drain(pacer, 1.0)
    at = pacer.next_send_time(1.0)
    assert at is not None
    assert pacer.allowance(at + 1e-9) >= 0


@pytest.mark.parametrize("late_s", [0.0, 0.0007, 0.002])
def test_the_average_is_the_controllers_rate_however_late_timers_fire(late_s: float) -> None:
    pacer = paced()
    now, sent = 10.0, 0
    drain(pacer, now)
    started = now
    while now < started + 1.0:
        at = pacer.next_send_time(now)
        if at is not None:
            now = at + late_s
        sent += drain(pacer, now)
    rate = GAIN * 120_000 / 0.010
    assert sent / (now - started) == pytest.approx(rate, rel=0.02)


def test_a_timer_that_is_very_late_does_not_catch_up_with_a_flood() -> None:
    pacer = paced()
    drain(pacer, 1.0)
    assert drain(pacer, 2.0) < pacer.rate * 0.01


def test_a_shrinking_window_shrinks_the_bucket() -> None:
    pacer = paced(window=10_000_000)
    pacer.allowance(1.0)
    pacer.update_rate(12_000, 0.1)
    assert pacer.allowance(1.0) <= BURST_PACKETS * PACKET


def test_packets_of_aioquics_own_writer_are_counted_too() -> None:
    pacer = paced()
    before = pacer.allowance(1.0)
    pacer.update_after_send(1.0)
    assert pacer.allowance(1.0) == before - PACKET


def test_larger_packets_make_a_larger_burst() -> None:
    pacer = paced(window=12_000, rtt_s=0.2)
    pacer.resize(1_452)
    pacer.update_rate(12_000, 0.2)
    drain(pacer, 1.0)
    assert pacer.allowance(60.0) == BURST_PACKETS * 1_452
