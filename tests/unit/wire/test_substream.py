"""One substream: how each direction ends, is given up and is stopped. The mux carries it here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from echostream_core.errors import RemoteProtocolError, ResourceClosed
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.mux_frames import (
    DATA,
    END,
    HEADER,
    OPEN,
    RESET,
    STOP,
    encode_credit,
    encode_data,
    encode_reset,
    encode_stop,
)
from tests.unit.wire.mux_recorder import FEEDINGS, Side, dialer, exchange, frames, listener


def test_after_our_stop_no_data_comes_but_its_credit_is_still_counted() -> None:
    side = listener()
    side.mux.receive(encode_data(2, b"abc", opens=True))
    side.mux.live[2].stop(7)
    side.mux.live[2].stop(8)
    assert list(frames(side.output())) == [(STOP, 2, (7).to_bytes(4, "little"))]
    side.mux.receive(encode_data(2, bytes(INITIAL_WINDOW_BYTES - 3)))
    with pytest.raises(RemoteProtocolError, match="credit"):
        side.mux.receive(encode_data(2, b"x"))
    assert side.events == [("open", 2), ("data", 2, b"abc")]


def test_after_our_stop_the_end_or_the_reset_is_still_told() -> None:
    side = listener()
    side.mux.receive(encode_data(2, b"", opens=True) + encode_data(4, b"", opens=True))
    side.mux.live[2].stop(7)
    side.mux.live[4].stop(7)
    side.mux.receive(encode_data(2, b"rest", ends=True) + encode_reset(4, 7))
    assert side.events == [("open", 2), ("open", 4), ("end", 2), ("reset", 4, 7)]
    with pytest.raises(RemoteProtocolError):
        side.mux.receive(encode_data(2, b"x"))


@pytest.mark.parametrize("feed", FEEDINGS)
def test_a_stop_in_the_middle_of_a_frame_ends_delivery_at_once(feed: Callable[..., None]) -> None:
    side = listener()
    side.mux.receive(encode_data(2, b"", opens=True))
    side.reader(2).on_piece = lambda: side.mux.live[2].stop(1)
    side.mux.receive(HEADER.pack((DATA | END) << 24 | 6, 2) + b"abc")
    feed(side.mux, b"def")
    assert side.events == [("open", 2), ("data", 2, b"abc"), ("end", 2)]
    side.mux.live[2].reset(0)
    assert not side.mux.live


def test_a_stop_before_the_first_write_follows_the_opening_frame() -> None:
    one = dialer()
    stream = one.open()
    stream.stop(3)
    assert one.output() == b""
    stream.write([b"x"])
    assert list(frames(one.output())) == [(DATA | OPEN, 2, b"x"), (STOP, 2, (3).to_bytes(4, "little"))]


def test_a_stop_drops_what_is_queued_and_the_answer_is_the_users() -> None:
    one = dialer()
    stream = one.open()
    stream.write([bytes(200_000)])
    one.output()
    one.mux.receive(encode_stop(2, 5))
    assert one.events == [("stop", 2, 5)]
    assert stream.write([b"more"])
    one.mux.receive(encode_credit(2, 1 << 40) + encode_stop(2, 6))
    assert one.output() == b""
    stream.reset(5)
    stream.reset(6)
    assert list(frames(one.output())) == [(RESET, 2, (5).to_bytes(4, "little"))]
    assert one.events == [("stop", 2, 5)]


def test_a_write_that_ends_after_a_stop_resets_with_its_code() -> None:
    one = dialer()
    stream = one.open()
    stream.write([b"x"])
    one.output()
    one.mux.receive(encode_stop(2, 5))
    assert stream.write([b"y"], True)
    assert list(frames(one.output())) == [(RESET, 2, (5).to_bytes(4, "little"))]


def test_a_stop_of_what_we_have_ended_but_not_sent_is_answered_by_the_mux() -> None:
    one = dialer()
    one.open().write([bytes(100_000)], True)
    one.output()
    one.mux.receive(encode_stop(2, 5))
    assert list(frames(one.output())) == [(RESET, 2, (5).to_bytes(4, "little"))]
    assert one.events == [("stop", 2, 5)]


def test_a_stop_of_what_we_have_sent_means_nothing() -> None:
    one = dialer()
    one.open().write([b"x"], True)
    one.output()
    one.mux.receive(encode_stop(2, 5))
    assert one.events == []
    assert one.output() == b""


def test_a_reset_drops_what_is_queued_and_nothing_follows() -> None:
    one = dialer()
    stream = one.open()
    stream.write([bytes(200_000)])
    one.output()
    stream.reset(5)
    assert stream.write([b"x"])
    one.mux.receive(encode_credit(2, 1 << 40))
    assert list(frames(one.output())) == [(RESET, 2, (5).to_bytes(4, "little"))]


def test_a_write_after_the_end_is_the_callers_fault() -> None:
    one = dialer()
    stream = one.open()
    stream.write([b"x"], True)
    with pytest.raises(ResourceClosed):
        stream.write([b"y"])
    one.output()
    with pytest.raises(ResourceClosed):
        stream.write([b"y"])
    stream.reset(1)
    assert one.output() == b""


def test_either_direction_can_end_and_the_other_go_on() -> None:
    one, other = dialer(), listener()
    stream = one.open()
    stream.write([b"question"], True)
    exchange(one, other)
    other.mux.live[2].write([b"answer"])
    exchange(one, other)
    other.mux.live[2].write([b"!"], True)
    exchange(one, other)
    assert other.events == [("open", 2), ("data", 2, b"question"), ("end", 2)]
    assert one.events == [("data", 2, b"answer!"), ("end", 2)]
    assert not one.mux.live
    assert not other.mux.live


def test_a_substream_that_is_not_started_sends_nothing() -> None:
    one = dialer()
    stream = one.mux.open()
    stream.write([b"x"], True)
    assert one.output() == b""
    stream.start(Side("dialer").recorder.on_open(stream))
    assert list(frames(one.output())) == [(DATA | OPEN | END, 2, b"x")]
