"""Rates that were recorded on real networks, in Mahimahi's format.

A trace is a text file with one integer per line: a time in milliseconds at which the link could send one packet of
1,500 bytes. A line that stands twice is two opportunities. The trace begins again when its last time is reached. What
an opportunity does not use for want of packets is lost; it may carry several small packets, or a part of a large one.
Source: R. Netravali et al., "Mahimahi: Accurate Record-and-Replay for HTTP", USENIX ATC 2015; mm-link(1).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import floor
from pathlib import Path
from typing import Final

from echostream_core.errors import ConfigError

__all__ = ["OPPORTUNITY_BYTES", "MahimahiTrace"]

OPPORTUNITY_BYTES: Final = 1_500
"""What one line of a trace may carry."""


class MahimahiTrace:
    """The opportunities of one link; see the module's docstring. Two with the same times are equal."""

    def __init__(self, times_ms: Iterable[int], *, name: str = "") -> None:
        """From times in milliseconds. ConfigError unless they are integers, 0 or more, ordered, the last one over 0."""
        self.times_ms = tuple(times_ms)
        """Of one round, in order."""
        self.name = name or f"{len(self.times_ms)} opportunities"
        previous = 0
        for number, time in enumerate(self.times_ms, 1):
            if time < previous:
                raise ConfigError(f"{self.name}:{number}: {time} ms comes after {previous} ms", key="trace")
            previous = time
        if previous == 0:
            raise ConfigError(f"{self.name}: the last time must be over 0 ms: it is the length of a round", key="trace")
        self.period_s = previous / 1000
        """How long one round takes, in seconds."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> MahimahiTrace:
        """Read a trace file. ConfigError names the line that is no time; OSError when it cannot be read."""
        times = []
        for number, line in enumerate(Path(path).read_text(encoding="ascii", errors="replace").splitlines(), 1):
            text = line.strip()
            if not text:
                continue
            if not (text.isascii() and text.isdecimal()):
                raise ConfigError(f"{path}:{number}: {text[:40]!r} is no number of milliseconds", key="trace")
            times.append(int(text))
        return cls(times, name=str(path))

    @classmethod
    def constant(cls, rate_bps: float, *, period_ms: int = 1000) -> MahimahiTrace:
        """A trace of a steady rate: opportunities as evenly spread as whole milliseconds allow."""
        count = round(rate_bps * period_ms / 1000 / (8 * OPPORTUNITY_BYTES))
        if count < 1:
            raise ConfigError(f"{rate_bps} bit/s has no opportunity in {period_ms} ms: lengthen period_ms", key="trace")
        return cls((-(-period_ms * number // count) for number in range(1, count + 1)), name=f"{rate_bps:g} bit/s")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a trace file that Mahimahi reads."""
        Path(path).write_text("".join(f"{time}\n" for time in self.times_ms), encoding="ascii")

    @property
    def mean_bps(self) -> float:
        """What the link carries on average, in bits per second."""
        return len(self.times_ms) * OPPORTUNITY_BYTES * 8 / self.period_s

    def time_s(self, number: int) -> float:
        """When opportunity ``number`` (from 0) comes, in seconds from the beginning of the trace."""
        rounds, index = divmod(number, len(self.times_ms))
        return (rounds * self.times_ms[-1] + self.times_ms[index]) / 1000

    def first_after(self, time_s: float) -> int:
        """The number of the first opportunity later than ``time_s``; one at that very moment has gone."""
        if time_s < 0.0:
            return 0
        rounds = floor(time_s / self.period_s)
        index = bisect_right(self.times_ms, (time_s - rounds * self.period_s) * 1000)
        number = rounds * len(self.times_ms) + index
        # The division may be off by one rounding: the times themselves decide.
        while self.time_s(number) <= time_s:
            number += 1
        while number and self.time_s(number - 1) > time_s:
            number -= 1
        return number

    def opportunities(self, start_s: float, end_s: float) -> Iterator[float]:
        """The times of all opportunities after ``start_s`` and up to ``end_s``, in seconds."""
        number = self.first_after(start_s)
        while (time := self.time_s(number)) <= end_s:
            yield time
            number += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MahimahiTrace) and other.times_ms == self.times_ms

    def __hash__(self) -> int:
        return hash(self.times_ms)

    def __repr__(self) -> str:
        return f"<MahimahiTrace {self.name}: {self.mean_bps / 1e6:.3g} Mbit/s over {self.period_s:g} s>"
