"""One direction of a link: what it does to packets, from the sender's hands to the receiver's.

A packet passes these places in this order, and at each may be lost, with a reason that is recorded:

1. a **partition** in force when it is sent;
2. the **MTU**: larger packets vanish, as on a path whose routers send no ICMP;
3. the **loss** model; then ``duplicate`` may make a copy, which goes on as a packet of its own;
4. the **queue** in front of the bottleneck, which drops at its tail, and the bottleneck's **rate**;
5. the **delay** and its jitter. A direction is FIFO unless ``fifo=False``: a packet that would overtake the one before
   arrives with it, so jitter reorders nothing. ``reorder`` is the share of packets that are held back for another
   ``reorder_delay_s``; those behind overtake them;
6. a **partition** in force when it would arrive. So nothing arrives during a partition; what was under way when it
   began and would arrive after it was healed does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final, TypedDict, Unpack

from echostream_core.errors import ConfigError
from echostream_sim.bottleneck import Bottleneck, ConstantRate, TraceRate
from echostream_sim.delay import DelayModel, DelayProcess, Normal, check_duration
from echostream_sim.loss import LossModel, LossProcess, Random, check_probability
from echostream_sim.mahimahi import MahimahiTrace
from echostream_sim.recorder import Fate, LossReason, Recorder

__all__ = ["LOOPBACK", "Direction", "Packet", "Path", "PathSettings"]


class PathSettings(TypedDict, total=False):
    """The settings of a :class:`Path`, as keyword arguments."""

    delay_s: float
    jitter: DelayModel | float
    loss: LossModel | float
    rate_bps: float | None
    trace: MahimahiTrace | None
    queue_bytes: int | None
    queue_packets: int | None
    reorder: float
    reorder_delay_s: float
    duplicate: float
    fifo: bool
    mtu_bytes: int
    overhead_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What one direction of a link is like; see the module's docstring for the order. ConfigError names a bad field."""

    delay_s: float = 0.0
    """Constant part of the one-way delay."""
    jitter: DelayModel | float = 0.0
    """What varies, added to ``delay_s``; a number is the standard deviation of :class:`Normal`, in seconds. The sum is
    never less than 0."""
    loss: LossModel | float = 0.0
    """A number is the probability of :class:`Random`."""
    rate_bps: float | None = None
    """Bits per second, headers included; None: no limit."""
    trace: MahimahiTrace | None = None
    """A rate that varies, instead of ``rate_bps``. It begins when the link is made."""
    queue_bytes: int | None = 262_144
    """What may wait at the bottleneck, the packet that is being sent and all headers included; None: any amount."""
    queue_packets: int | None = None
    """The same, in packets."""
    reorder: float = 0.0
    """Probability that a packet is held back."""
    reorder_delay_s: float = 0.010
    """For how long."""
    duplicate: float = 0.0
    """Probability that a packet is doubled."""
    fifo: bool = True
    """False: each packet has its own delay, so jitter reorders."""
    mtu_bytes: int = 1_500
    """The largest packet that comes through, headers included."""
    overhead_bytes: int = 28
    """Headers, which count towards rate, queue and MTU: IPv4's 20 and UDP's 8."""

    def __post_init__(self) -> None:
        check_duration(self.delay_s, "delay_s")
        check_duration(self.reorder_delay_s, "reorder_delay_s")
        check_probability(self.reorder, "reorder")
        check_probability(self.duplicate, "duplicate")
        if isinstance(self.jitter, float | int):
            check_duration(self.jitter, "jitter")
        if isinstance(self.loss, float | int):
            check_probability(self.loss, "loss")
        if self.rate_bps is not None and not (isfinite(self.rate_bps) and self.rate_bps > 0.0):
            raise ConfigError(f"rate_bps must be more than 0 bit/s, not {self.rate_bps!r}", key="rate_bps")
        if self.rate_bps is not None and self.trace is not None:
            raise ConfigError("a path has a rate_bps or a trace, not both", key="trace")
        if self.overhead_bytes < 0:
            raise ConfigError(f"overhead_bytes must be 0 or more, not {self.overhead_bytes}", key="overhead_bytes")
        if self.mtu_bytes <= self.overhead_bytes:
            raise ConfigError(
                f"mtu_bytes = {self.mtu_bytes} leaves no room behind {self.overhead_bytes} bytes of headers",
                key="mtu_bytes",
            )
        if self.queue_bytes is not None and self.queue_bytes < self.mtu_bytes and self.has_bottleneck:
            raise ConfigError(
                f"queue_bytes = {self.queue_bytes} does not hold one packet of mtu_bytes = {self.mtu_bytes}: none of "
                "that size could ever be sent",
                key="queue_bytes",
            )
        if self.queue_packets is not None and self.queue_packets < 1:
            raise ConfigError(f"queue_packets must be 1 or more, not {self.queue_packets}", key="queue_packets")

    @property
    def has_bottleneck(self) -> bool:
        """Whether the rate is limited."""
        return self.rate_bps is not None or self.trace is not None

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload that comes through."""
        return self.mtu_bytes - self.overhead_bytes

    def changed(self, **settings: Unpack[PathSettings]) -> Path:
        """A path that differs in these settings. A new ``rate_bps`` replaces a trace, and a new trace a rate."""
        if settings.get("rate_bps") is not None:
            settings.setdefault("trace", None)
        if settings.get("trace") is not None:
            settings.setdefault("rate_bps", None)
        return replace(self, **settings)


LOOPBACK: Final = Path(mtu_bytes=65_535)
"""From a host to itself: nothing is lost and nothing takes time."""


class Packet:
    """A packet under way."""

    __slots__ = ("data", "destination", "notice", "number", "source", "unreachable")

    def __init__(
        self,
        number: int,
        source: tuple[str, int],
        destination: tuple[str, int],
        data: bytes,
        *,
        unreachable: Callable[[], None] | None = None,
        notice: Callable[[], None] | None = None,
    ) -> None:
        self.number = number
        self.source = source
        self.destination = destination
        self.data = data
        self.unreachable = unreachable
        """What the sender wants to be called when nobody is bound to the destination's port and that is known to it."""
        self.notice = notice
        """Set on the packet that tells a sender so: it is for no port."""

    def copy(self, number: int) -> Packet:
        """The same packet under another number."""
        return Packet(
            number, self.source, self.destination, self.data, unreachable=self.unreachable, notice=self.notice
        )


