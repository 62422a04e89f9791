"""Capsules and codes: what drafts say, from both sides of each limit."""

from __future__ import annotations

import random

import pytest

from echostream_core.errors import CloseCode
from echostream_webtransport._errors import Http3Error
from echostream_webtransport.capsules import CapsuleReader, close_capsule
from echostream_webtransport.codes import H3, code_from_wire, code_to_wire, is_application, name_of
from echostream_webtransport.records import record

CLOSE = 0x2843
DRAIN = 0x78AE


def read(*pieces: bytes) -> tuple[list[tuple[int, str]], CapsuleReader]:
    closes: list[tuple[int, str]] = []
    reader = CapsuleReader(lambda code, reason: closes.append((code, reason)))
    for piece in pieces:
        reader.feed(piece)
    return closes, reader


def test_the_close_capsule_is_that_of_the_draft() -> None:
    assert close_capsule(0x01020304, "bye") == bytes.fromhex("6843 07 01020304") + b"bye"
    assert close_capsule(1 << 32, "") == bytes.fromhex("6843 04 00000000")


@pytest.mark.parametrize("reason", ["", "bye", "ä€𝄞", "x" * 1_024])
def test_code_and_reason_arrive_cut_anywhere(reason: str) -> None:
    data = record(DRAIN) + record(0x99, b"unknown") + close_capsule(4_000_000_000, reason)
    for at in range(0, len(data), 1 if len(data) < 100 else 53):
        closes, reader = read(data[:at], data[at:])
        assert closes == [(4_000_000_000, reason)]
        assert reader.draining
        assert not reader.in_the_middle


@pytest.mark.parametrize("size", [0, 3, 1_029, 1 << 40])
def test_a_close_capsule_of_an_impossible_size_is_refused_by_its_head(size: int) -> None:
    from echostream_quic.frames import varint

    with pytest.raises(Http3Error) as error:
        read(varint(CLOSE) + varint(size))
    assert error.value.code is H3.MESSAGE_ERROR


def test_the_longest_reason_is_cut_between_characters() -> None:
    closes, _ = read(close_capsule(1, "€" * 400))
    assert closes == [(1, "€" * 341)]


def test_a_reason_that_is_no_text_harms_nothing() -> None:
    closes, _ = read(record(CLOSE, bytes(4) + b"\xff\xfe"))
    assert closes == [(0, "��")]


def test_what_follows_the_close_has_no_meaning() -> None:
    closes, reader = read(close_capsule(1, "a") + close_capsule(2, "b"), close_capsule(3, "c") + b"\xff" * 100)
    assert closes == [(1, "a")]
    assert not reader.in_the_middle


def test_an_endless_unknown_capsule_takes_no_memory() -> None:
    from echostream_quic.frames import varint

    closes, reader = read(varint(0x1F * 9 + 0x17) + varint((1 << 62) - 1), *([bytes(65_536)] * 50))
    assert closes == []
    assert reader._reader._buffer == b""


def test_noise_is_read_or_refused_and_never_piles_up() -> None:
    dice = random.Random(11)
    for _ in range(2_000):
        closes: list[tuple[int, str]] = []
        reader = CapsuleReader(lambda code, reason, closes=closes: closes.append((code, reason)))  # type: ignore[misc]
        data = b"".join(
            dice.choice([dice.randbytes(dice.randrange(30)), close_capsule(dice.getrandbits(32), "x"), record(DRAIN)])
            for _ in range(5)
        )
        try:
            for at in range(0, len(data), 7):
                reader.feed(data[at : at + 7])
                assert len(reader._reader._buffer) <= 1_028 + 7
        except Http3Error as error:
            assert error.code is H3.MESSAGE_ERROR
        assert len(closes) <= 1


def test_the_codes_of_the_draft() -> None:
    assert code_to_wire(0) == 0x52E4A40FA8DB
    assert code_to_wire(0xFFFF_FFFF) == 0x52E5AC983162
    assert code_to_wire(0x1D) == 0x52E4A40FA8F8
    assert code_to_wire(0x1E) == 0x52E4A40FA8FA  # the one between is reserved


@pytest.mark.parametrize("code", [*range(200), 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF])
def test_every_code_comes_back_and_none_is_a_reserved_one(code: int) -> None:
    sent = code_to_wire(code)
    assert (sent - 0x21) % 0x1F
    assert is_application(sent)
    assert code_from_wire(sent) == code


@pytest.mark.parametrize("code", [0x52E4A40FA8DA, 0x52E5AC983163, 0x52E4A40FA8F9, 0, 0x100, (1 << 62) - 1])
def test_what_is_no_applications_code_is_not_taken_for_one(code: int) -> None:
    assert not is_application(code)
    assert code_from_wire(code) in set(CloseCode)


def test_errors_are_called_by_their_names() -> None:
    assert name_of(0x104) == "H3_CLOSED_CRITICAL_STREAM (0x104)"
    assert name_of(0xABC) == "HTTP/3 error 0xabc"
