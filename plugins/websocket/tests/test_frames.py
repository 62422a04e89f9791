"""Frames without a socket: the vectors of RFC 6455, every feeding, every illegal move, and what is written."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from echostream_core.errors import CloseCode
from echostream_core.types import Buffer
from echostream_websocket import _mask
from echostream_websocket.frames import (
    BINARY,
    CLOSE,
    GATHER_BYTES,
    MAX_CONTROL_BYTES,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    close_payload,
    masked_frame,
    plain_frame,
)
from plugins.websocket.tests.peers import frame, payload_of

MASK = b"\x37\xfa\x21\x3d"
FIN = 0x80
Event = tuple[object, ...]


class Messages:
    """Assembles what a reader hands on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.pieces = b""
        self.reader: FrameReader | None = None
        self.stop_after: int | None = None

    def on_payload(self, opcode: int, data: Buffer, last: bool) -> None:
        self.pieces += data
        if last:
            self.events.append((opcode, self.pieces))
            self.pieces = b""
        self._count()

    def on_ping(self, payload: bytes) -> None:
        self.events.append((PING, payload))
        self._count()

    def on_pong(self, payload: bytes) -> None:
        self.events.append((PONG, payload))

    def on_close(self, code: int, reason: str) -> None:
        self.events.append((CLOSE, code, reason))

    def _count(self) -> None:
        if self.stop_after is not None and self.reader is not None:
            self.stop_after -= 1
            self.reader.stopped = self.stop_after <= 0


def reader_for(
    *, masked: bool, max_message_bytes: int = 1 << 20, accepts_text: bool = True
) -> tuple[FrameReader, Messages]:
    messages = Messages()
    reader = FrameReader(messages, masked=masked, max_message_bytes=max_message_bytes, accepts_text=accepts_text)
    messages.reader = reader
    return reader, messages


def read(
    data: bytes, *, masked: bool = False, max_message_bytes: int = 1 << 20, accepts_text: bool = True
) -> list[Event]:
    """What ``data`` means, whole; the same must come out byte by byte, and in every two parts."""
    outcomes: list[list[Event]] = []
    for parts in feedings(data):
        reader, messages = reader_for(masked=masked, max_message_bytes=max_message_bytes, accepts_text=accepts_text)
        try:
            for part in parts:
                assert reader.feed(part) == len(part) or reader.stopped
        except FrameError as error:
            messages.events.append(("error", error.code))
        outcomes.append(messages.events)
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


def feedings(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield [data[index : index + 1] for index in range(len(data))]
    for cut in range(1, min(len(data), 40)):
        yield [data[:cut], data[cut:]]


# RFC 6455 section 5.7.


@pytest.mark.parametrize(
    ("data", "masked", "events"),
    [
        ("81 05 48 65 6c 6c 6f", False, [(TEXT, b"Hello")]),
        ("81 85 37 fa 21 3d 7f 9f 4d 51 58", True, [(TEXT, b"Hello")]),
        ("01 03 48 65 6c 80 02 6c 6f", False, [(TEXT, b"Hello")]),
        ("89 05 48 65 6c 6c 6f", False, [(PING, b"Hello")]),
        ("8a 85 37 fa 21 3d 7f 9f 4d 51 58", True, [(PONG, b"Hello")]),
    ],
)
def test_the_examples_of_the_rfc_are_read(data: str, masked: bool, events: list[Event]) -> None:
    assert read(bytes.fromhex(data), masked=masked) == events


def test_the_long_examples_of_the_rfc_are_read() -> None:
    for head, size in (("82 7e 0100", 256), ("82 7f 0000000000010000", 65_536)):
        reader, messages = reader_for(masked=False)
        payload = payload_of(size)
        reader.feed(bytes.fromhex(head) + payload)
        assert messages.events == [(BINARY, payload)]


# What is legal.


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 300])
def test_messages_of_every_form_of_length_arrive(masked: bool, size: int) -> None:
    payload = payload_of(size)
    data = frame(FIN | BINARY, payload, mask=MASK if masked else b"")
    assert read(data + data, masked=masked) == [(BINARY, payload), (BINARY, payload)]


@pytest.mark.parametrize("size", [65_535, 65_536])
@pytest.mark.parametrize("portion", [1_000, 1_001, 70_000])
def test_a_large_message_is_unmasked_right_in_any_portions(size: int, portion: int) -> None:
    payload = payload_of(size)
    data = frame(FIN | BINARY, payload, mask=MASK)
    reader, messages = reader_for(masked=True)
    for begin in range(0, len(data), portion):
        reader.feed(data[begin : begin + portion])
    assert messages.events == [(BINARY, payload)]


