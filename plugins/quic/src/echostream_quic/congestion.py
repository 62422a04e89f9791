"""aioquic's congestion controllers, which grow only while their window is used (RFC 9002 section 7.8).

aioquic's grow with every acknowledgement. Where something else holds the sender back (the peer's credit, or an
application with little to say) the window goes to hundreds of megabytes, the pacer, whose rate follows it, no longer
paces, and the first large upload goes out as one burst.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

__all__ = ["CUBIC", "RENO", "Cubic", "Reno", "Restrained"]

RENO: Final = "echostream-reno"
CUBIC: Final = "echostream-cubic"


class Restrained(QuicCongestionControl):
    """The rule, to be put before a controller of aioquic's."""

    peak = 0
    """The most that was in flight since the last acknowledgement, in bytes."""

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """Count ``packet`` as in flight."""
        super().on_packet_sent(packet=packet)  # type: ignore[safe-super]  # a controller follows
        if self.bytes_in_flight > self.peak:
            self.peak = self.bytes_in_flight

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Grow, if at least half of the window was in use: then the window is what holds us back."""
        if 2 * self.peak < self.congestion_window:
            self.on_packets_expired(packets=(packet,))
        else:
            super().on_packet_acked(now=now, packet=packet)  # type: ignore[safe-super]  # a controller follows

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """An acknowledgement was processed."""
        super().on_rtt_measurement(now=now, rtt=rtt)  # type: ignore[safe-super]  # a controller follows
        self.peak = self.bytes_in_flight


class Reno(Restrained, RenoCongestionControl):
    """New Reno."""


class Cubic(Restrained, CubicCongestionControl):
    """CUBIC."""

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """No longer in flight; the time of the last one keeps CUBIC from beginning anew as after an idle time."""
        packets = tuple(packets)
        super().on_packets_expired(packets=packets)
        for packet in packets:
            self.last_ack = max(self.last_ack, packet.sent_time or 0.0)


register_congestion_control(RENO, Reno)
register_congestion_control(CUBIC, Cubic)
