"""Credit, and cutting buffers to it: what every carrier of substreams needs (the mux, the memory transport).

A receiver grants a window and renews it when the application has *consumed* bytes, never on receipt: a
reader that does not read holds at most one window. The window starts small and doubles when it was what
held the sender back; what windows gain beyond their first size comes out of one budget per session and
returns to it.

There is no clock here, so "held back" is read from the bytes: a sender stops exactly where its credit ends.
"""

from __future__ import annotations

from echostream_core.errors import LocalProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES

__all__ = ["ReceiveWindow", "WindowBudget", "cut_buffers"]


class WindowBudget:
    """What the windows of one session may still grow, in bytes, beyond their first size."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size


class ReceiveWindow:
    """The receiver's side of one direction's credit. All positions count from the first byte."""

    __slots__ = ("_budget", "_edge", "_max_size", "_pinched", "consumed", "limit", "received", "size")

    def __init__(self, budget: WindowBudget, max_size: int) -> None:
        self.size = INITIAL_WINDOW_BYTES
        self.limit = INITIAL_WINDOW_BYTES
        """What the sender may have sent in all, by what we last told it."""
        self.received = 0
        self.consumed = 0
        self._budget = budget
        self._max_size = max_size
        self._edge = INITIAL_WINDOW_BYTES  # the limit before this one: where a sender waits for news
        self._pinched = False

    def receive(self, size: int) -> None:
        """Count ``size`` bytes that arrived together; the caller has checked them against ``limit``."""
        received = self.received + size
        self.received = received
        if received in (self._edge, self.limit):
            self._pinched = True

    def consume(self, size: int) -> bool:
        """Count ``size`` bytes as used; True when ``limit`` has risen and the sender should be told.

        It rises by half a window or more, so that credit costs little. Raises LocalProtocolError when more
        is consumed than arrived.
        """
        consumed = self.consumed + size
        if size < 0 or consumed > self.received:
            raise LocalProtocolError(
                f"consume({size}): {self.received - self.consumed} bytes are delivered and not yet consumed"
            )
        self.consumed = consumed
        window = self.size
        if consumed + window - self.limit < window >> 1:
            return False
        if self._pinched or self.limit - self.received < window >> 3:
            growth = min(window, self._max_size - window, self._budget.left)
            self._budget.left -= growth
            self.size = window = window + growth
            self._pinched = False
        self._edge = self.limit
        self.limit = consumed + window
        return True

    def close(self) -> None:
        """Give the growth back to the session's budget; the direction is finished."""
        self._budget.left += self.size - INITIAL_WINDOW_BYTES
        self.size = INITIAL_WINDOW_BYTES


def cut_buffers(queue: list[Buffer], size: int) -> list[Buffer]:
    """Take exactly ``size`` bytes off the front of ``queue``, which holds more; copies nothing."""
    left = size
    count = 0
    while left >= (length := len(queue[count])):
        left -= length
        count += 1
    taken = queue[:count]
    del queue[:count]
    if left:
        view = memoryview(queue[0])
        taken.append(view[:left])
        queue[0] = view[left:]
    return taken
