"""How much longer than its constant delay a path takes: models of jitter, each from a random stream of its own.

A model gives the *extra* delay of one packet, in seconds, to be added to the path's ``delay_s``. It may be negative;
the path never makes a packet arrive before it was sent. Whether jitter may reorder packets is decided by the path
(``fifo``), not here.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log
from typing import Protocol, TypeAlias

from echostream_core.errors import ConfigError

__all__ = ["DelayModel", "DelayProcess", "Exponential", "LogNormal", "Normal", "Trace", "Uniform", "check_duration"]

DelayProcess: TypeAlias = Callable[[float], float]
"""Asked once per packet with the time in seconds, which never goes back: the extra delay in seconds."""


class DelayModel(Protocol):
    """Describes how a delay varies. Any object with this method will do."""

    def process(self, stream: random.Random) -> DelayProcess:
        """Start one channel that draws from ``stream`` and from nothing else."""
        ...  # pragma: no cover


def check_duration(value: float, field: str) -> None:
    """ConfigError unless ``value`` is a finite number of seconds, 0 or more."""
    if not isfinite(value) or value < 0.0:
        raise ConfigError(f"{field} must be a number of seconds, 0 or more, not {value!r}", key=field)


@dataclass(frozen=True, slots=True)
class Normal:
    """A bell curve around the constant delay, with the standard deviation ``std_s``: half the packets are early."""

    std_s: float

    def __post_init__(self) -> None:
        check_duration(self.std_s, "std_s")

    def process(self, stream: random.Random) -> DelayProcess:
        """Independent from packet to packet."""
        return lambda _now: stream.normalvariate(0.0, self.std_s)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Always later than the constant delay: half the packets by less than ``median_s``, a few by much more.

    ``sigma`` is the standard deviation of the logarithm: with 1.0 one packet in a hundred takes ten times the median.
    """

    median_s: float
    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_duration(self.median_s, "median_s")
        if self.median_s == 0.0:
            raise ConfigError("median_s must be more than 0 s: leave the jitter out instead", key="median_s")
        check_duration(self.sigma, "sigma")

    def process(self, stream: random.Random) -> DelayProcess:
        """Independent from packet to packet."""
        mu = log(self.median_s)
        return lambda _now: stream.lognormvariate(mu, self.sigma)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Always later than the constant delay, ``mean_s`` on average: the wait in a queue shared with others."""

    mean_s: float

    def __post_init__(self) -> None:
        check_duration(self.mean_s, "mean_s")
        if self.mean_s == 0.0:
            raise ConfigError("mean_s must be more than 0 s: leave the jitter out instead", key="mean_s")

    def process(self, stream: random.Random) -> DelayProcess:
        """Independent from packet to packet."""
        rate = 1.0 / self.mean_s
        return lambda _now: stream.expovariate(rate)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Later than the constant delay by anything between ``low_s`` and ``high_s``."""

    low_s: float
    high_s: float

    def __post_init__(self) -> None:
        check_duration(self.low_s, "low_s")
        check_duration(self.high_s, "high_s")
        if self.high_s < self.low_s:
            raise ConfigError(f"high_s = {self.high_s} is less than low_s = {self.low_s}", key="high_s")

    def process(self, stream: random.Random) -> DelayProcess:
        """Independent from packet to packet."""
        return lambda _now: stream.uniform(self.low_s, self.high_s)


@dataclass(frozen=True, slots=True)
class Trace:
    """Extra delays that were measured: ``points`` is a sequence of (time in s, extra delay in s), in order of time.

    A point holds until the next one. The first must be at time 0. With ``period_s`` the trace begins again after that
    time, without it the last point holds for ever. Draws nothing.
    """

    points: Sequence[tuple[float, float]]
    period_s: float | None = None

    def __post_init__(self) -> None:
        if not self.points or self.points[0][0] != 0.0:
            raise ConfigError("points must begin with one at time 0.0", key="points")
        times = [time for time, _ in self.points]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ConfigError("points must be in order of time, each later than the one before", key="points")
        for _, extra in self.points:
            check_duration(extra, "points")
        if self.period_s is not None and self.period_s <= times[-1]:
            raise ConfigError(f"period_s must be later than the last point, {times[-1]} s", key="period_s")

    def process(self, stream: random.Random) -> DelayProcess:
        """The same for every packet of one moment."""
        times = [time for time, _ in self.points]
        extras = [extra for _, extra in self.points]
        period = self.period_s

        def extra(now: float) -> float:
            at = now if period is None else now % period
            return extras[bisect_right(times, at) - 1]

        return extra
