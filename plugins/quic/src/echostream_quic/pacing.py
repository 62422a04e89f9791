"""How fast a connection may send: a token bucket in bytes, filled at the congestion controller's rate.

aioquic's own bucket holds two to sixteen packets and asks for timers of a fraction of a millisecond, which
no event loop has: uvloop counts in whole milliseconds. The sender then sends a handful of packets per
wake-up, or spins (13 MB/s at 100 % of a core). Here the bucket holds a few *quanta* of a millisecond each,
and a sender that has emptied it sleeps for a whole quantum and then hands over everything that has accrued as
one batch. The average rate is the controller's, to the byte; a burst is never more than ``BURST_QUANTA``
quanta, or the ten packets that RFC 9002 section 7.7 allows at once.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BURST_PACKETS", "BURST_QUANTA", "QUANTUM_S", "Pacer"]

QUANTUM_S: Final = 0.001
"""The shortest sleep: what uvloop's timers can do."""

BURST_QUANTA: Final = 4
"""Depth of the bucket. uvloop's timer may come a millisecond late, and a turn of a busy loop takes another."""

BURST_PACKETS: Final = 10
"""A burst that is always allowed: the initial congestion window of RFC 9002."""

GAIN: Final = 1.25
"""RFC 9002 section 7.7 advises a rate a little above window / round trip, so that the window stays the limit."""

SHORTEST_RTT_S: Final = 0.0001


class Pacer:
    """The bucket. ``now`` is always an argument; the unit is bytes."""

    __slots__ = ("_burst_bytes", "_depth", "_filled_at", "_rate", "_tokens")

    def __init__(self, *, max_datagram_size: int) -> None:
        self._burst_bytes = BURST_PACKETS * max_datagram_size
        self._depth = float(self._burst_bytes)
        self._tokens = self._depth
        self._filled_at = 0.0
        self._rate = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second; 0 before the first round trip was measured: not paced."""
        return self._rate

    def allowance(self, now: float) -> float:
        """How many bytes may go out now; a packet may be begun while it is positive."""
        if not self._rate:
            return self._depth
        if now > self._filled_at:
            self._tokens = min(self._tokens + (now - self._filled_at) * self._rate, self._depth)
            self._filled_at = now
        return self._tokens

    def spend(self, size: int) -> None:
        """Count ``size`` bytes as sent; the bucket may go below nothing by the last packet of a batch."""
        if self._rate:
            self._tokens -= size

    def next_send_time(self, now: float) -> float | None:
        """None: send now. Otherwise when a quantum has accrued."""
        tokens = self.allowance(now)
        if tokens > 0:
            return None
        return now + max(QUANTUM_S, -tokens / self._rate)

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Follow the congestion controller."""
        self._rate = GAIN * congestion_window / max(smoothed_rtt, SHORTEST_RTT_S)
        self._depth = max(self._burst_bytes, self._rate * QUANTUM_S * BURST_QUANTA)
        self._tokens = min(self._tokens, self._depth)

    def resize(self, max_datagram_size: int) -> None:
        """Packets have another size from now on."""
        self._burst_bytes = BURST_PACKETS * max_datagram_size

    def update_after_send(self, now: float) -> None:
        """Count one packet that aioquic's own writer built: during the handshake, and for rare frames."""
        self.allowance(now)
        self.spend(self._burst_bytes // BURST_PACKETS)
