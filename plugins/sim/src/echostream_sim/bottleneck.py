"""The slow place of a path: a bounded queue that drops at its tail, emptied at a rate or at the moments of a trace.

Sans-I/O: it is told the time. A caller offers packets, asks ``next_s`` when the next one will have left, and takes with
``advance`` those that have. A packet counts towards the queue until its last bit is out.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from echostream_sim.mahimahi import OPPORTUNITY_BYTES, MahimahiTrace

__all__ = ["Bottleneck", "ConstantRate", "TraceRate"]

P = TypeVar("P")


class Bottleneck(abc.ABC, Generic[P]):
    """The queue; how fast it is emptied is a subclass's matter."""

    def __init__(self, max_bytes: int | None, max_packets: int | None) -> None:
        self.max_bytes = max_bytes
        """None: no limit."""
        self.max_packets = max_packets
        self.backlog_bytes = 0
        """Waiting or being sent."""
        self.next_s: float | None = None
        """When the next packet will have left; for a trace, the next opportunity. None: the queue is empty."""
        self._queue: deque[tuple[P, int]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, packet: P, size_bytes: int, now: float) -> bool:
        """Take a packet in, behind all others; False when it does not fit. Call ``advance(now)`` before."""
        if self.max_bytes is not None and self.backlog_bytes + size_bytes > self.max_bytes:
            return False
        if self.max_packets is not None and len(self._queue) >= self.max_packets:
            return False
        self._queue.append((packet, size_bytes))
        self.backlog_bytes += size_bytes
        if len(self._queue) == 1:
            self._begin(now)
        return True

    def take_all(self) -> list[tuple[P, int]]:
        """Empty the queue into another one's hands."""
        taken = list(self._queue)
        self._queue.clear()
        self.backlog_bytes = 0
        self.next_s = None
        return taken

    def _pop(self) -> P:
        packet, size_bytes = self._queue.popleft()
        self.backlog_bytes -= size_bytes
        return packet

    @abc.abstractmethod
    def _begin(self, now: float) -> None:
        """The queue was empty and has its first packet."""

    @abc.abstractmethod
    def advance(self, now: float) -> Iterator[tuple[float, P]]:
        """Take the packets that have left by ``now``, each with its time."""


class ConstantRate(Bottleneck[P]):
    """``rate_bps`` bits per second."""

    def __init__(self, rate_bps: float, *, max_bytes: int | None = None, max_packets: int | None = None) -> None:
        super().__init__(max_bytes, max_packets)
        self._rate_bps = rate_bps
        # Times are counted from the beginning of a busy period, so that errors of rounding do not add up.
        self._busy_s = 0.0
        self._bits = 0.0

    def set_rate(self, rate_bps: float, now: float) -> None:
        """Go on at another rate; of the packet that is being sent only the rest is sent at the new one."""
        if self.next_s is not None:
            self._bits -= (now - self._busy_s) * self._rate_bps
            self._busy_s = now
            self.next_s = now + self._bits / rate_bps
        self._rate_bps = rate_bps

    def _begin(self, now: float) -> None:
        self._busy_s = now
        self._bits = self._queue[0][1] * 8
        self.next_s = now + self._bits / self._rate_bps

    def advance(self, now: float) -> Iterator[tuple[float, P]]:
        """See the base class."""
        while self.next_s is not None and self.next_s <= now:
            left_s = self.next_s
            packet = self._pop()
            if self._queue:
                self._bits += self._queue[0][1] * 8
                self.next_s = self._busy_s + self._bits / self._rate_bps
            else:
                self.next_s = None
            yield left_s, packet


class TraceRate(Bottleneck[P]):
    """1,500 bytes at each opportunity of a trace, which began at ``start_s``."""

    def __init__(
        self, trace: MahimahiTrace, start_s: float, *, max_bytes: int | None = None, max_packets: int | None = None
    ) -> None:
        super().__init__(max_bytes, max_packets)
        self.trace = trace
        self._start_s = start_s
        self._number = 0
        self._left_bytes = 0  # of the packet at the head

    def _begin(self, now: float) -> None:
        self._number = self.trace.first_after(now - self._start_s)
        self.next_s = self._start_s + self.trace.time_s(self._number)
        while self.next_s <= now:  # a sum may round to this very moment
            self._number += 1
            self.next_s = self._start_s + self.trace.time_s(self._number)
        self._left_bytes = self._queue[0][1]

    def advance(self, now: float) -> Iterator[tuple[float, P]]:
        """See the base class."""
        while self.next_s is not None and self.next_s <= now:
            at_s = self.next_s
            self._number += 1
            self.next_s = self._start_s + self.trace.time_s(self._number)
            credit = OPPORTUNITY_BYTES
            while credit >= self._left_bytes:
                credit -= self._left_bytes
                packet = self._pop()
                if self._queue:
                    self._left_bytes = self._queue[0][1]
                    yield at_s, packet
                else:
                    self.next_s = None  # the rest of the opportunity is lost
                    yield at_s, packet
                    break
            else:
                self._left_bytes -= credit
