"""What stands in for small parts of aioquic: same attributes, less work, or a constant put right."""

from __future__ import annotations

from typing import Any, Final

from aioquic.quic.congestion.base import QuicRttMonitor
from aioquic.quic.packet import QuicPacketType
from aioquic.tls import Epoch

from echostream_quic.substreams import Handlers

__all__ = ["PacketContext", "QuietLog", "RttMonitor", "SentPacket"]

LEAST_RTT_S: Final = 0.016
"""Below it, a longer round trip is no sign of a full pipe: with it the rise that counts is at least the 4 ms
of RFC 9406 section 4.2 (MIN_RTT_THRESH)."""


class SentPacket:
    """What loss recovery keeps of a packet; aioquic's ``QuicSentPacket`` costs twice as much to make."""

    __slots__ = (
        "delivery_handlers",
        "epoch",
        "in_flight",
        "is_ack_eliciting",
        "is_crypto_packet",
        "packet_number",
        "packet_type",
        "sent_bytes",
        "sent_time",
    )

    def __init__(
        self, packet_number: int, sent_time: float, sent_bytes: int, eliciting: bool, handlers: Handlers
    ) -> None:
        self.packet_number = packet_number
        self.sent_time = sent_time
        self.sent_bytes = sent_bytes
        self.is_ack_eliciting = eliciting
        self.in_flight = eliciting
        self.delivery_handlers = handlers
        self.epoch = Epoch.ONE_RTT
        self.packet_type = QuicPacketType.ONE_RTT
        self.is_crypto_packet = False


class PacketContext:
    """What aioquic's frame handlers want to know about a packet; one for a whole batch."""

    __slots__ = ("epoch", "host_cid", "network_path", "quic_logger_frames", "time", "version")

    def __init__(self, host_cid: bytes, network_path: Any, now: float) -> None:
        self.epoch = Epoch.ONE_RTT
        self.host_cid = host_cid
        self.network_path = network_path
        self.quic_logger_frames = None
        self.time = now
        self.version = None


class RttMonitor(QuicRttMonitor):
    """HyStart with the floor that RFC 9406 gives it.

    aioquic leaves slow start when the round trip has risen by a quarter. On loopback, from 0.2 to 0.25 ms,
    that is noise, and the window then stays at a few packets.
    """

    def is_rtt_increasing(self, *, now: float, rtt: float) -> bool:
        """Whether the path's queue is filling."""
        return super().is_rtt_increasing(now=now, rtt=max(rtt, LEAST_RTT_S))


class QuietLog:
    """aioquic's log. Its own would warn a second time of what we raise or log ourselves, and costs time per packet."""

    __slots__ = ()

    def debug(self, text: object, *values: object) -> None:
        """Leave it out."""

    info = warning = error = debug
