"""What became of the packets that were sent, and how many may be on their way.

Round trips are estimated as in RFC 6298. A packet is lost when one sent three packets later has been acknowledged, or
one sent an eighth of a round trip later (RFC 9002 section 6.1); when no acknowledgement comes at all, two packets probe
the path, ever more slowly. The window is New Reno's (RFC 9002 section 7), and packets leave at its rate, not in bursts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["ACK_DELAY_S", "FIRST_RTT_S", "SLACK_S", "Frame", "Recovery", "SentPacket"]

FIRST_RTT_S: Final = 0.3
"""Taken for the round trip before the first was measured."""
ACK_DELAY_S: Final = 0.005
"""How long an acknowledgement may be kept back, to go with something else."""
PACKET_THRESHOLD: Final = 3
TIME_THRESHOLD: Final = 9 / 8
SHORTEST_S: Final = 0.001
"""No timer is shorter."""
LONGEST_PROBE_S: Final = 3.0
"""Probes do not slow down beyond this: a path that comes back is found within that time."""
INITIAL_WINDOW_PACKETS: Final = 10
MINIMUM_WINDOW_PACKETS: Final = 2
PROBES: Final = 2
BURST_PACKETS: Final = 10
"""What may leave at once after an idle time."""
GAIN: Final = 1.25
"""How much faster than one window per round trip packets leave, so that pacing is not what limits."""
START_GAIN: Final = 2.0
"""The same in slow start, where the window doubles within a round trip."""
SLACK_S: Final = 1e-7
"""Sums of floats: a moment this close has come."""

Frame = tuple[object, ...]
"""What a packet carried that must not be lost; its meaning is the sender's."""


class SentPacket:
    """One packet on its way. ``frames`` are brought back when it is lost."""

    __slots__ = ("at", "frames", "number", "size")

    def __init__(self, number: int, at: float, size: int, frames: Sequence[Frame]) -> None:
        self.number = number
        self.at = at
        self.size = size
        self.frames = frames


