"""The fixed headers and the writers of rare frames. What the bytes are, the vectors say; here are the edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.wire import frames
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    DATA,
    IGNORABLE,
    PREFIX,
    RESPONSE,
    RESPONSE_HEAD,
    SUBSTREAM_HEAD,
    FrameType,
    encode_cancel,
    encode_goaway,
    encode_ping,
    encode_pong,
    encode_substream_head,
    grease_frame,
)
from tests.unit.wire.control_recorder import control_reader

U32 = st.integers(0, 0xFFFF_FFFF)
U64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)


def test_headers_have_the_sizes_of_the_specification() -> None:
    assert (PREFIX.size, CALL_HEAD.size, RESPONSE_HEAD.size, SUBSTREAM_HEAD.size) == (8, 20, 16, 8)


def test_the_plain_numbers_are_those_of_the_enumeration() -> None:
    assert (CALL, RESPONSE, DATA) == (FrameType.CALL, FrameType.RESPONSE, FrameType.DATA)


def test_no_type_of_a_frame_looks_like_grease() -> None:
    assert not any(kind & 0x0F == 0x0A for kind in FrameType)


@given(U32, U32, st.integers(0, 255))
def test_a_head_carries_its_fields(kind: int, number: int, level: int) -> None:
    head = encode_substream_head(kind & 0xFF, level, number)
    assert SUBSTREAM_HEAD.unpack(head) == (kind & 0xFF, level, 0, number)


@given(U32, U64, st.one_of(st.none(), U32), U32, st.text(max_size=400))
def test_rare_frames_arrive_as_they_were_written(
    number: int, value: int, last: int | None, code: int, reason: str
) -> None:
    reader, recorder = control_reader()
    for frame in (encode_cancel(number), encode_ping(value), encode_pong(value), encode_goaway(last, code, reason)):
        reader.receive(frame)
    assert recorder.calls == [("cancel", number), ("ping", value), ("pong", value), ("goaway", last, code, reason)]


@pytest.mark.parametrize("reason", ["x" * 1024, "x" * 1025, "x" * 5000])
def test_a_reason_has_at_most_1024_bytes(reason: str) -> None:
    frame = encode_goaway(None, 0, reason)
    assert len(frame) == 16 + 1024
    reader, recorder = control_reader()
    reader.receive(frame)
    assert recorder.calls == [("goaway", None, 0, reason[:1024])]


def test_a_reader_cuts_a_longer_reason_itself() -> None:
    reader, recorder = control_reader()
    reader.receive(PREFIX.pack(FrameType.GOAWAY, frames.FINAL, 0, 8 + 2000) + bytes(8) + b"y" * 2000)
    assert recorder.calls == [("goaway", 0, 0, "y" * 1024)]


@given(U32)
def test_grease_is_skipped_by_every_reader(draw: int) -> None:
    frame = grease_frame(draw)
    kind, flags, _aux, length = PREFIX.unpack_from(frame)
    assert kind in range(0x1A, 0x7B, 0x10)
    assert flags == IGNORABLE
    assert len(frame) == 8 + length <= 12
    reader, recorder = control_reader()
    reader.receive(frame + encode_ping(1))
    assert recorder.calls == [("ignored", kind), ("ping", 1)]
