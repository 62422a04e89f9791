"""Bytes of packets: what the documentation of the format says."""

from __future__ import annotations

import pytest

from echostream_sim import link_frames as wire


def test_headers_are_as_long_as_they_are_documented() -> None:
    assert (wire.HEADER.size, wire.SHAKE.size, wire.SHORT.size) == (13, 11, 5)
    assert wire.HEADER.pack(wire.PACKET, 1, 2, 3).hex() == "03010000000200000003000000"
    assert wire.SHAKE.pack(wire.HELLO, 7, wire.VERSION, 1024).hex() == "0107000000010000040000"


def test_an_acknowledgement_names_the_highest_range_first() -> None:
    frame = wire.encode_ack(0.002, [(1, 3), (5, 6), (9, 20)], 1_000)
    kind, delay, count = wire.ACK_HEAD.unpack_from(frame)
    ranges = [wire.ACK_RANGE.unpack_from(frame, wire.ACK_HEAD.size + at * 8) for at in range(count)]
    assert (kind, delay, ranges) == (wire.ACK, 2_000, [(9, 20), (5, 6), (1, 3)])


@pytest.mark.parametrize(("most", "count"), [(1_000, 100), (46, 5), (14, 1), (0, 1)])
def test_an_acknowledgement_leaves_out_the_lowest_ranges_for_lack_of_room(most: int, count: int) -> None:
    ranges = [(number * 10, number * 10 + 1) for number in range(100)]
    frame = wire.encode_ack(0.0, ranges, most)
    assert wire.ACK_HEAD.unpack_from(frame)[2] == count
    assert wire.ACK_RANGE.unpack_from(frame, wire.ACK_HEAD.size) == (990, 991)
