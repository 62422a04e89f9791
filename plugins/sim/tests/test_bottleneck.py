from __future__ import annotations

import pytest

from echostream_sim.bottleneck import Bottleneck, ConstantRate, TraceRate
from echostream_sim.mahimahi import MahimahiTrace


def offered(bottleneck: Bottleneck[str], *packets: tuple[float, str, int]) -> list[str]:
    """Those that were let in."""
    return [name for at, name, size in packets if bottleneck.offer(name, size, at)]


def test_a_constant_rate_is_exact() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8_000_000.0)  # a byte per µs
    offered(bottleneck, (1.0, "a", 1000), (1.0, "b", 500), (1.0, "c", 250))
    assert bottleneck.next_s == 1.001
    assert list(bottleneck.advance(1.0009)) == []
    assert list(bottleneck.advance(1.0015)) == [(1.001, "a"), (1.0015, "b")]
    assert bottleneck.backlog_bytes == 250
    assert list(bottleneck.advance(2.0)) == [(1.00175, "c")]
    assert bottleneck.next_s is None
    assert bottleneck.backlog_bytes == 0


def test_errors_of_rounding_do_not_add_up() -> None:
    bottleneck: ConstantRate[int] = ConstantRate(3_000_000.0)
    for number in range(10_000):
        assert bottleneck.offer(number, 1, 0.0)
    left = [time for time, _ in bottleneck.advance(1.0)]
    assert left == [(number + 1) * 8 / 3e6 for number in range(10_000)]


def test_an_idle_link_saves_nothing_up() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8000.0)
    assert bottleneck.offer("late", 1000, 100.0)
    assert list(bottleneck.advance(100.999)) == []
    assert list(bottleneck.advance(101.0)) == [(101.0, "late")]


def test_a_new_rate_counts_for_the_rest_of_the_packet_that_is_being_sent() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8000.0)
    offered(bottleneck, (0.0, "a", 1000), (0.0, "b", 1000))
    bottleneck.set_rate(4000.0, 0.25)  # 750 bytes are left, at 500 bytes per second
    assert list(bottleneck.advance(10.0)) == [(1.75, "a"), (3.75, "b")]


def test_the_queue_takes_exactly_its_bytes_and_not_one_more() -> None:
    full: ConstantRate[str] = ConstantRate(8000.0, max_bytes=3000)
    assert offered(full, (0.0, "a", 1000), (0.0, "b", 1000), (0.0, "c", 1000)) == ["a", "b", "c"]
    over: ConstantRate[str] = ConstantRate(8000.0, max_bytes=3000)
    assert offered(over, (0.0, "a", 1000), (0.0, "b", 1000), (0.0, "c", 1001)) == ["a", "b"]


def test_what_does_not_fit_is_dropped_and_what_is_smaller_still_fits() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8000.0, max_bytes=1500)
    assert offered(bottleneck, (0.0, "a", 1000), (0.0, "large", 501), (0.0, "small", 500)) == ["a", "small"]


def test_there_is_room_again_when_the_last_bit_is_out_and_not_before() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8000.0, max_bytes=1000)
    assert bottleneck.offer("a", 1000, 0.0)
    assert list(bottleneck.advance(0.999)) == []
    assert not bottleneck.offer("b", 1, 0.999)
    assert list(bottleneck.advance(1.0)) == [(1.0, "a")]
    assert bottleneck.offer("b", 1000, 1.0)


def test_a_queue_can_be_bounded_in_packets() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8000.0, max_packets=2)
    assert offered(bottleneck, (0.0, "a", 1), (0.0, "b", 1), (0.0, "c", 1)) == ["a", "b"]
    assert list(bottleneck.advance(0.001)) == [(0.001, "a")]
    assert offered(bottleneck, (0.001, "d", 1), (0.001, "e", 1)) == ["d"]


def test_a_packet_leaves_at_an_opportunity_of_the_trace() -> None:
    bottleneck: TraceRate[str] = TraceRate(MahimahiTrace([3, 3, 10]), 0.0)
    offered(bottleneck, (0.001, "a", 1500), (0.001, "b", 1500), (0.001, "c", 1500), (0.001, "d", 1500))
    assert list(bottleneck.advance(0.0029)) == []
    assert list(bottleneck.advance(0.0131)) == [(0.003, "a"), (0.003, "b"), (0.010, "c"), (0.013, "d")]
    assert bottleneck.next_s is None


def test_an_opportunity_carries_several_small_packets_or_a_part_of_a_large_one() -> None:
    bottleneck: TraceRate[str] = TraceRate(MahimahiTrace([10, 20, 30]), 0.0)
    offered(bottleneck, (0.0, "a", 500), (0.0, "b", 500), (0.0, "c", 2000), (0.0, "d", 100))
    # 500 bytes of c go at 10 ms and the rest of it, exactly an opportunity, at 20 ms.
    assert list(bottleneck.advance(0.010)) == [(0.010, "a"), (0.010, "b")]
    assert bottleneck.backlog_bytes == 2100
    assert list(bottleneck.advance(0.030)) == [(0.020, "c"), (0.030, "d")]


def test_an_opportunity_without_a_packet_is_lost() -> None:
    bottleneck: TraceRate[str] = TraceRate(MahimahiTrace([10, 20, 30]), 0.0)
    assert bottleneck.offer("a", 100, 0.010)
    assert list(bottleneck.advance(0.030)) == [(0.020, "a")]


def test_the_rest_of_an_opportunity_is_lost_with_the_queue_empty() -> None:
    bottleneck: TraceRate[str] = TraceRate(MahimahiTrace([10]), 0.0)
    assert bottleneck.offer("a", 100, 0.0)
    assert list(bottleneck.advance(0.010)) == [(0.010, "a")]
    assert bottleneck.offer("b", 100, 0.010)
    assert list(bottleneck.advance(0.019)) == []
    assert list(bottleneck.advance(0.020)) == [(0.020, "b")]


def test_a_busy_link_uses_every_opportunity_of_the_trace() -> None:
    trace = MahimahiTrace([1, 1, 4, 9, 9, 9, 30, 41])
    bottleneck: TraceRate[int] = TraceRate(trace, 0.0)
    for number in range(1000):
        assert bottleneck.offer(number, 1500, 0.0)
    left = [time for time, _ in bottleneck.advance(100.0)]
    assert left == [trace.time_s(number) for number in range(1000)]
    assert left[-1] == pytest.approx(1000 / 8 * 0.041)


def test_a_trace_counts_from_when_it_was_put_in() -> None:
    bottleneck: TraceRate[str] = TraceRate(MahimahiTrace([10]), 7.0)
    assert bottleneck.offer("a", 1500, 7.0)
    assert bottleneck.offer("b", 1500, 7.0)
    assert [time for time, _ in bottleneck.advance(8.0)] == [7.01, 7.02]


def test_everything_can_be_taken_out() -> None:
    bottleneck: ConstantRate[str] = ConstantRate(8000.0)
    offered(bottleneck, (0.0, "a", 10), (0.0, "b", 20))
    assert bottleneck.take_all() == [("a", 10), ("b", 20)]
    assert (len(bottleneck), bottleneck.backlog_bytes, bottleneck.next_s) == (0, 0, None)