def test_control_frames_may_stand_between_fragments() -> None:
    data = frame(TEXT, b"a") + frame(FIN | PING, b"p") + frame(0, b"b") + frame(FIN | PONG) + frame(FIN, b"c")
    assert read(data) == [(PING, b"p"), (PONG, b""), (TEXT, b"abc")]


def test_empty_fragments_are_fragments() -> None:
    assert read(frame(BINARY) + frame(0) + frame(FIN)) == [(BINARY, b"")]


def test_a_sign_of_utf8_may_be_cut_between_fragments() -> None:
    text = "κόσμε€😀".encode()
    for cut in range(len(text)):
        assert read(frame(TEXT, text[:cut]) + frame(FIN, text[cut:])) == [(TEXT, text)]


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", 1_005, ""),
        (b"\x03\xe8", 1_000, ""),
        (b"\x03\xe9away", 1_001, "away"),
        (b"\x03\xf6" + "ä".encode() * 61, 1_014, "ä" * 61),
        (b"\x0b\xb8", 3_000, ""),
        (b"\x13\x87", 4_999, ""),
    ],
)
def test_close_frames_are_read_and_nothing_behind_them(payload: bytes, code: int, reason: str) -> None:
    assert read(frame(FIN | CLOSE, payload) + frame(FIN | BINARY, b"late")) == [(CLOSE, code, reason)]


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frames_may_have_125_bytes(opcode: int) -> None:
    payload = b"\x03\xe8" + b"x" * 123
    assert read(frame(FIN | opcode, payload))[0][0] == opcode


# What is not.

TOO_LONG = frame(FIN | PING, b"x" * (MAX_CONTROL_BYTES + 1))

