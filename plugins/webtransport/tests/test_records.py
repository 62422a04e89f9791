"""Records, cut at every byte and in every mixture."""

from __future__ import annotations

import pytest

from echostream_quic.frames import varint
from echostream_webtransport.records import RecordReader, Take, read_varint, record

NUMBERS = [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_integers_are_read_as_they_were_written_and_only_when_complete(number: int) -> None:
    data = varint(number)
    assert read_varint(b"xy" + data + b"z", 2) == (number, 2 + len(data))
    for size in range(len(data)):
        assert read_varint(data[:size]) is None


def test_integers_may_be_longer_than_they_need_to_be() -> None:
    assert read_varint(bytes.fromhex("c000000000000041")) == (0x41, 8)
    assert read_varint(bytes.fromhex("4041")) == (0x41, 2)


STREAM = [(1, b"headers"), (0, b"a piece"), (0x21, b"?" * 300), (0, b""), (7, b""), (0, b"x" * 20_000), (1, b"end")]
"""1 and 7 are wanted whole, 0 in pieces, everything else is left out."""


class Log:
    """Writes down what a reader says."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.begun: list[tuple[int, int]] = []
        self.reader = RecordReader(self.begin, lambda kind, value: self.lines.append((kind, value)), self.piece)

    def begin(self, kind: int, length: int) -> Take:
        self.begun.append((kind, length))
        return {0: Take.PIECES, 1: Take.WHOLE, 7: Take.WHOLE}.get(kind, Take.SKIP)

    def piece(self, data: bytes) -> None:
        """Pieces of one record are joined again."""
        if self.lines and self.lines[-1][0] == 0:
            data = self.lines.pop()[1] + data
        self.lines.append((0, data))


WANTED = [(1, b"headers"), (0, b"a piece"), (7, b""), (0, b"x" * 20_000), (1, b"end")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1_000, 100_000])
def test_records_are_the_same_in_pieces_of_any_size(size: int) -> None:
    data = b"".join(record(kind, value) for kind, value in STREAM)
    log = Log()
    for at in range(0, len(data), size):
        log.reader.feed(data[at : at + size])
    assert log.lines == WANTED
    assert log.begun == [(kind, len(value)) for kind, value in STREAM]
    assert not log.reader.in_the_middle


def test_a_cut_at_every_byte_makes_no_difference() -> None:
    data = b"".join(record(kind, value[:300]) for kind, value in STREAM)
    whole = Log()
    whole.reader.feed(data)
    for at in range(len(data)):
        log = Log()
        log.reader.feed(data[:at])
        log.reader.feed(data[at:])
        assert log.lines == whole.lines


def test_whether_a_record_is_cut_off_is_known_at_every_byte() -> None:
    data = record(1, b"abc")
    for size in range(len(data) + 1):
        log = Log()
        log.reader.feed(data[:size])
        assert log.reader.in_the_middle is (0 < size < len(data))


def test_of_a_record_that_is_left_out_nothing_is_kept() -> None:
    log = Log()
    log.reader.feed(varint(0x21) + varint((1 << 62) - 1))
    for _ in range(100):
        log.reader.feed(bytes(10_000))
    assert log.reader._buffer == b""
    assert log.lines == []


def test_a_record_that_is_refused_is_refused_by_its_head() -> None:
    def begin(kind: int, length: int) -> Take:
        raise ValueError(f"{kind} of {length}")

    reader = RecordReader(begin, lambda kind, value: None)
    reader.feed(varint(0x2843))
    with pytest.raises(ValueError, match="10307 of 1000000"):
        reader.feed(varint(1_000_000))
