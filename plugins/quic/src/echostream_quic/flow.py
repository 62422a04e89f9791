"""How much the peer may send: credit by what the application has consumed, never by what has arrived.

Each substream has a window: the peer may be at most that far ahead of its reader. Windows begin small and
double while the reader keeps up and the window is what holds the peer back, within one sum for the whole
connection. The limit over the whole connection is only a guard: it is always larger than all windows
together, so that no number of unread substreams can stop the control substream.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CONTROL_WINDOW_BYTES", "RESERVE_BYTES", "ReceiveWindow", "SessionWindow"]

CONTROL_WINDOW_BYTES: Final = 1_048_576
"""Window of the control substream. Fixed: what travels there is consumed on arrival and bounded by counts."""

RESERVE_BYTES: Final = 1_048_576
"""What MAX_DATA stays above all windows together: for substreams that are just being closed."""

GROW_WITHIN_RTTS: Final = 2.0
"""A window whose half is used up faster than this is what holds the peer back."""

SHORTEST_RTT_S: Final = 0.002
"""Below it, acknowledgements and timers of a millisecond decide, not the path."""

PATH_RTTS: Final = 2.0
"""A window grows up to what is consumed in so many of the path's shortest round trips, and ``SLACK_BYTES``.

Where the window itself is the limit, half of it is consumed per round trip, since credit is told by halves; so it
goes on growing.
"""

SLACK_BYTES: Final = 131_072
"""For the turns of the event loop and the timers of a millisecond at both ends.

More only stands in queues: on loopback the window grew to its largest size, and a small call waited behind 1 MiB of
bulk, 11 ms instead of 1.
"""

_KEPT: Final = 0.75
"""Of what is known of the rate, at each grant: one that comes in a burst says little."""


class SessionWindow:
    """The sum over one connection: what was consumed, and how far all windows may still grow."""

    __slots__ = ("_base", "consumed", "growth_left")

    def __init__(self, *, max_streams: int, window_bytes: int, growth_bytes: int) -> None:
        self._base = max_streams * window_bytes + growth_bytes + CONTROL_WINDOW_BYTES + RESERVE_BYTES
        self.growth_left = growth_bytes
        self.consumed = 0

    @property
    def limit(self) -> int:
        """MAX_DATA: bytes consumed, and room for every window at once."""
        return self.consumed + self._base

    def due(self, announced: int) -> bool:
        """Whether the peer should be told anew, having been told ``announced``."""
        return self.limit - announced >= self._base // 4


class ReceiveWindow:
    """The receiving direction of one substream, in bytes."""

    __slots__ = (
        "_bytes",
        "_granted_at",
        "_most",
        "_seconds",
        "_session",
        "closed",
        "consumed",
        "fixed",
        "granted",
        "received",
        "size",
    )

    def __init__(self, session: SessionWindow, *, size: int, most: int, now: float) -> None:
        self._session = session
        self._most = most
        self.fixed = False
        """The control substream's: consumed on arrival, and never grown."""
        self._granted_at = now
        self._bytes = 0.0
        self._seconds = 0.0
        self.size = size
        self.granted = size
        """MAX_STREAM_DATA: the offset up to which the peer may send."""
        self.received = 0
        self.consumed = 0
        self.closed = False

    @property
    def unconsumed(self) -> int:
        """Bytes that were delivered and not consumed."""
        return self.received - self.consumed

    def fix(self, size: int) -> None:
        """Give this substream a window of ``size``, for good."""
        self.fixed = True
        if size > self.size:
            self.size = size
            self.granted = max(self.granted, self.consumed + size)

    def consume(self, size: int, now: float, rtt: float, least_rtt: float) -> bool:
        """Count ``size`` bytes as used. True: there is enough new credit to be worth telling the peer."""
        if self.closed:
            return False
        size = min(size, self.received - self.consumed)
        self.consumed += size
        self._session.consumed += size
        used = self.consumed + self.size - self.granted
        if used < self.size // 2:
            return False
        if not self.fixed:
            self._bytes = _KEPT * self._bytes + used
            self._seconds = _KEPT * self._seconds + now - self._granted_at
            useful = PATH_RTTS * least_rtt * self._bytes + SLACK_BYTES * self._seconds
            if (
                now - self._granted_at < GROW_WITHIN_RTTS * max(rtt, SHORTEST_RTT_S)
                and self.size * self._seconds < useful
            ):
                self._grow()
        self._granted_at = now
        self.granted = self.consumed + self.size
        return True

    def close(self, final_size: int) -> None:
        """Nothing more will be delivered: all of it counts as consumed, and what had grown is given back."""
        if self.closed:
            return
        self.closed = True
        self._session.consumed += final_size - self.consumed
        self.consumed = final_size

    def _grow(self) -> None:
        more = min(self.size, self._most - self.size, self._session.growth_left)
        if more > 0:
            self.size += more
            self._session.growth_left -= more

    def release(self, first_size: int) -> None:
        """The substream is gone: what its window had grown is free for others."""
        if not self.fixed:
            self._session.growth_left += self.size - first_size
            self.size = first_size