class Direction:
    """One direction of a link at work. ``schedule(when, callback)`` and ``arrive(packet, now)`` are the network's;
    ``stream(purpose)`` gives the random stream of this direction for one purpose.
    """

    def __init__(
        self,
        path: Path,
        *,
        recorder: Recorder,
        number: Callable[[], int],
        stream: Callable[[str], random.Random],
        schedule: Callable[[float, Callable[[float], None]], None],
        arrive: Callable[[Packet, float], None],
        now: float,
    ) -> None:
        self.partitioned = False
        self.path = path
        self._recorder = recorder
        self._number = number
        self._schedule = schedule
        self._arrive = arrive
        # One stream per purpose: a path with more jitter still loses the same packets.
        self._loss_stream = stream("loss")
        self._jitter_stream = stream("jitter")
        self._reorder_stream = stream("reorder")
        self._duplicate_stream = stream("duplicate")
        self._lost: LossProcess | None = _loss_process(path, self._loss_stream)
        self._jitter: DelayProcess | None = _delay_process(path, self._jitter_stream)
        self._bottleneck: Bottleneck[Packet] | None = _bottleneck(path, now)
        self._last_due_s = 0.0
        self._wake_s: float | None = None

    @property
    def queue_bytes(self) -> int:
        """What waits at the bottleneck now, headers included."""
        return self._bottleneck.backlog_bytes if self._bottleneck is not None else 0

    def change(self, path: Path, now: float) -> None:
        """Be like ``path`` from ``now`` on. What is in the queue stays there, what is under way arrives as planned."""
        old, self.path = self.path, path
        if path.loss != old.loss:
            self._lost = _loss_process(path, self._loss_stream)
        if path.jitter != old.jitter:
            self._jitter = _delay_process(path, self._jitter_stream)
        self._serve(now)
        bottleneck = self._bottleneck
        if isinstance(bottleneck, ConstantRate) and path.rate_bps is not None:
            if path.rate_bps != old.rate_bps:
                bottleneck.set_rate(path.rate_bps, now)
            bottleneck.max_bytes, bottleneck.max_packets = path.queue_bytes, path.queue_packets
        elif path.trace is not None and path.trace == old.trace and bottleneck is not None:
            bottleneck.max_bytes, bottleneck.max_packets = path.queue_bytes, path.queue_packets
        else:
            self._replace_bottleneck(now)
        self._wake(now)

    def _replace_bottleneck(self, now: float) -> None:
        waiting = self._bottleneck.take_all() if self._bottleneck is not None else []
        self._bottleneck = fresh = _bottleneck(self.path, now)
        if fresh is None:
            for packet, _ in waiting:
                self._record(now, "dequeued", packet)
                self._propagate(packet, now)
            return
        fresh.max_bytes = fresh.max_packets = None  # what was accepted stays accepted
        for packet, size_bytes in waiting:
            fresh.offer(packet, size_bytes, now)
        fresh.max_bytes, fresh.max_packets = self.path.queue_bytes, self.path.queue_packets

    def send(self, packet: Packet, now: float) -> None:
        """Take a packet from its sender."""
        path = self.path
        self._record(now, "sent", packet)
        if self.partitioned:
            self._lose(packet, now, "partition")
        elif len(packet.data) > path.max_payload_bytes:
            self._lose(packet, now, "too_large")
        elif self._lost is not None and self._lost(now):
            self._lose(packet, now, "loss")
        else:
            self._enqueue(packet, now)
            if path.duplicate and self._duplicate_stream.random() < path.duplicate:
                copy = packet.copy(self._number())
                self._record(now, "duplicated", copy, str(packet.number))
                self._enqueue(copy, now)

    def _enqueue(self, packet: Packet, now: float) -> None:
        bottleneck = self._bottleneck
        if bottleneck is None:
            self._propagate(packet, now)
            return
        self._serve(now)  # what leaves at this very moment has made room
        if not bottleneck.offer(packet, len(packet.data) + self.path.overhead_bytes, now):
            self._lose(packet, now, "queue")
            return
        self._record(now, "queued", packet)
        self._wake(now)

    def _serve(self, now: float) -> None:
        if self._bottleneck is not None:
            for left_s, packet in self._bottleneck.advance(now):
                self._record(left_s, "dequeued", packet)
                self._propagate(packet, left_s)

    def _wake(self, now: float) -> None:
        """See to it that the next packet leaves in time. A wake-up that is no longer needed does nothing."""
        next_s = self._bottleneck.next_s if self._bottleneck is not None else None
        if next_s is not None and (self._wake_s is None or next_s < self._wake_s):
            self._wake_s = max(next_s, now)
            self._schedule(self._wake_s, self._woken)

    def _woken(self, now: float) -> None:
        if self._wake_s is not None and self._wake_s <= now:
            self._wake_s = None
        self._serve(now)
        self._wake(now)

    def _propagate(self, packet: Packet, now: float) -> None:
        path = self.path
        delay_s = path.delay_s
        if self._jitter is not None:
            delay_s = max(0.0, delay_s + self._jitter(now))
        due_s = now + delay_s
        if path.fifo and due_s < self._last_due_s:
            due_s = self._last_due_s
        if path.reorder and self._reorder_stream.random() < path.reorder:
            # It does not count as the last one: the packets behind it need not wait for it.
            self._record(now, "held", packet)
            due_s += path.reorder_delay_s
        elif due_s > self._last_due_s:
            self._last_due_s = due_s
        self._schedule(due_s, lambda when: self._at_the_end(packet, when))

    def _at_the_end(self, packet: Packet, now: float) -> None:
        if self.partitioned:
            self._lose(packet, now, "partition")
        else:
            self._arrive(packet, now)

    def _lose(self, packet: Packet, now: float, reason: LossReason) -> None:
        self._recorder.record(
            now, "lost", packet.number, packet.source, packet.destination, len(packet.data), reason, self.queue_bytes
        )

    def _record(self, now: float, fate: Fate, packet: Packet, reason: str = "") -> None:
        queue_bytes = self.queue_bytes if fate in ("queued", "dequeued") else 0
        self._recorder.record(
            now, fate, packet.number, packet.source, packet.destination, len(packet.data), reason, queue_bytes
        )


def _loss_process(path: Path, stream: random.Random) -> LossProcess | None:
    if isinstance(path.loss, float | int):
        return Random(path.loss).process(stream) if path.loss else None
    return path.loss.process(stream)


def _delay_process(path: Path, stream: random.Random) -> DelayProcess | None:
    if isinstance(path.jitter, float | int):
        return Normal(path.jitter).process(stream) if path.jitter else None
    return path.jitter.process(stream)


def _bottleneck(path: Path, now: float) -> Bottleneck[Packet] | None:
    if path.rate_bps is not None:
        return ConstantRate(path.rate_bps, max_bytes=path.queue_bytes, max_packets=path.queue_packets)
    if path.trace is not None:
        return TraceRate(path.trace, now, max_bytes=path.queue_bytes, max_packets=path.queue_packets)
    return None
