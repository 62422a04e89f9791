"""Datagrams before they leave: the channels they travel on, the bounded queue they wait in, and what was dropped.

Every transport that carries datagrams keeps them in a :class:`DatagramQueue`, so that all of them drop by the same
rules: what has expired goes first, then what has waited longest. Source: docs/wire.md section 14.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["CHANNEL_BYTES", "FIRST_CHANNEL", "LAST_CHANNEL", "DatagramDrops", "DatagramQueue"]

CHANNEL_BYTES: Final = 2
"""Of the channel's number, with which every datagram of a session begins."""
FIRST_CHANNEL: Final = 256
"""The first channel of applications; those below are reserved for extensions."""
LAST_CHANNEL: Final = 65_535

_NEVER: Final = float("inf")


@dataclass(slots=True)
class DatagramDrops:
    """How many datagrams were dropped, by reason. ``sent`` minus ours, and what the network lost, arrive."""

    full: int = 0
    """Ours: the oldest in a full queue, to make room for a newer one."""
    expired: int = 0
    """Ours: ``expires_after`` was over before there was room to send it."""
    too_large: int = 0
    """Ours: the path became narrower while it waited."""
    refused: int = 0
    """Ours: it waited for the peer's SETUP, which then did not allow emulated datagrams."""
    closed: int = 0
    """Ours: it still waited when the connection ended."""
    crowded: int = 0
    """The peer's: more arrived at once than are kept for one turn of the event loop."""
    early: int = 0
    """The peer's: it came before the peer's SETUP was accepted."""
    malformed: int = 0
    """The peer's: too short to have a channel."""
    reserved: int = 0
    """The peer's: on a channel of an extension that is not here."""
    unheard: int = 0
    """The peer's: nobody listens to its channel."""

    @property
    def total(self) -> int:
        """All reasons together."""
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        """The counters by name, in their order."""
        return asdict(self)


class DatagramQueue:
    """What waits to be sent: at most ``most`` datagrams, each perhaps with a time after which it is worthless.

    ``clock`` gives the time in which expiry is told (the event loop's). What is dropped is counted in ``drops``.
    """

    __slots__ = ("_clock", "_most", "_soonest", "drops", "waiting")

    def __init__(self, most: int, clock: Callable[[], float], drops: DatagramDrops) -> None:
        self.drops = drops
        self.waiting: deque[tuple[bytes, float]] = deque()
        """Datagram and expiry, the oldest first. To be looked at only, as ``if queue.waiting``."""
        self._most = most
        self._clock = clock
        self._soonest = _NEVER  # nothing here expires before it

    def put(self, datagram: bytes, expires_at: float | None) -> bool:
        """Queue it; False when an older one that was still good had to be dropped for it."""
        waiting = self.waiting
        room = True
        if len(waiting) >= self._most:
            self._drop_expired()
            room = len(waiting) < self._most
            if not room:
                waiting.popleft()
                self.drops.full += 1
        if expires_at is None:
            waiting.append((datagram, _NEVER))
        else:
            waiting.append((datagram, expires_at))
            if expires_at < self._soonest:
                self._soonest = expires_at
        return room

    def peek(self) -> bytes | None:
        """The next to be sent, or None; those before it that have expired are dropped."""
        waiting = self.waiting
        while waiting:
            datagram, expires_at = waiting[0]
            if expires_at == _NEVER or expires_at > self._clock():
                return datagram
            waiting.popleft()
            self.drops.expired += 1
        return None

    def pop(self) -> None:
        """The one that ``peek`` gave is sent."""
        self.waiting.popleft()

    def refuse(self) -> None:
        """The peer takes none: drop all."""
        self.drops.refused += len(self.waiting)
        self.waiting.clear()

    def close(self) -> None:
        """The connection has ended: drop all."""
        self.drops.closed += len(self.waiting)
        self.waiting.clear()

    def _drop_expired(self) -> None:
        now = self._clock()
        if self._soonest > now:
            return  # a full queue is not searched for every datagram that comes
        alive = [item for item in self.waiting if item[1] > now]
        self.drops.expired += len(self.waiting) - len(alive)
        self.waiting.clear()
        self.waiting.extend(alive)
        self._soonest = min((expires_at for _, expires_at in alive), default=_NEVER)
