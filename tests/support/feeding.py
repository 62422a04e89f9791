"""The three ways in which bytes reach a reader: whole, byte by byte, and with bytes of the next thing to spare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

__all__ = ["FEEDINGS", "Feed", "cuts", "feed_byte_by_byte", "feed_whole", "feed_with_spare"]

Receive = Callable[[memoryview], None]
Feed = Callable[[Receive, bytes, bytes], None]
"""receive, the data, and what follows it: a reader must make the same of it in all three ways."""


def feed_whole(receive: Receive, data: bytes, following: bytes = b"") -> None:
    """All of the data in one piece, then what follows."""
    for piece in (data, following):
        if piece:
            receive(_borrowed(piece))


def feed_byte_by_byte(receive: Receive, data: bytes, following: bytes = b"") -> None:
    """One byte at a time."""
    for byte in data + following:
        receive(_borrowed(bytes((byte,))))


def feed_with_spare(receive: Receive, data: bytes, following: bytes = b"") -> None:
    """The data and the first part of what follows in one piece; then the rest of that."""
    half = len(following) // 2
    receive(_borrowed(data + following[:half]))
    if following[half:]:
        receive(_borrowed(following[half:]))


def cuts(data: bytes, sizes: Iterable[int]) -> Iterator[memoryview]:
    """``data`` in pieces of these sizes, over and over; the last one is what is left."""
    position = 0
    plan: Sequence[int] = [max(1, size) for size in sizes] or [len(data) or 1]
    turn = 0
    while position < len(data):
        size = plan[turn % len(plan)]
        yield _borrowed(data[position : position + size])
        position += size
        turn += 1


FEEDINGS: Final[tuple[Feed, ...]] = (feed_whole, feed_byte_by_byte, feed_with_spare)


def _borrowed(piece: bytes) -> memoryview:
    """A view into a larger buffer, as a transport hands it over: a reader that keeps it will see it change."""
    return memoryview(bytearray(b"\xee" + piece + b"\xee"))[1:-1]
