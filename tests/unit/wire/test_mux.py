"""The mux's reader: what it makes of frames, in what order, and what it refuses. See also test_mux_frames.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from echostream_core.errors import CloseCode, LocalProtocolError, RemoteProtocolError, ResourceClosed
from echostream_core.types import Priority
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES, MAX_MUX_FRAME_BYTES, Limits
from echostream_core.wire.mux import MAX_ORDERS_BYTES
from echostream_core.wire.mux_frames import (
    CREDIT,
    DATA,
    GREASE,
    HEADER,
    OPEN,
    STOP,
    encode_close,
    encode_credit,
    encode_data,
    encode_reset,
    encode_stop,
    encode_unknown,
)
from echostream_core.wire.substream import CarriedSubstream
from tests.unit.wire.mux_recorder import FEEDINGS, Event, Side, dialer, exchange, frames, listener

STORY = (
    encode_data(0, b"setup", opens=True)
    + encode_data(2, b"one", opens=True)
    + encode_unknown(GREASE, 77, b"whatever")
    + encode_data(0, b"call")
    + encode_data(4, b"", opens=True, ends=True)
    + encode_credit(2, 100_000)
    + encode_data(2, b"two" * 100)
    + encode_stop(2, 5)
    + encode_data(2, b"", ends=True)
    + encode_data(6, b"six", opens=True)
    + encode_reset(6, 9)
    + encode_unknown(GREASE, 0, b"")
    + encode_close(6, "so long")
)
STORY_EVENTS: list[Event] = [
    ("open", 0),
    ("data", 0, b"setup"),
    ("open", 2),
    ("data", 2, b"one"),
    ("data", 0, b"call"),
    ("open", 4),
    ("end", 4),
    ("data", 2, b"two" * 100),
    ("stop", 2, 5),
    ("end", 2),
    ("open", 6),
    ("data", 6, b"six"),
    ("reset", 6, 9),
    ("close", 6, "so long"),
]


@pytest.mark.parametrize("feed", FEEDINGS)
def test_a_story_is_told_in_order_however_it_is_cut(feed: Callable[..., None]) -> None:
    side = listener()
    feed(side.mux, STORY)
    assert side.events == STORY_EVENTS
    assert side.mux.ignored == 2
    assert side.mux.resets_received == 2


@pytest.mark.parametrize("cut", range(1, len(STORY)))
def test_a_story_cut_once_anywhere_is_the_same(cut: int) -> None:
    side = listener()
    side.mux.receive(STORY[:cut])
    side.mux.receive(STORY[cut:])
    assert side.events == STORY_EVENTS


@pytest.mark.parametrize("feed", FEEDINGS)
def test_bytes_to_spare_wait_for_the_rest_of_their_frame(feed: Callable[..., None]) -> None:
    side = listener()
    first, second = encode_data(2, b"abc", opens=True), encode_data(2, b"xyz", ends=True)
    feed(side.mux, first + second[:5])
    assert side.events == [("open", 2), ("data", 2, b"abc")]
    feed(side.mux, second[5:])
    assert side.events[2:] == [("end", 2)] or side.events[1:] == [("data", 2, b"abcxyz"), ("end", 2)]


def test_a_body_is_handed_on_as_it_arrives() -> None:
    side = listener()
    side.mux.receive(HEADER.pack((DATA | OPEN) << 24 | 10, 2) + b"abc")
    assert side.events == [("open", 2), ("data", 2, b"abc")]
    side.mux.receive(b"defg")
    assert side.events[-1] == ("data", 2, b"abcdefg")


def test_what_is_delivered_is_a_read_only_part_of_what_was_received() -> None:
    side = listener()
    seen: list[object] = []
    source = bytearray(encode_data(2, b"abc", opens=True))

    def on_opened(stream: object) -> None:
        side.reader(2).on_data = seen.append  # type: ignore[assignment, method-assign]  # a test's spy

    side.recorder.on_opened = on_opened
    side.mux.receive(source)
    (view,) = seen
    assert isinstance(view, memoryview)
    assert view.readonly
    assert view.obj is source


def test_nothing_is_read_after_close() -> None:
    side = listener()
    side.mux.receive(encode_close(0, "") + encode_data(2, b"x", opens=True) + b"\0" * 100)
    side.mux.receive(b"\0" * 100)
    assert side.events == [("close", 0, "")]


def test_a_reason_that_is_no_utf8_does_not_hurt() -> None:
    side = listener()
    frame = bytearray(encode_close(2, "abc"))
    frame[-2] = 0xFF
    side.mux.receive(frame)
    assert side.events == [("close", 2, "a\N{REPLACEMENT CHARACTER}c")]


# Numbers.


def test_numbers_are_given_with_the_first_frame_so_that_none_is_left_out() -> None:
    one = dialer()
    never_used, bulk, urgent = one.open(), one.open(Priority.BULK), one.open(Priority.URGENT)
    never_used.reset(0)
    bulk.write([b"b"])
    urgent.write([b"u"])
    assert [(kind, number, body) for kind, number, body in frames(one.output())] == [
        (DATA | OPEN, 2, b"u"),
        (DATA | OPEN, 4, b"b"),
    ]


def test_number_0_is_kept_for_the_control_substream() -> None:
    one, other = dialer(), listener()
    one.open().write([b"x"])
    exchange(one, other)
    one.open(Priority.CONTROL).write([b"c"])
    exchange(one, other)
    assert other.events == [("open", 2), ("data", 2, b"x"), ("open", 0), ("data", 0, b"c")]
    assert other.mux.control is other.mux.live[0]


def test_only_the_dialer_opens_the_control_substream_and_once() -> None:
    one, other = dialer(), listener()
    one.open(Priority.CONTROL)
    for mux in (one.mux, other.mux):
        with pytest.raises(LocalProtocolError):
            mux.open(Priority.CONTROL)
    with pytest.raises(RemoteProtocolError):
        one.mux.receive(encode_data(0, b"x", opens=True))


def test_a_connection_without_numbers_left_says_so() -> None:
    one = dialer()
    one.mux._next_local = 0xFFFF_FFF2
    with pytest.raises(ResourceClosed, match="dial again"):
        one.open()


# Gone.


def finished() -> Side:
    """A listener on which substream 2 was, and is gone."""
    side = listener()
    side.mux.receive(encode_data(2, b"", opens=True, ends=True))
    side.mux.live[2].write([], True)
    side.output()
    assert not side.mux.live
    side.events.clear()
    return side


@pytest.mark.parametrize("feed", FEEDINGS)
def test_frames_for_a_substream_that_is_gone_are_dropped(feed: Callable[..., None]) -> None:
    side = finished()
    feed(
        side.mux,
        encode_data(2, b"late")
        + encode_data(2, b"later", ends=True)
        + encode_credit(2, 1 << 40)
        + encode_reset(2, 1)
        + encode_stop(2, 1)
        + encode_data(0, b"goes on", opens=True),
    )
    assert side.events == [("open", 0), ("data", 0, b"goes on")]
    assert list(side.mux.live) == [0]


def test_frames_for_our_own_substream_that_is_gone_are_dropped() -> None:
    one, other = dialer(), listener()
    stream = one.open()
    stream.write([b"x"], True)
    exchange(one, other)
    other.mux.live[2].reset(1)
    exchange(one, other)
    assert not one.mux.live
    assert not other.mux.live
    one.mux.receive(encode_credit(2, 1 << 40) + encode_stop(2, 1) + encode_data(2, b"late"))
    with pytest.raises(RemoteProtocolError, match="never opened"):
        one.mux.receive(encode_credit(4, 1 << 40))


def test_memory_is_bounded_when_substreams_come_and_go() -> None:
    side = listener()
    for number in range(2, 4000, 2):
        side.mux.receive(encode_data(number, b"x", opens=True, ends=True))
        side.mux.live[number].write([b"y"], True)
        side.output()
    assert not side.mux.live
    assert len(side.mux._credits) == len(side.mux._orders) == 0


# Limits, from both sides.


def test_the_largest_frame_is_accepted() -> None:
    side = listener()
    side.mux.receive(encode_data(0, bytes(MAX_MUX_FRAME_BYTES), opens=True))
    side.mux.receive(encode_unknown(GREASE, 1, bytes(MAX_MUX_FRAME_BYTES)))
    assert side.events == [("open", 0), ("data", 0, bytes(MAX_MUX_FRAME_BYTES))]


def test_credit_can_be_used_to_the_last_byte_and_not_beyond() -> None:
    side = listener(consumes=False)
    side.mux.receive(encode_data(2, bytes(INITIAL_WINDOW_BYTES - 1), opens=True))
    side.mux.receive(encode_data(2, b"x"))
    with pytest.raises(RemoteProtocolError, match="credit") as caught:
        side.mux.receive(encode_data(2, b"x"))
    assert caught.value.close_code == CloseCode.LIMIT


def test_a_reader_that_never_consumes_holds_one_window() -> None:
    one, other = dialer(), listener(consumes=False)
    stream = one.open()
    stream.write([bytes(24_000_000)], True)
    exchange(one, other)
    assert len(other.reader(2).data) == INITIAL_WINDOW_BYTES
    reader = other.reader(2)
    consumed = 0
    while consumed < 24_000_000:
        other.mux.live[2].consume(len(reader.data) - consumed)
        consumed = len(reader.data)
        exchange(one, other)
        assert len(reader.data) - consumed <= other.mux.limits.max_window_bytes
    assert other.events[-1] == ("end", 2)


def test_twenty_unread_substreams_do_not_stop_the_control_substream() -> None:
    one, other = dialer(), listener(consumes=False)
    control = one.open(Priority.CONTROL)
    for _ in range(20):
        one.open().write([bytes(1_000_000)])
    exchange(one, other)
    for _ in range(50):
        control.write([bytes(100_000)])
        exchange(one, other)
    assert len(other.reader(0).data) == 5_000_000


def test_substreams_up_to_the_limit_are_opened_and_one_more_is_refused() -> None:
    one, other = dialer(), listener(Limits(max_streams=4))
    control = one.open(Priority.CONTROL)
    control.write([b"c"])
    streams = [one.open() for _ in range(5)]
    for stream in streams:
        stream.write([b"x"])
    exchange(one, other)
    assert [event for event in other.events if event[0] == "open"] == [("open", n) for n in (0, 2, 4, 6, 8)]
    assert one.events == [("reset", 10, CloseCode.REFUSED), ("stop", 10, CloseCode.REFUSED)]
    assert other.mux.refused == 1
    streams[4].write([b"ignored"])
    streams[4].reset(CloseCode.REFUSED)
    other.mux.receive(encode_data(10, b"also ignored"))
    exchange(one, other)
    assert 10 not in one.mux.live
    assert not any(event[1] == 10 for event in other.events)


@pytest.mark.parametrize("feed", FEEDINGS)
def test_a_refused_substreams_body_is_skipped(feed: Callable[..., None]) -> None:
    side = listener(Limits(max_streams=4))
    feed(side.mux, b"".join(encode_data(number, b"body", opens=True) for number in range(2, 14, 2)))
    assert [event[1] for event in side.events if event[0] == "data"] == [2, 4, 6, 8]
    assert side.mux.refused == 2


def test_a_place_is_free_again_when_a_substream_is_gone() -> None:
    one, other = dialer(), listener(Limits(max_streams=4))
    for _ in range(20):
        stream = one.open()
        stream.write([b"x"], True)
        exchange(one, other)
        other.mux.live[stream.id].reset(0)
        exchange(one, other)
    assert other.mux.refused == 0


def test_a_peer_that_does_not_read_its_answers_is_ended() -> None:
    """Each refusal is answered with 24 bytes; a peer that does not read them makes us keep them."""
    side = listener(Limits(max_streams=4))
    answers = 0
    with pytest.raises(RemoteProtocolError, match="without reading") as caught:
        for number in range(2, 200_000, 2):
            side.mux.receive(encode_data(number, b"", opens=True))
            assert len(side.mux._orders) <= MAX_ORDERS_BYTES
            answers = side.mux.refused
    assert caught.value.close_code == CloseCode.LIMIT
    assert answers == MAX_ORDERS_BYTES // 24


def test_answers_of_the_user_count_as_well() -> None:
    side = listener()
    with pytest.raises(RemoteProtocolError, match="without reading"):
        for number in range(2, 200_000, 2):
            side.mux.receive(encode_data(number, b"x", opens=True))
            side.mux.live[number].reset(1)
            side.mux.receive(encode_reset(number, 1))
            assert not side.mux.live


# Credit as the peer gives it.


def test_credit_never_falls() -> None:
    one = dialer()
    stream = one.open()
    stream.write([bytes(200_000)])
    one.mux.receive(encode_credit(2, 1)) if stream.id != -1 else one.output()
    one.mux.receive(encode_credit(2, 100_000) + encode_credit(2, 80_000))
    assert sum(len(body) for _, _, body in frames(one.output())) == 100_000 - INITIAL_WINDOW_BYTES


def test_only_the_newest_credit_of_a_substream_is_sent() -> None:
    side = listener(consumes=False)
    side.mux.receive(encode_data(2, bytes(65_536), opens=True))
    for _ in range(64):
        side.mux.live[2].consume(1024)
    ((kind, number, body),) = frames(side.output())
    assert (kind, number) == (CREDIT, 2)
    assert int.from_bytes(body, "little") == side.mux.live[2].window.limit  # type: ignore[union-attr]


def test_no_credit_is_sent_for_a_direction_that_is_over() -> None:
    side = listener(consumes=False)
    side.mux.receive(encode_data(2, bytes(65_536), opens=True))
    stream = side.mux.live[2]
    stream.consume(40_000)
    side.mux.receive(encode_data(2, b"", ends=True))
    stream.consume(20_000)
    assert side.output() == b""


def test_consuming_on_the_control_substream_means_nothing() -> None:
    side = listener(consumes=False)
    side.mux.receive(encode_data(0, bytes(65_536), opens=True))
    side.mux.live[0].consume(1_000_000)
    assert side.output() == b""


# The end.


def test_closing_sends_orders_and_the_control_substream_first_and_drops_the_rest() -> None:
    one, other = dialer(), listener()
    control, bulk = one.open(Priority.CONTROL), one.open()
    bulk.write([b"first"])
    control.write([b"setup"])
    exchange(one, other)
    bulk.write([b"lost"])
    control.write([bytes(100_000)])
    bulk.stop(1)
    data = b"".join(one.mux.close(6, "bye"))
    assert [(kind, number, len(body)) for kind, number, body in frames(data)] == [
        (STOP, 2, 4),
        (DATA, 0, 65_536),
        (DATA, 0, 34_464),
        (5, 0, 7),
    ]
    other.mux.receive(data)
    assert other.events[-1] == ("close", 6, "bye")
    assert one.mux.close(0, "") == []
    assert one.output() == b""


def test_after_the_end_everything_is_a_quiet_no() -> None:
    one, other = dialer(), listener()
    stream, waiting, unopened = one.open(), one.open(), one.open()
    for each in (stream, waiting):
        each.write([bytes(200_000)])
    exchange(one, other)
    unopened.write([b"never sent"])
    one.mux.close(0, "")
    for each in (stream, waiting, unopened):
        assert each.write([bytes(1_000_000)])
        assert each.queued == 0
        each.consume(0)
        each.set_priority(Priority.BULK)
        each.stop(1)
        each.reset(1)
        each.write([b"x"], True)
    assert not one.mux.pending
    assert one.mux.next_buffers() == []
    with pytest.raises(ResourceClosed):
        one.mux.open()


def shut_at_2(side: Side, stream: CarriedSubstream) -> None:
    if stream.id == 2:
        side.mux.shut()


def test_a_callback_that_closes_stops_delivery_at_once() -> None:
    for data in (STORY, STORY[: STORY.index(b"one") + 1]):
        side = listener()
        side.recorder.on_opened = partial(shut_at_2, side)
        side.mux.receive(data)
        side.mux.receive(b"\0" * 8)
        assert side.events == STORY_EVENTS[:3]
