"""Varints and the reader of complete frame bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.errors import RemoteProtocolError
from echostream_core.wire.varint import MAX_VARINT, Reader, encode_bytes, encode_varint

# RFC 9000 appendix A.1, and both sides of each length.
KNOWN = [
    (0, "00"),
    (37, "25"),
    (63, "3f"),
    (64, "4040"),
    (15_293, "7bbd"),
    (16_383, "7fff"),
    (16_384, "80004000"),
    (494_878_333, "9d7f3e7d"),
    ((1 << 30) - 1, "bfffffff"),
    (1 << 30, "c000000040000000"),
    (151_288_809_941_952_652, "c2197c5eff14e88c"),
    (MAX_VARINT, "ffffffffffffffff"),
]


@pytest.mark.parametrize(("value", "digits"), KNOWN)
def test_a_number_has_its_shortest_form(value: int, digits: str) -> None:
    assert encode_varint(value).hex() == digits
    reader = Reader(bytes.fromhex(digits), "test")
    assert reader.varint("n") == value
    assert reader.remaining == 0


@pytest.mark.parametrize("digits", ["25", "4025", "80000025", "c000000000000025"])
def test_every_form_of_a_number_is_read(digits: str) -> None:
    assert Reader(bytes.fromhex(digits), "test").varint("n") == 37


@pytest.mark.parametrize("value", [-1, MAX_VARINT + 1])
def test_a_number_that_does_not_fit_is_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        encode_varint(value)


@given(st.integers(0, MAX_VARINT), st.binary(max_size=9))
def test_what_is_written_is_read_and_no_more(value: int, rest: bytes) -> None:
    data = encode_varint(value)
    for buffer in (data + rest, bytearray(data + rest), memoryview(b"\xee" + data + rest)[1:]):
        reader = Reader(buffer, "test")
        assert reader.varint("n") == value
        assert reader.remaining == len(rest)
        assert reader.fixed("rest", len(rest)) == rest


@pytest.mark.parametrize("digits", ["", "40", "7b", "800040", "c0000000400000"])
def test_a_number_that_is_cut_off_is_the_peers_fault_and_is_named(digits: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"test: the count is (missing|cut off)"):
        Reader(bytes.fromhex(digits), "test").varint("the count")


def test_a_number_over_its_maximum_is_refused() -> None:
    assert Reader(b"\x0a", "test").varint("n", 10) == 10
    with pytest.raises(RemoteProtocolError, match="n is 11, at most 10"):
        Reader(b"\x0b", "test").varint("n", 10)


def test_bytes_are_read_up_to_their_maximum() -> None:
    assert Reader(encode_bytes(b"abc"), "test").data("x", 3) == b"abc"
    with pytest.raises(RemoteProtocolError, match="length of x is 4, at most 3"):
        Reader(encode_bytes(b"abcd"), "test").data("x", 3)


@pytest.mark.parametrize("kept", range(4))
def test_bytes_that_run_over_the_end_are_the_peers_fault(kept: int) -> None:
    with pytest.raises(RemoteProtocolError, match=r"x is (cut off|missing)"):
        Reader(encode_bytes(b"abc")[:kept], "test").data("x", 3)


def test_a_length_that_promises_too_much_takes_no_memory() -> None:
    with pytest.raises(RemoteProtocolError, match="cut off"):
        Reader(encode_varint(MAX_VARINT), "test").data("x", MAX_VARINT)


def test_text_is_utf_8() -> None:
    assert Reader(encode_bytes("é".encode()), "test").text("name", 9) == "é"
    with pytest.raises(RemoteProtocolError, match="name is not UTF-8"):
        Reader(encode_bytes(b"\xff"), "test").text("name", 9)


def test_what_is_read_does_not_refer_to_the_buffer() -> None:
    buffer = bytearray(encode_bytes(b"abc"))
    data = Reader(buffer, "test").data("x", 3)
    buffer[:] = bytes(len(buffer))
    assert data == b"abc"


@given(st.binary(max_size=40), st.lists(st.sampled_from(["varint", "data", "text", "fixed"]), max_size=8))
def test_random_bytes_raise_nothing_but_the_peers_fault(data: bytes, plan: list[str]) -> None:
    reader = Reader(data, "test")
    try:
        for step in plan:
            if step == "varint":
                reader.varint("n")
            elif step == "fixed":
                reader.fixed("x", 3)
            else:
                getattr(reader, step)("x", 20)
            assert 0 <= reader.remaining <= len(data)
    except RemoteProtocolError as error:
        assert str(error).startswith("test: ")
