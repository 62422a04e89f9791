"""The frames that we write, against what aioquic reads."""

from __future__ import annotations

import pytest
from aioquic.buffer import Buffer, size_uint_var  # type: ignore[attr-defined]  # it is re-exported without __all__

from echostream_quic import frames

VALUES = [0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1]


@pytest.mark.parametrize("value", VALUES)
def test_integers_are_what_aioquic_reads(value: int) -> None:
    written = frames.varint(value)
    assert Buffer(data=written).pull_uint_var() == value
    assert len(written) == frames.varint_size(value) == size_uint_var(value)


def test_an_integer_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OverflowError):
        frames.varint(1 << 62)


@pytest.mark.parametrize("stream_id", [0, 64, 20_000])
@pytest.mark.parametrize("offset", [0, 63, 100, 16_383, 16_384, 100_000, 1 << 33])
@pytest.mark.parametrize("end", [False, True])
def test_stream_frames_are_read_alike_by_aioquic_and_by_us(stream_id: int, offset: int, end: bool) -> None:
    header = frames.stream_header(frames.varint(stream_id), offset, 1_000, end)
    buf = Buffer(data=header)
    frame_type = buf.pull_uint_var()
    assert frame_type & 0xFA == 0x0A
    assert bool(frame_type & 1) is end
    assert buf.pull_uint_var() == stream_id
    assert (buf.pull_uint_var() if frame_type & 4 else 0) == offset
    assert buf.pull_uint_var() == 1_000
    assert buf.eof()
    data = bytes(range(250)) * 4
    assert frames.read_stream(header + data) == (frame_type, stream_id, offset, data)


def test_what_is_not_one_whole_stream_frame_is_left_to_the_general_reader() -> None:
    whole = frames.stream_header(frames.varint(4), 70_000, 5, True) + b"hello"
    for size in range(len(whole)):
        assert frames.read_stream(whole[:size]) is None
    assert frames.read_stream(whole + b"\0") is None
    assert frames.read_stream(b"\x08\x04hello") is None  # without a length
    assert frames.read_stream(b"\x01") is None
    assert frames.read_stream(b"") is None


@pytest.mark.parametrize("stream_id", [0x3F, 0x40, 0x3FFF, 0x4000, 0x3FFF_FFFF, 0x4000_0000])
def test_integers_of_every_length_are_read(stream_id: int) -> None:
    payload = b"".join((b"\x0e", frames.varint(stream_id), frames.varint(stream_id), b"\x02hi"))
    assert frames.read_stream(payload) == (0x0E, stream_id, stream_id, b"hi")


def test_frames_of_integers() -> None:
    assert frames.frame(frames.MAX_STREAM_DATA, 4, 70_000) == bytes.fromhex("11 04 80011170")
    assert frames.frame(frames.RESET_STREAM, 0, 0xFFFF_FFFF, 5) == bytes.fromhex("04 00 c0000000ffffffff 05")
