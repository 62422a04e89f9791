"""Which packets a path loses: models that are told the time and answer yes or no, each from a random stream of its own.

A model is a value that describes the channel; :meth:`LossModel.process` starts the channel itself, with its state, for
one direction of one link. State and loss are drawn from two streams, and a model draws the same number of times for
every packet, so two runs that differ in something else (a delay, a rate) still lose the same packets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from echostream_core.errors import ConfigError

__all__ = [
    "Chosen",
    "GilbertElliott",
    "GilbertElliottTime",
    "LossModel",
    "LossProcess",
    "Random",
    "check_probability",
]

LossProcess: TypeAlias = Callable[[float], bool]
"""Asked once per packet with the time in seconds, which never goes back: is this one lost?"""


class LossModel(Protocol):
    """Describes a lossy channel. Any object with this method will do."""

    def process(self, stream: random.Random) -> LossProcess:
        """Start one channel that draws from ``stream`` and from nothing else."""
        ...  # pragma: no cover


def check_probability(value: float, field: str) -> None:
    """ConfigError unless ``value`` lies between 0 and 1, both included."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{field} is a probability between 0 and 1, not {value!r}", key=field)


@dataclass(frozen=True, slots=True)
class Random:
    """Each packet is lost with ``probability``, whatever happened to the others."""

    probability: float

    def __post_init__(self) -> None:
        check_probability(self.probability, "probability")

    def process(self, stream: random.Random) -> LossProcess:
        """One draw per packet."""
        probability = self.probability
        draw = stream.random
        return lambda _now: draw() < probability


@dataclass(frozen=True, slots=True)
class Chosen:
    """Exactly these packets are lost, counted from 0 in the order in which the direction was given them."""

    packets: Collection[int]

    def process(self, stream: random.Random) -> LossProcess:
        """Draws nothing."""
        chosen = frozenset(self.packets)
        number = -1

        def lost(_now: float) -> bool:
            nonlocal number
            number += 1
            return number in chosen

        return lost


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Two states that change from packet to packet: ``p`` is good to bad, ``r`` is bad to good.

    Loses ``loss_good`` of the packets in the good state and ``loss_bad`` in the bad one. With the defaults the mean
    loss is ``p / (p + r)`` and a burst is ``1 / r`` packets long on average. It begins in the long-run mix of both.
    Source: E. N. Gilbert, Bell System Technical Journal 39 (1960); E. O. Elliott, ibid. 42 (1963).
    """

    p: float
    r: float
    loss_good: float = 0.0
    loss_bad: float = 1.0

    def __post_init__(self) -> None:
        for field in ("p", "r", "loss_good", "loss_bad"):
            check_probability(getattr(self, field), field)

    @property
    def mean_loss(self) -> float:
        """The share of packets that is lost in the long run."""
        bad = self.p / (self.p + self.r) if self.p else 0.0
        return bad * self.loss_bad + (1.0 - bad) * self.loss_good

    def process(self, stream: random.Random) -> LossProcess:
        """Two draws per packet, from two streams."""
        states, losses = random.Random(stream.getrandbits(64)), random.Random(stream.getrandbits(64))
        bad = self.p > 0.0 and states.random() < self.p / (self.p + self.r)

        def lost(_now: float) -> bool:
            nonlocal bad
            is_lost = losses.random() < (self.loss_bad if bad else self.loss_good)
            bad = states.random() >= self.r if bad else states.random() < self.p
            return is_lost

        return lost


@dataclass(frozen=True, slots=True)
class GilbertElliottTime:
    """Two states that last for a time, as a radio channel's do, however many packets are sent meanwhile.

    The lengths of the states are exponential with the means ``mean_good_s`` and ``mean_bad_s``. A repair that is sent
    later sees another channel here; under :class:`GilbertElliott` only one that is sent more packets later does.
    """

    mean_good_s: float
    mean_bad_s: float
    loss_good: float = 0.0
    loss_bad: float = 1.0

    def __post_init__(self) -> None:
        for field in ("mean_good_s", "mean_bad_s"):
            if not getattr(self, field) > 0.0:
                raise ConfigError(f"{field} must be more than 0 s, not {getattr(self, field)!r}", key=field)
        for field in ("loss_good", "loss_bad"):
            check_probability(getattr(self, field), field)

    @property
    def mean_loss(self) -> float:
        """The share of a steady stream of packets that is lost in the long run."""
        bad = self.mean_bad_s / (self.mean_good_s + self.mean_bad_s)
        return bad * self.loss_bad + (1.0 - bad) * self.loss_good

    def process(self, stream: random.Random) -> LossProcess:
        """One draw per packet from the stream of losses, one per change of state from the stream of states."""
        states, losses = random.Random(stream.getrandbits(64)), random.Random(stream.getrandbits(64))
        bad = states.random() < self.mean_bad_s / (self.mean_good_s + self.mean_bad_s)
        until: float | None = None

        def lost(now: float) -> bool:
            nonlocal bad, until
            if until is None:
                until = now + states.expovariate(1.0 / (self.mean_bad_s if bad else self.mean_good_s))
            while until <= now:
                bad = not bad
                until += states.expovariate(1.0 / (self.mean_bad_s if bad else self.mean_good_s))
            return losses.random() < (self.loss_bad if bad else self.loss_good)

        return lost