ILLEGAL = {
    "RSV1, a compressed frame": (frame(0xC2, b"x"), 1002),
    "RSV2": (frame(0xA2, b"x"), 1002),
    "RSV3": (frame(0x92, b"x"), 1002),
    "a reserved bit on a control frame": (frame(0xC9), 1002),
    "opcode 3": (frame(0x83), 1002),
    "opcode 7": (frame(0x87), 1002),
    "opcode 11": (frame(0x8B), 1002),
    "opcode 15": (frame(0x8F), 1002),
    "a continuation of nothing": (frame(FIN, b"x"), 1002),
    "a first fragment that continues nothing": (frame(0, b"x"), 1002),
    "a continuation after the end": (frame(FIN | BINARY) + frame(FIN), 1002),
    "a message within a message": (frame(TEXT, b"a") + frame(FIN | TEXT, b"b"), 1002),
    "a fragment within a message": (frame(BINARY, b"a") + frame(BINARY, b"b"), 1002),
    "a fragmented ping": (frame(PING, b"x"), 1002),
    "a fragmented close": (frame(CLOSE), 1002),
    "a long ping": (TOO_LONG, 1002),
    "a long close": (frame(FIN | CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "126 in 16 bits that need 7": (b"\x82\x7e\x00\x7d" + b"x" * 125, 1002),
    "64 bits that need 16": (b"\x82\x7f" + (65_535).to_bytes(8, "big"), 1002),
    "a length of 2^63": (b"\x82\x7f" + (1 << 63).to_bytes(8, "big"), 1002),
    "half a close code": (frame(FIN | CLOSE, b"\x03"), 1002),
    "close code 0": (frame(FIN | CLOSE, b"\0\0"), 1002),
    "close code 999": (frame(FIN | CLOSE, b"\x03\xe7"), 1002),
    "close code 1004": (frame(FIN | CLOSE, b"\x03\xec"), 1002),
    "close code 1005": (frame(FIN | CLOSE, b"\x03\xed"), 1002),
    "close code 1006": (frame(FIN | CLOSE, b"\x03\xee"), 1002),
    "close code 1015": (frame(FIN | CLOSE, b"\x03\xf7"), 1002),
    "close code 2999": (frame(FIN | CLOSE, b"\x0b\xb7"), 1002),
    "close code 5000": (frame(FIN | CLOSE, b"\x13\x88"), 1002),
    "a reason that is no UTF-8": (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    "a text that is no UTF-8": (frame(FIN | TEXT, b"\xce\xba\xff"), 1007),
    "a text that ends within a sign": (frame(FIN | TEXT, b"\xce"), 1007),
    "a surrogate": (frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
    "beyond Unicode": (frame(FIN | TEXT, b"\xf4\x90\x80\x80"), 1007),
    "an overlong sign": (frame(FIN | TEXT, b"\xc0\xaf"), 1007),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_frames_are_refused_with_the_right_code(name: str) -> None:
    data, code = ILLEGAL[name]
    before = frame(FIN | BINARY, b"before")
    assert read(before + data) == [(BINARY, b"before"), *legal_beginning(name), ("error", code)]


def legal_beginning(name: str) -> list[Event]:
    return [(BINARY, b"")] if name == "a continuation after the end" else []


@pytest.mark.parametrize("opcode", [BINARY, PING, CLOSE])
def test_masking_in_the_wrong_direction_is_refused(opcode: int) -> None:
    assert read(frame(FIN | opcode, b"\x03\xe8"), masked=True) == [("error", 1002)]
    assert read(frame(FIN | opcode, b"\x03\xe8", mask=MASK), masked=False) == [("error", 1002)]


def test_a_wrong_text_is_refused_before_it_is_complete() -> None:
    reader, _ = reader_for(masked=False)
    reader.feed(frame(TEXT, b"\xce\xba")[:4])
    with pytest.raises(FrameError) as caught:
        reader.feed(frame(0, b"\xf4\x90", length=50))
    assert caught.value.code == 1007


def test_a_text_is_refused_where_only_binary_messages_are_understood() -> None:
    assert read(frame(FIN | TEXT, b"hi"), accepts_text=False) == [("error", 1003)]
    assert read(frame(TEXT, b"hi"), accepts_text=False) == [("error", 1003)]


def test_the_size_of_a_message_is_limited_by_what_is_declared() -> None:
    assert read(frame(FIN | BINARY, b"x" * 200), max_message_bytes=200) == [(BINARY, b"x" * 200)]
    assert read(frame(FIN | BINARY, b"", length=201), max_message_bytes=200) == [("error", 1009)]
    assert read(frame(FIN | BINARY, b"", length=101), max_message_bytes=100) == [("error", 1009)]


def test_the_size_of_a_message_is_limited_over_all_its_fragments() -> None:
    fragments = frame(BINARY, b"x" * 100) + frame(0, b"x" * 100)
    assert read(fragments + frame(FIN), max_message_bytes=200) == [(BINARY, b"x" * 200)]
    assert read(fragments + frame(FIN, b"y"), max_message_bytes=200)[-1] == ("error", 1009)


def test_the_error_says_what_the_session_should_know() -> None:
    reader, _ = reader_for(masked=False, max_message_bytes=10)
    with pytest.raises(FrameError, match="max_message_bytes is 10") as caught:
        reader.feed(frame(FIN | BINARY, length=11))
    assert caught.value.close_code == CloseCode.LIMIT


# Anything at all.


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_an_error_or_a_message_and_nothing_else(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        masked = dice.random() < 0.5
        data = bytearray(dice.randbytes(dice.randrange(1, 60)))
        if dice.random() < 0.7:  # a first byte that is not refused at once
            data[0] = dice.choice((0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A))
        read(bytes(data), masked=masked, max_message_bytes=1_000)


@pytest.mark.parametrize("seed", range(20))
def test_legal_frames_mean_the_same_however_they_are_cut(seed: int) -> None:
    dice = random.Random(seed)
    masked = seed % 2 == 0
    data, expected = b"", []
    for _ in range(30):
        payload = dice.randbytes(dice.choice((0, 1, 5, 125, 126, 1_000)))
        cuts = sorted(dice.randrange(len(payload) + 1) for _ in range(dice.randrange(3)))
        parts = [payload[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(payload)])]
        for index, part in enumerate(parts):
            first = (BINARY if index == 0 else 0) | (FIN if index == len(parts) - 1 else 0)
            data += frame(first, part, mask=dice.randbytes(4) if masked else b"")
            if dice.random() < 0.3:
                data += frame(FIN | PING, b"p", mask=dice.randbytes(4) if masked else b"")
        expected.append(payload)
    reader, messages = reader_for(masked=masked)
    position = 0
    while position < len(data):
        size = dice.choice((1, 2, 3, 7, 100, 5_000))
        reader.feed(memoryview(data)[position : position + size])
        position += size
    assert [event[1] for event in messages.events if event[0] == BINARY] == expected


# Pieces, and stopping.


def test_payload_is_handed_on_as_it_arrives() -> None:
    seen: list[tuple[int, bool]] = []

    class Pieces(Messages):
        def on_payload(self, opcode: int, data: Buffer, last: bool) -> None:
            seen.append((len(data), last))

    reader = FrameReader(Pieces(), masked=False, max_message_bytes=1 << 40)
    reader.feed(frame(FIN | BINARY, b"x" * 10, length=1 << 39))
    reader.feed(b"y" * 1_000)
    assert seen == [(10, False), (1_000, False)]


def test_unmasked_payload_is_not_copied() -> None:
    data = memoryview(bytearray(frame(FIN | BINARY, b"x" * 300)))
    shared: list[bool] = []

    class Pieces(Messages):
        def on_payload(self, opcode: int, data: Buffer, last: bool) -> None:
            shared.append(isinstance(data, memoryview) and data.obj is whole)

    whole = data.obj
    FrameReader(Pieces(), masked=False, max_message_bytes=1_000).feed(data)
    assert shared == [True]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [5, 200])
def test_a_stopped_reader_reads_nothing_more_and_goes_on_where_it_was(masked: bool, size: int) -> None:
    payloads = [payload_of(size) for _ in range(4)]
    data = b"".join(frame(FIN | BINARY, payload, mask=MASK if masked else b"") for payload in payloads)
    reader, messages = reader_for(masked=masked)
    messages.stop_after = 2
    used = reader.feed(data)
    assert messages.events == [(BINARY, payload) for payload in payloads[:2]]
    assert used == len(data) // 2
    assert reader.feed(data[used:]) == 0
    messages.stop_after, reader.stopped = None, False
    reader.feed(data[used:])
    assert messages.events == [(BINARY, payload) for payload in payloads]


# Writing.

WRITERS: dict[bool, Callable[..., object]] = {False: plain_frame, True: masked_frame}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("opcode", [BINARY, TEXT, PING, CLOSE])
def test_small_frames_that_we_write_are_read_back(masked: bool, opcode: int) -> None:
    payload = b"\x03\xe8ab"
    data = b"".join((masked_frame if masked else plain_frame)(opcode, (payload[:3], payload[3:]), len(payload)))
    expected: list[Event] = [(opcode, payload)] if opcode != CLOSE else [(CLOSE, 1000, "ab")]
    if opcode == TEXT:
        payload = b"abcd"
        data = b"".join((masked_frame if masked else plain_frame)(opcode, (payload,), len(payload)))
        expected = [(TEXT, payload)]
    assert read(data, masked=masked) == expected


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 125, 126, GATHER_BYTES, GATHER_BYTES + 1, 65_535, 65_536])
def test_what_we_write_is_read_back(masked: bool, size: int) -> None:
    payload = payload_of(size)
    third = size // 3
    buffers = (payload[:third], memoryview(payload)[third : third + 1], bytearray(payload[third + 1 :]))
    data = b"".join((masked_frame if masked else plain_frame)(BINARY, buffers, size))
    reader, messages = reader_for(masked=masked)
    assert reader.feed(data) == len(data)
    assert messages.events == [(BINARY, payload)]
    expected = 2 + (0 if size < 126 else 2 if size < 65_536 else 8) + 4 * masked + size
    assert len(data) == expected  # the shortest form of the length


def test_large_buffers_of_a_server_are_sent_as_they_are() -> None:
    payload = payload_of(GATHER_BYTES + 1)
    assert plain_frame(BINARY, (payload,), len(payload))[1] is payload


def test_every_frame_has_a_mask_of_its_own() -> None:
    masks = {bytes(b"".join(masked_frame(BINARY, (b"",), 0))[2:6]) for _ in range(3_000)}
    assert len(masks) > 2_990


def test_a_forked_process_draws_masks_of_its_own() -> None:
    _mask.next_mask()
    assert _mask._pool
    _mask._pool.clear()  # what is registered for the child
    assert len(_mask.next_mask()) == 4


@pytest.mark.parametrize("size", range(9))
def test_a_rotated_mask_goes_on_where_it_was(size: int) -> None:
    endless = bytes(itertools.islice(itertools.cycle(MASK), 20))
    assert _mask.rotated(MASK, size) == endless[size : size + 4]


def test_a_reason_is_cut_to_what_a_close_frame_carries() -> None:
    payload = close_payload(1_002, "ä" * 100)
    assert len(payload) <= MAX_CONTROL_BYTES
    assert payload[2:].decode() == "ä" * 61
    assert close_payload(1_005) == b""