class Recovery:
    """The packets of one direction of one connection that ask for an acknowledgement. Time is an argument."""

    def __init__(self, packet_bytes: int) -> None:
        self.sent: dict[int, SentPacket] = {}
        """Number → packet, ascending: neither acknowledged nor lost."""
        self.next_number = 1
        self.in_flight = 0
        """Bytes of ``sent``."""
        self.window = INITIAL_WINDOW_PACKETS * packet_bytes
        """Bytes that may be in flight."""
        self.rtt = 0.0
        """Smoothed round trip in seconds; 0.0 before the first."""
        self.probes = 0
        """Packets that may be sent now whatever the window says."""
        self.lost_packets = 0
        self.waiting_since = 0.0
        """When the first packet went out after everything before it was settled."""
        self._packet_bytes = packet_bytes
        self._threshold = float("inf")  # where slow start ends
        self._avoided = 0  # bytes acknowledged since the window last grew, in congestion avoidance
        self._recovery_from = 0  # packets from here on were sent after the last cut
        self._largest_acked = 0
        self._limited = False  # the window was what held us back
        self._variation = 0.0
        self._latest_rtt = 0.0
        self._timeouts = 0
        self._last_sent = 0.0
        self._loss_at: float | None = None
        self._tokens = float(BURST_PACKETS * packet_bytes)
        self._filled_at = 0.0

    @property
    def settled(self) -> int:
        """The lowest packet number whose fate is still open."""
        return next(iter(self.sent), self.next_number)

    # Sending

    def may_send(self, now: float) -> bool:
        """The window has room and it is time for a packet, or one may probe the path."""
        if self.probes:
            return True
        if self.in_flight + self._packet_bytes > self.window:
            self._limited = True
            return False
        return self._accrued(now) > 0

    def next_send_at(self, now: float) -> float | None:
        """When pacing lets the next packet go; None: something else holds it back."""
        if self.in_flight + self._packet_bytes > self.window:
            return None
        missing = self._packet_bytes - self._accrued(now)
        return now + max(SHORTEST_S, missing / self._rate()) if missing > 0 else now + SHORTEST_S

    def note_sent(self, size: int, frames: Sequence[Frame], now: float) -> None:
        """Count the packet ``next_number``, which asks for an acknowledgement."""
        number = self.next_number
        self.next_number = number + 1
        if not self.sent:
            self.waiting_since = now
        self.sent[number] = SentPacket(number, now, size, frames)
        self.in_flight += size
        self._last_sent = now
        self._tokens -= size
        if self.probes:
            self.probes -= 1

    def _rate(self) -> float:
        gain = GAIN if self.window >= self._threshold else START_GAIN
        return gain * self.window / (self.rtt or FIRST_RTT_S)

    def _accrued(self, now: float) -> float:
        if now > self._filled_at:
            most = BURST_PACKETS * self._packet_bytes
            self._tokens = min(self._tokens + (now - self._filled_at) * self._rate(), most)
            self._filled_at = now
        return self._tokens

    # Acknowledgements

    def acknowledged(
        self, ranges: Sequence[tuple[int, int]], delay_s: float, now: float
    ) -> tuple[list[SentPacket], list[SentPacket]]:
        """An ACK came with ``ranges`` (the highest first): which packets have arrived by it, and which are lost."""
        sent = self.sent
        largest = ranges[0][1] - 1
        arrived = []
        at = len(ranges) - 1
        start, stop = ranges[at]
        for number, packet in sent.items():
            if number > largest:
                break
            while number >= stop:
                at -= 1
                start, stop = ranges[at]
            if number >= start:
                arrived.append(packet)
        if not arrived:
            return [], []
        if arrived[-1].number == largest:
            self._measure(now - arrived[-1].at, delay_s)
        self._timeouts = 0
        self.probes = 0
        for packet in arrived:
            del sent[packet.number]
            self.in_flight -= packet.size
            self._grow(packet)
        self._limited = False
        self._largest_acked = max(self._largest_acked, largest)
        return arrived, self._find_lost(now)

    def _measure(self, sample: float, delay_s: float) -> None:
        self._latest_rtt = sample = max(sample - min(delay_s, ACK_DELAY_S), SHORTEST_S)
        if self.rtt:
            self._variation += (abs(self.rtt - sample) - self._variation) / 4
            self.rtt += (sample - self.rtt) / 8
        else:
            self.rtt = sample
            self._variation = sample / 2

    def _grow(self, packet: SentPacket) -> None:
        if packet.number < self._recovery_from or not self._limited:
            return
        if self.window < self._threshold:
            self.window += packet.size
            return
        self._avoided += packet.size
        if self._avoided >= self.window:
            self._avoided -= self.window
            self.window += self._packet_bytes

    def _find_lost(self, now: float) -> list[SentPacket]:
        sent, largest = self.sent, self._largest_acked
        patience = max(TIME_THRESHOLD * max(self.rtt, self._latest_rtt), SHORTEST_S)
        lost = []
        self._loss_at = None
        for number, packet in sent.items():
            if number > largest:
                break
            if number <= largest - PACKET_THRESHOLD or packet.at + patience <= now + SLACK_S:
                lost.append(packet)
            elif self._loss_at is None:
                self._loss_at = packet.at + patience
        if lost:
            self._drop(lost)
        return lost

    def _drop(self, lost: Iterable[SentPacket]) -> None:
        cut = False
        for packet in lost:
            del self.sent[packet.number]
            self.in_flight -= packet.size
            self.lost_packets += 1
            cut = cut or packet.number >= self._recovery_from
        if cut:
            self._recovery_from = self.next_number
            self.window = max(self.window // 2, MINIMUM_WINDOW_PACKETS * self._packet_bytes)
            self._threshold = self.window
            self._avoided = 0

    # Time

    @property
    def deadline(self) -> float | None:
        """When ``timed_out`` is to be called; None while nothing is on its way."""
        if self._loss_at is not None:
            return self._loss_at
        if not self.sent:
            return None
        rtt = self.rtt or FIRST_RTT_S
        variation = max(4 * (self._variation if self.rtt else rtt / 2), SHORTEST_S)
        wait = (rtt + variation + ACK_DELAY_S) * float(1 << min(self._timeouts, 16))
        return self._last_sent + min(wait, LONGEST_PROBE_S)

    def timed_out(self, now: float) -> list[SentPacket]:
        """The deadline has passed: the packets whose frames should be sent again.

        Those that are lost by now; or, when nothing has been heard at all, the oldest ones, which stay in flight: two
        packets may then be sent whatever the window says.
        """
        if self._loss_at is not None:
            return self._find_lost(now)
        self._timeouts += 1
        self.probes = PROBES
        return [packet for packet in self.sent.values() if packet.frames][:PROBES]
