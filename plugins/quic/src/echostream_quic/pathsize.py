"""How large packets may be on this path: tried out, never assumed (RFC 8899).

A connection begins with the 1,200 bytes that every path for QUIC carries. Once the handshake is confirmed,
one packet of the largest size is sent that holds nothing but padding; if it is acknowledged, packets have
that size from then on. If a few of them are lost, the next smaller size is tried. A path that later swallows
large packets (a route has changed) shows as timeouts one after the other: then everything begins again, more
slowly.
"""

from __future__ import annotations

from typing import Final

from echostream_quic.options import MIN_DATAGRAM_BYTES

__all__ = ["BLACK_HOLE_TIMEOUTS", "PathSize"]

STEPS: Final = (8_192, 4_096, 1_452, 1_400, 1_350, 1_280)
"""Tried below the largest: jumbo frames, Ethernet under IPv6, common tunnels, the least that IPv6 carries."""

PROBES_PER_SIZE: Final = 3
"""Lost in a row before a size is given up; a congested path loses one now and then."""

BLACK_HOLE_TIMEOUTS: Final = 3
"""Probe timeouts in a row after which large packets are the suspects."""

AGAIN_AFTER_S: Final = 600.0
"""After a black hole (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)."""


class PathSize:
    """What to try next. The engine sends the probes and says what became of them."""

    __slots__ = ("_lost", "_not_before", "_sizes", "_steps", "on_way", "size")

    def __init__(self, most: int) -> None:
        self._steps = tuple(
            step for step in (most, *(step for step in STEPS if step < most)) if step > MIN_DATAGRAM_BYTES
        )
        self._sizes = list(self._steps)
        self._lost = 0
        self._not_before = 0.0
        self.on_way = False
        """A probe has been sent and nothing was heard of it yet."""
        self.size = MIN_DATAGRAM_BYTES
        """What packets may have now."""

    def wanted(self, now: float) -> int:
        """The size of a probe to be sent now; 0: none."""
        if self.on_way or not self._sizes or now < self._not_before:
            return 0
        return self._sizes[0]

    def carried(self, size: int) -> None:
        """A probe of ``size`` has arrived: packets may have it, and nothing smaller is left to be tried."""
        self.on_way = False
        self._lost = 0
        self._sizes.clear()
        self.size = max(self.size, size)

    def lost(self, size: int) -> None:
        """A probe of ``size`` has not arrived."""
        self.on_way = False
        self._lost += 1
        if self._lost >= PROBES_PER_SIZE and self._sizes and self._sizes[0] == size:
            del self._sizes[0]
            self._lost = 0

    def begin_again(self, now: float, *, suspect: bool) -> None:
        """The path is another one, or (``suspect``) seems to swallow large packets."""
        self._sizes = list(self._steps)
        self._lost = 0
        self._not_before = now + AGAIN_AFTER_S if suspect else 0.0
        self.on_way = False
        self.size = MIN_DATAGRAM_BYTES
