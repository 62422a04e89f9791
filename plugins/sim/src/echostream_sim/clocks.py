"""A host's own idea of the time: wrong by an offset, running fast or slow, and set now and then.

The network's time is the truth. ``monotonic`` follows it with the clock's drift and never steps; ``time`` is the wall
clock: the same hands, an offset, and whatever ``step`` did. Both are computed from the truth when they are read, so
reading them more often changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import floor, isfinite
from typing import Final

from echostream_core.errors import ConfigError

__all__ = ["EPOCH_S", "Clock"]

EPOCH_S: Final = 1_767_225_600
"""What a right wall clock shows when a simulation begins: 2026-01-01 00:00:00 UTC. In full seconds."""

_NS: Final = 1_000_000_000


class Clock:
    """The clocks of one host. ``offset_s`` is the wall clock's error at the beginning, ``drift_ppm`` how much too fast
    both clocks run, in millionths; ``wander_ppm`` is the standard deviation of the random walk that the drift makes, in
    millionths per square root of a second.
    """

    def __init__(self, *, offset_s: float = 0.0, drift_ppm: float = 0.0, wander_ppm: float = 0.0) -> None:
        for field, value in (("offset_s", offset_s), ("drift_ppm", drift_ppm), ("wander_ppm", wander_ppm)):
            if not isfinite(value):
                raise ConfigError(f"{field} must be a finite number, not {value!r}", key=field)
        if wander_ppm < 0.0:
            raise ConfigError(f"wander_ppm must be 0 or more, not {wander_ppm!r}", key="wander_ppm")
        _check_drift(drift_ppm)
        self.offset_s = offset_s
        """The wall clock's error, drift apart: what it was at the beginning, and all steps since."""
        self.wander_ppm = wander_ppm
        self._drift_ppm = drift_ppm
        self._truth: Callable[[], float] = _no_truth
        self._stream = random.Random(0)
        # The monotonic clock showed ``_shown_s`` more than the truth at the time ``_since_s``.
        self._since_s = 0.0
        self._ahead_s = 0.0

    def start(self, truth: Callable[[], float], stream: random.Random) -> None:
        """Called once by the network: where the true time comes from, in seconds, and random numbers."""
        if self._truth is not _no_truth:
            raise ConfigError("this clock belongs to a host already: give each host a Clock of its own", key="clock")
        self._truth, self._stream = truth, stream
        self._since_s = truth()

    @property
    def drift_ppm(self) -> float:
        """How much too fast the clock runs now. Setting it changes the speed from now on, and never the reading."""
        self._ahead()
        return self._drift_ppm

    @drift_ppm.setter
    def drift_ppm(self, value: float) -> None:
        _check_drift(value)
        now = self._truth()
        self._ahead_s = self._ahead()
        self._since_s = now
        self._drift_ppm = value

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back when negative, as somebody with a watch does. ``monotonic`` stays."""
        self.offset_s += seconds

    def time(self) -> float:
        """The wall clock, in seconds since 1970. It can step; a float shows it to about 200 ns only."""
        return self.time_ns() / _NS

    def time_ns(self) -> int:
        """The wall clock, in nanoseconds since 1970."""
        return EPOCH_S * _NS + round((self._truth() + self._ahead() + self.offset_s) * _NS)

    def monotonic(self) -> float:
        """Seconds since the simulation began, as this host counts them. Never goes back."""
        return self._truth() + self._ahead()

    def monotonic_ns(self) -> int:
        """The same in nanoseconds."""
        return round(self.monotonic() * _NS)

    def error_s(self) -> float:
        """How far the wall clock is ahead of the truth, in seconds: what a program that sets clocks should find."""
        return self._ahead() + self.offset_s

    def _ahead(self) -> float:
        """How far the monotonic clock is ahead of the truth."""
        now = self._truth()
        if self.wander_ppm:
            # The walk takes its steps at full seconds of the truth, so it is the same whenever it is looked at.
            while (step_s := floor(self._since_s) + 1.0) <= now:
                self._ahead_s += (step_s - self._since_s) * self._drift_ppm * 1e-6
                self._since_s = step_s
                walked = self._drift_ppm + self._stream.normalvariate(0.0, self.wander_ppm)
                self._drift_ppm = max(-_MAX_DRIFT_PPM, min(_MAX_DRIFT_PPM, walked))
        return self._ahead_s + (now - self._since_s) * self._drift_ppm * 1e-6


_MAX_DRIFT_PPM: Final = 500_000.0
"""Half as fast again, or half as slow. A clock must go forward."""


def _check_drift(value: float) -> None:
    if not abs(value) <= _MAX_DRIFT_PPM:
        raise ConfigError(f"drift_ppm must lie within ±{_MAX_DRIFT_PPM:g}, not {value!r}", key="drift_ppm")


def _no_truth() -> float:
    raise RuntimeError("this clock has no host yet: pass it to network.host(name, clock=...)")
