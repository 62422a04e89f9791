"""Credit: granted by what was consumed, grown while the reader keeps up, bounded for the connection."""

from __future__ import annotations

import pytest

from echostream_quic.flow import CONTROL_WINDOW_BYTES, RESERVE_BYTES, ReceiveWindow, SessionWindow

KIB = 1_024
RTT = 0.010


def session(growth: int = 1_024 * KIB) -> SessionWindow:
    return SessionWindow(max_streams=10, window_bytes=64 * KIB, growth_bytes=growth)


def window(of: SessionWindow, most: int = 1_024 * KIB) -> ReceiveWindow:
    return ReceiveWindow(of, size=64 * KIB, most=most, now=0.0)


def arrive_and_consume(one: ReceiveWindow, size: int, now: float, least_rtt: float = RTT) -> bool:
    one.received += size
    return one.consume(size, now, RTT, least_rtt)


def test_nothing_is_granted_for_what_has_only_arrived() -> None:
    one = window(session())
    one.received = 64 * KIB
    assert one.granted == 64 * KIB
    assert one.unconsumed == 64 * KIB


def test_credit_is_told_by_halves_of_a_window() -> None:
    one = window(session())
    assert arrive_and_consume(one, 20 * KIB, 9.0) is False
    assert arrive_and_consume(one, 12 * KIB, 9.0) is True
    assert one.granted == (32 + 64) * KIB


def test_a_window_that_is_used_up_in_each_round_trip_doubles() -> None:
    one = window(session())
    now = 0.0
    sizes = []
    for _ in range(10):
        now += RTT
        assert arrive_and_consume(one, one.size // 2, now)
        sizes.append(one.size // KIB)
    assert sizes[0] == 128
    assert sizes == sorted(sizes)
    assert sizes[-1] == 1_024


@pytest.mark.parametrize(("least_rtt", "expected"), [(0.0003, 256), (0.0005, 256), (0.0015, 512), (0.01, 1_024)])
def test_a_window_is_no_larger_than_the_path_can_use(least_rtt: float, expected: int) -> None:
    """What a longer queue makes of the round trip does not count: on loopback bulk then stood before small calls."""
    one = window(session())
    now = 0.0
    for _ in range(100):
        now += one.size / 2 / 100e6  # 100 MB/s
        arrive_and_consume(one, one.size // 2, now, least_rtt)
    assert one.size == expected * KIB


def test_a_slow_reader_gets_no_larger_window() -> None:
    one = window(session())
    now = 0.0
    for _ in range(20):
        now += 10 * RTT
        arrive_and_consume(one, one.size // 2, now)
    assert one.size == 64 * KIB


def test_growth_is_bounded_for_the_connection_and_given_back() -> None:
    shared = session(growth=100 * KIB)
    first, second = window(shared), window(shared)
    arrive_and_consume(first, 32 * KIB, 0.001)
    arrive_and_consume(second, 32 * KIB, 0.001)
    assert (first.size, second.size) == (128 * KIB, 100 * KIB)
    assert shared.growth_left == 0
    first.release(64 * KIB)
    assert shared.growth_left == 64 * KIB


def test_the_control_window_is_large_and_never_grows() -> None:
    one = window(session())
    one.fix(CONTROL_WINDOW_BYTES)
    assert one.granted == CONTROL_WINDOW_BYTES
    arrive_and_consume(one, CONTROL_WINDOW_BYTES // 2, 0.0001)
    assert one.size == CONTROL_WINDOW_BYTES
    one.release(64 * KIB)
    assert one.size == CONTROL_WINDOW_BYTES


def test_the_connections_limit_is_above_all_windows_together() -> None:
    shared = session()
    assert shared.limit >= 10 * 64 * KIB + 1_024 * KIB + CONTROL_WINDOW_BYTES + RESERVE_BYTES
    before = shared.limit
    arrive_and_consume(window(shared), 10 * KIB, 1.0)
    assert shared.limit == before + 10 * KIB


def test_the_connections_limit_is_told_in_steps() -> None:
    shared = session()
    told = shared.limit
    shared.consumed += shared.limit // 10
    assert not shared.due(told)
    shared.consumed += shared.limit // 4
    assert shared.due(told)


def test_closing_counts_everything_as_consumed_once() -> None:
    shared = session()
    one = window(shared)
    arrive_and_consume(one, 10 * KIB, 1.0)
    one.received += 5 * KIB
    one.close(40 * KIB)
    one.close(40 * KIB)
    assert shared.consumed == 40 * KIB
    assert one.consume(5 * KIB, 2.0, RTT, RTT) is False
    assert shared.consumed == 40 * KIB
