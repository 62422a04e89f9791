"""The mux's writer: what goes first, how large fragments are, and that nothing large is copied."""

from __future__ import annotations

from collections import Counter

import pytest

from echostream_core.errors import LocalProtocolError
from echostream_core.types import Priority
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.mux_frames import (
    DATA,
    HEADER_BYTES,
    RESET,
    encode_credit,
)
from echostream_core.wire.substream import BULK_BYTES, HIGH_WATER_BYTES, LOW_WATER_BYTES, CarriedSubstream
from tests.unit.wire.mux_recorder import Side, dialer, exchange, frames, listener

KIB = 1024
PLENTY = 1 << 50


def writing(one: Side, priority: Priority, size: int = 1 << 30) -> CarriedSubstream:
    """An open substream with all the credit that it may want and ``size`` bytes to send."""
    stream = one.open(priority)
    stream.write([b"."])
    while stream.queued:
        one.mux.next_buffers(1)
    one.mux.receive(encode_credit(stream.id, PLENTY))
    stream.write([bytes(size)])
    return stream


def sent_by(one: Side, total: int) -> Counter[int]:
    """Bytes of bodies by substream, over the next ``total`` bytes handed to the pipe."""
    sizes: Counter[int] = Counter()
    while sizes.total() < total:
        for _, number, body in frames(b"".join(one.mux.next_buffers())):
            sizes[number] += len(body)
    return sizes


# Order.


def test_orders_go_first_then_the_control_substream_then_the_rest() -> None:
    one = dialer()
    control, data, given_up = one.open(Priority.CONTROL), one.open(Priority.URGENT), one.open()
    for stream in (control, data, given_up):
        stream.write([b"a"])
    one.output()
    data.write([b"data"])
    control.write([b"control"])
    given_up.reset(1)
    assert [(kind, number) for kind, number, _ in frames(one.output())] == [
        (RESET, given_up.id),
        (DATA, 0),
        (DATA, data.id),
    ]


def test_the_control_substream_takes_all_before_anybody_else() -> None:
    one = dialer()
    bulk = writing(one, Priority.URGENT)
    control = one.open(Priority.CONTROL)
    control.write([bytes(300 * KIB)])
    numbers = [number for _, number, _ in frames(b"".join(one.mux.next_buffers(400 * KIB)))]
    assert numbers[:5] == [0] * 5
    assert bulk.id in numbers[5:]


def test_classes_share_16_to_4_to_1() -> None:
    one = dialer()
    urgent, normal, bulk = (writing(one, priority) for priority in (1, 2, 3))  # type: ignore[arg-type]
    total = 210 * 64 * KIB
    sizes = sent_by(one, total)
    assert sizes[urgent.id] / total == pytest.approx(16 / 21, rel=0.02)
    assert sizes[normal.id] / total == pytest.approx(4 / 21, rel=0.02)
    assert sizes[bulk.id] / total == pytest.approx(1 / 21, rel=0.05)


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (Priority.URGENT, Priority.NORMAL, 16 / 20),
        (Priority.NORMAL, Priority.BULK, 4 / 5),
        (Priority.URGENT, Priority.BULK, 16 / 17),
        (Priority.NORMAL, Priority.NORMAL, 1 / 2),
    ],
)
def test_two_classes_share_by_their_weights_so_that_none_starves(
    first: Priority, second: Priority, share: float
) -> None:
    one = dialer()
    streams = [writing(one, first), writing(one, second)]
    sizes = sent_by(one, 100 * 256 * KIB)
    assert sizes[streams[0].id] / sizes.total() == pytest.approx(share, rel=0.03)


def test_many_of_one_class_share_it_evenly_whatever_the_number_of_another() -> None:
    one = dialer()
    normal = [writing(one, Priority.NORMAL) for _ in range(10)]
    bulk = writing(one, Priority.BULK)
    sizes = sent_by(one, 100 * 200 * KIB)
    assert sizes[bulk.id] / sizes.total() == pytest.approx(1 / 5, rel=0.03)
    for stream in normal:
        assert sizes[stream.id] / sizes.total() == pytest.approx(4 / 50, rel=0.05)


