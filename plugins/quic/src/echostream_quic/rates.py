"""How often something happens, and a log that it cannot fill."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import Final

__all__ = ["LastSecond", "Warnings"]

LOG_BURST: Final = 10
LOG_INTERVAL_S: Final = 10.0
"""At most so many warnings about failed handshakes in so many seconds; the next one says how many were left out."""

_log: Final = getLogger("echostream.quic")


class LastSecond:
    """How often something happened within the last second or so."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._count = 0

    def note(self, now: float) -> None:
        """It happened again."""
        self._count = self.count(now) + 1

    def count(self, now: float) -> int:
        """How often since the second began."""
        if now - self._since > 1.0:
            self._since, self._count = now, 0
        return self._count


class Warnings:
    """A log that a flood of bad handshakes cannot fill."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._count = 0

    def log(self, text: str, *values: object) -> None:
        """Log one warning, or count it as left out."""
        now = self._clock()
        if now - self._since > LOG_INTERVAL_S:
            left_out = self._count - LOG_BURST
            if left_out > 0:
                _log.warning("%d warnings like those before were left out", left_out)
            self._since, self._count = now, 0
        self._count += 1
        if self._count <= LOG_BURST:
            _log.warning(text, *values)
