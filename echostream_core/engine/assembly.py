"""Memory for messages that are being assembled from substreams.

A message that fits into one window is covered by that window: it is consumed when it is complete. A larger one first
reserves its declared length from the session's budget; then its bytes count as consumed on arrival, so that credit goes
on. What cannot be reserved waits in order, with one window of it here. So a message larger than a window completes, and
half-assembled messages cannot starve each other of credit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["AssemblyBudget", "Reservation"]


class Reservation:
    """A claim on the budget. ``on_granted`` is called when it is granted later; see ``granted`` for at once."""

    __slots__ = ("_budget", "granted", "held", "on_granted", "size")

    def __init__(self, budget: AssemblyBudget, size: int, on_granted: Callable[[], None]) -> None:
        self._budget = budget
        self.size = size
        self.on_granted = on_granted
        self.granted = False
        self.held = True

    def release(self) -> None:
        """Give the memory back, or leave the queue. Idempotent."""
        if self.held:
            self.held = False
            self._budget._release(self)


class AssemblyBudget:
    """The budget of one session, in bytes."""

    __slots__ = ("_free", "_waiting", "total")

    def __init__(self, total: int) -> None:
        self.total: Final = total
        self._free = total
        self._waiting: dict[Reservation, None] = {}

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return self.total - self._free

    def reserve(self, size: int, on_granted: Callable[[], None]) -> Reservation:
        """Claim ``size`` bytes (at most ``total``): granted at once when there is room and no queue, else in turn."""
        reservation = Reservation(self, size, on_granted)
        if not self._waiting and size <= self._free:
            self._free -= size
            reservation.granted = True
        else:
            self._waiting[reservation] = None
        return reservation

    def _release(self, reservation: Reservation) -> None:
        if reservation.granted:
            self._free += reservation.size
        else:
            del self._waiting[reservation]
        while self._waiting:
            first = next(iter(self._waiting))
            if first.size > self._free:
                break
            del self._waiting[first]
            self._free -= first.size
            first.granted = True
            first.on_granted()