def test_one_that_wakes_up_urgent_waits_for_little() -> None:
    one = dialer()
    urgent = one.open(Priority.URGENT)
    for _ in range(50):
        writing(one, Priority.BULK)
        writing(one, Priority.NORMAL)
    for _ in range(25):
        one.mux.next_buffers()
        urgent.write([b"now"])
        before = 0
        while urgent.queued:
            before += sum(map(len, one.mux.next_buffers(1)))
        assert before <= 3 * (16 * KIB + HEADER_BYTES)


def test_a_changed_priority_holds_from_the_next_fragment() -> None:
    one = dialer()
    first, second = writing(one, Priority.BULK), writing(one, Priority.BULK)
    one.mux.next_buffers()
    first.set_priority(Priority.URGENT)
    sizes = sent_by(one, 100 * 64 * KIB)
    assert sizes[first.id] / sizes.total() == pytest.approx(16 / 17, rel=0.02)
    first.set_priority(Priority.BULK)
    first.set_priority(Priority.BULK)
    sizes = sent_by(one, 100 * 64 * KIB)
    assert sizes[second.id] / sizes.total() == pytest.approx(1 / 2, rel=0.05)


def test_the_control_substreams_priority_is_its_own() -> None:
    one = dialer()
    control, other = one.open(Priority.CONTROL), one.open()
    control.set_priority(Priority.BULK)
    assert control.priority is Priority.CONTROL
    with pytest.raises(LocalProtocolError):
        other.set_priority(Priority.CONTROL)


# Fragments.


def largest(one: Side) -> int:
    return max(len(body) for _, _, body in frames(b"".join(one.mux.next_buffers(512 * KIB))))


def test_fragments_are_large_alone_and_small_in_company() -> None:
    one = dialer()
    writing(one, Priority.NORMAL)
    assert largest(one) == 64 * KIB
    bulk = writing(one, Priority.BULK)
    assert {
        number: max(len(body) for _, n, body in frames(data) if n == number)
        for data in [b"".join(one.mux.next_buffers(4096 * KIB))]
        for number in (2, bulk.id)
    } == {2: 64 * KIB, bulk.id: 16 * KIB}, "only who waits in the same or a higher class counts"
    writing(one, Priority.NORMAL)
    assert largest(one) == 16 * KIB


def test_a_fragment_never_exceeds_the_credit() -> None:
    one = dialer()
    stream = one.open()
    stream.write([bytes(200_000)])
    assert [len(body) for _, _, body in frames(one.output())] == [INITIAL_WINDOW_BYTES]
    for limit in (INITIAL_WINDOW_BYTES + 1, 150_000, 150_001, 1_000_000):
        before = stream.sent
        one.mux.receive(encode_credit(stream.id, limit))
        sent = sum(len(body) for _, _, body in frames(one.output()))
        assert before + sent == min(limit, 200_000)


def test_the_end_needs_no_credit() -> None:
    one, other = dialer(), listener(consumes=False)
    stream = one.open()
    stream.write([bytes(INITIAL_WINDOW_BYTES)])
    exchange(one, other)
    stream.write([], True)
    exchange(one, other)
    assert other.events[-1] == ("end", 2)


def test_an_end_goes_with_the_last_bytes() -> None:
    one = dialer()
    one.open().write([b"a", b"", b"b"], True)
    assert [(kind & 0xF0, body) for kind, _, body in frames(one.output())] == [(0x30, b"ab")]


def test_nothing_written_is_nothing_sent() -> None:
    one = dialer()
    stream = one.open()
    assert stream.write([])
    assert stream.write([b""])
    assert not one.mux.pending
    assert one.mux.next_buffers() == []


def test_small_buffers_are_joined_with_their_header_and_large_ones_stay_where_they_are() -> None:
    one = dialer()
    control = one.open(Priority.CONTROL)
    for _ in range(50):
        control.write([b"head", b"body"])
    assert len(one.mux.next_buffers()) == 1
    big = bytearray(20_000)
    control.write([b"head", big])
    out = one.mux.next_buffers()
    assert [len(buffer) for buffer in out] == [HEADER_BYTES, 4, 20_000]
    assert out[2] is big
    control.write([bytes(100)] * 500)
    assert len(one.mux.next_buffers()) == 1, "50,000 bytes, but in pieces too small to be worth an iovec each"


