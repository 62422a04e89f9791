"""Windows: when credit is given, when a window grows, and cutting buffers to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.errors import LocalProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.credit import ReceiveWindow, WindowBudget, cut_buffers
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES

KIB = 1024
MIB = 1024 * KIB


def window(*, budget: int = 16 * MIB, most: int = MIB) -> ReceiveWindow:
    return ReceiveWindow(WindowBudget(budget), most)


def fill_and_consume(one: ReceiveWindow) -> None:
    """The sender uses all its credit, then the reader consumes all of it."""
    size = one.limit - one.received
    one.receive(size)
    assert one.consume(size)


def test_a_window_starts_with_the_constant_of_the_protocol() -> None:
    assert window().limit == window().size == INITIAL_WINDOW_BYTES


def test_credit_comes_when_half_a_window_is_consumed_and_not_before() -> None:
    one = window()
    one.receive(40 * KIB)
    assert not one.consume(32 * KIB - 1)
    assert one.limit == 64 * KIB
    assert one.consume(1)
    assert one.limit == 96 * KIB
    assert not one.consume(1)


def test_nothing_is_given_for_bytes_that_nobody_consumes() -> None:
    one = window()
    one.receive(64 * KIB)
    assert one.limit == 64 * KIB


def test_more_cannot_be_consumed_than_has_arrived() -> None:
    one = window()
    one.receive(10)
    with pytest.raises(LocalProtocolError, match=r"consume\(11\): 10 bytes"):
        one.consume(11)
    with pytest.raises(LocalProtocolError):
        one.consume(-1)
    one.consume(10)


def test_a_window_doubles_when_the_sender_had_used_all_of_it() -> None:
    one = window()
    sizes = []
    for _ in range(6):
        fill_and_consume(one)
        sizes.append(one.size // KIB)
    assert sizes == [128, 256, 512, 1024, 1024, 1024]
    assert one.limit == one.consumed + MIB


def test_a_window_stays_when_the_sender_has_credit_to_spare() -> None:
    one = window()
    for _ in range(100):
        one.receive(33 * KIB)
        one.consume(33 * KIB)
    assert one.size == 64 * KIB


def test_a_window_grows_when_the_sender_waited_for_credit_that_was_under_way() -> None:
    """A reader that consumes at once, a sender far away: it stops at each limit, and is never seen at the newest."""
    one = window()
    one.receive(32 * KIB)
    assert one.consume(32 * KIB)  # 96 KiB are allowed now, but the sender does not know it yet
    one.receive(32 * KIB)  # and stops at the 64 KiB that it knows of
    assert one.consume(32 * KIB)
    assert one.size == 128 * KIB


def test_the_budget_of_the_session_bounds_growth_and_gets_it_back() -> None:
    budget = WindowBudget(100 * KIB)
    one, other = ReceiveWindow(budget, MIB), ReceiveWindow(budget, MIB)
    fill_and_consume(one)
    assert (one.size, budget.left) == (128 * KIB, 36 * KIB)
    fill_and_consume(other)
    assert (other.size, budget.left) == (100 * KIB, 0)
    fill_and_consume(one)
    assert one.size == 128 * KIB
    other.close()
    other.close()
    assert budget.left == 36 * KIB
    one.close()
    assert budget.left == 100 * KIB


@given(st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 1)), max_size=60))
def test_a_limit_never_falls_and_never_allows_more_than_a_window_unconsumed(
    steps: list[tuple[int, float]],
) -> None:
    one = window(budget=500 * KIB)
    for arriving, share in steps:
        one.receive(min(arriving, one.limit - one.received))
        before = one.limit
        told = one.consume(int((one.received - one.consumed) * share))
        assert told == (one.limit > before)
        assert one.received <= one.limit <= one.consumed + one.size
        assert INITIAL_WINDOW_BYTES <= one.size <= MIB


@given(st.lists(st.binary(max_size=20), min_size=1), st.data())
def test_cut_pieces_are_the_front_of_the_queue_and_share_its_memory(buffers: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(buffers)
    size = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    queue: list[Buffer] = list(buffers) if whole else [b"x"]
    whole = whole or b"x"
    taken = cut_buffers(queue, size)
    assert b"".join(taken) == whole[:size]
    assert b"".join(queue) == whole[size:]


def test_a_large_buffer_is_cut_without_a_copy() -> None:
    source = bytearray(100)
    queue: list[Buffer] = [source]
    (first,) = cut_buffers(queue, 60)
    source[:] = b"x" * 100
    assert bytes(first) == b"x" * 60
    assert bytes(queue[0]) == b"x" * 40
