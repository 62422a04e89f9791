"""What has arrived: packet numbers, to be acknowledged, and the bytes of one substream, to be put in order."""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush
from typing import Final

__all__ = ["Assembly", "ReceivedNumbers"]

MAX_RANGES: Final = 64
"""Ranges that are remembered; beyond it the lowest is taken for settled, and its sender repeats what it held."""


class ReceivedNumbers:
    """The packet numbers that have arrived, as ranges, from the lowest that the sender still wants to hear of."""

    __slots__ = ("_floor", "ranges")

    def __init__(self) -> None:
        self._floor = 1
        self.ranges: list[tuple[int, int]] = []
        """Ascending, ends exclusive, never adjoining."""

    @property
    def largest(self) -> int:
        """The highest number so far, 0 before the first."""
        return self.ranges[-1][1] - 1 if self.ranges else 0

    def settle(self, floor: int) -> None:
        """The sender no longer asks for what lies below ``floor``."""
        if floor <= self._floor:
            return
        self._floor = floor
        ranges = self.ranges
        # The last one stays whatever it holds: an acknowledgement needs something to say.
        while len(ranges) > 1 and ranges[0][1] <= floor:
            del ranges[0]

    def add(self, number: int) -> bool:
        """Note ``number``; False when it came before, or is settled."""
        ranges = self.ranges
        if number < self._floor:
            return False
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
            return True
        at = bisect_right(ranges, (number, 0xFFFF_FFFF_FFFF))
        if at and number < ranges[at - 1][1]:
            return False
        joins_below = at > 0 and ranges[at - 1][1] == number
        joins_above = at < len(ranges) and ranges[at][0] == number + 1
        start = ranges[at - 1][0] if joins_below else number
        stop = ranges[at][1] if joins_above else number + 1
        ranges[at - joins_below : at + joins_above] = [(start, stop)]
        if len(ranges) > MAX_RANGES:
            self._floor = max(self._floor, ranges[0][1])
            del ranges[0]
        return True


class Assembly:
    """Puts the pieces of one direction of a substream in order."""

    __slots__ = ("_early", "_starts", "end", "position")

    def __init__(self) -> None:
        self.position = 0
        """How many bytes are here without a gap."""
        self.end: int | None = None
        """Where the direction ends, once that is known."""
        self._early: list[tuple[int, bytes]] = []  # a heap
        self._starts: dict[int, int] = {}  # offset → size of what lies in the heap

    @property
    def complete(self) -> bool:
        """Everything is here, the end included."""
        return self.position == self.end

    def add(self, offset: int, data: bytes) -> list[bytes]:
        """What ``data`` at ``offset`` brings into order, with what had been waiting behind it."""
        position = self.position
        size = len(data)
        if offset > position:
            if self._starts.get(offset, -1) < size:
                self._starts[offset] = size
                heappush(self._early, (offset, data))
            return []
        if offset + size <= position:
            return []
        ready = [data if offset == position else data[position - offset :]]
        position = offset + size
        early = self._early
        while early and early[0][0] <= position:
            start, piece = heappop(early)
            self._starts.pop(start, None)
            if start + len(piece) > position:
                ready.append(piece[position - start :])
                position = start + len(piece)
        self.position = position
        return ready
