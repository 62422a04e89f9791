"""Where two sequences of bytes differ, in a few words."""

from __future__ import annotations

import pytest

from echostream_testkit.transport.comparing import difference, difference_in_lists


@pytest.mark.parametrize("place", [0, 1, 499_999, 500_000, 999_999])
def test_the_first_wrong_byte_is_named(place: int) -> None:
    sent = bytes(1_000_000)
    came = bytearray(sent)
    came[place] = came[-1] = 1
    assert difference(came, sent).endswith(f"byte {place} is the first wrong one")


def test_what_is_missing_or_too_much_is_counted() -> None:
    assert difference(b"abc", b"abcde") == "3 bytes came, 5 were sent; the first 3 are right"
    assert difference(b"abcde", b"abc") == "5 bytes came, 3 were sent; the first 3 are right"
    assert difference(b"", b"a") == "0 bytes came, 1 were sent; the first 0 are right"


def test_equal_ones_do_not_differ() -> None:
    assert difference(bytearray(b"same"), b"same") == ""
    assert difference_in_lists([b"a", b"b"], [b"a", b"b"]) == ""


def test_lists_name_the_message() -> None:
    assert difference_in_lists([b"a", b"x"], [b"a", b"b"]).startswith("message 1: of 1 bytes")
    assert difference_in_lists([b"a"], [b"a", b"b"]) == "1 messages came, 2 were sent"