def test_a_large_buffer_is_cut_into_fragments_without_a_copy() -> None:
    one = dialer()
    big = bytearray(150_000)
    one.open(Priority.CONTROL).write([big])
    views = [buffer for buffer in one.mux.next_buffers(200_000) if len(buffer) != HEADER_BYTES]
    assert [len(view) for view in views] == [65_536, 65_536, 18_928]
    assert all(isinstance(view, memoryview) and view.obj is big for view in views)


# Pressure.


def test_what_may_be_given_at_once_is_bounded() -> None:
    one = dialer()
    writing(one, Priority.NORMAL)
    for asked in (1, 10_000, 65_536, 200_000):
        given = sum(map(len, one.mux.next_buffers(asked)))
        assert asked <= given < asked + 64 * KIB + HEADER_BYTES


def test_a_writer_is_told_to_wait_above_the_high_mark_and_to_go_on_below_the_low_one() -> None:
    one = dialer()
    stream = one.open()
    assert stream.write([bytes(HIGH_WATER_BYTES)])
    assert not stream.write([b"x"])
    one.output()  # the first window: one byte is left
    assert [each.id for each in one.mux.take_writable()] == [2]
    assert one.mux.take_writable() == []
    assert not stream.write([bytes(HIGH_WATER_BYTES + LOW_WATER_BYTES)])
    one.mux.receive(encode_credit(2, INITIAL_WINDOW_BYTES + 1 + HIGH_WATER_BYTES))
    one.output()
    assert stream.queued == LOW_WATER_BYTES
    assert one.mux.take_writable() == []
    one.mux.receive(encode_credit(2, INITIAL_WINDOW_BYTES + 2 + HIGH_WATER_BYTES))
    one.output()
    assert one.mux.take_writable() == [stream]


def test_pressure_on_one_substream_is_not_felt_on_another() -> None:
    one = dialer()
    assert not one.open().write([bytes(1_000_000)])
    assert one.open().write([b"x"])


def test_the_driver_is_called_once_for_many_small_writes_and_for_each_large_one() -> None:
    one = dialer()
    control = one.open(Priority.CONTROL)
    for _ in range(100):
        control.write([b"small"])
    assert (one.recorder.outputs, one.recorder.bulks) == (1, 0)
    for _ in range(3):
        control.write([bytes(BULK_BYTES)])
    assert (one.recorder.outputs, one.recorder.bulks) == (1, 3)
    one.output()
    control.write([b"small"])
    assert one.recorder.outputs == 2


def test_a_large_write_without_credit_does_not_bother_the_driver() -> None:
    one = dialer()
    stream = one.open()
    stream.write([bytes(INITIAL_WINDOW_BYTES)])
    one.output()
    bulks = one.recorder.bulks
    stream.write([bytes(100_000)])
    assert one.recorder.bulks == bulks
    assert not one.mux.pending


def test_a_substream_waiting_for_credit_goes_on_when_it_comes() -> None:
    one, other = dialer(), listener()
    stream = one.open()
    stream.write([bytes(1_000_000)], True)
    exchange(one, other)
    assert len(other.reader(2).data) == 1_000_000
    assert other.events[-1] == ("end", 2)


def test_a_window_grows_for_a_fast_reader_and_not_beyond_its_limit() -> None:
    one, other = dialer(), listener()
    one.open().write([bytes(24_000_000)])
    exchange(one, other)
    window = other.mux.live[2].window
    assert window is not None
    assert window.size == other.mux.limits.max_window_bytes


def test_a_listener_counts_odd_and_the_ends_meet() -> None:
    one, other = dialer(), listener()
    for side in (one, other):
        for _ in range(3):
            side.open().write([b"x"])
    exchange(one, other)
    assert [event for event in one.events if event[0] == "open"] == [("open", 1), ("open", 3), ("open", 5)]
    assert [event for event in other.events if event[0] == "open"] == [("open", 2), ("open", 4), ("open", 6)]
