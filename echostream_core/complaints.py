"""Warnings about peers: few lines however many come, and nothing in them that could deceive who reads the log."""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import Final

__all__ = ["ComplaintLog", "printable"]

BURST_LINES: Final = 20
"""Lines that are written at once."""
LINES_PER_S: Final = 0.2
"""Lines that are written for long: 17,280 a day."""


class ComplaintLog:
    """Warnings of one logger, limited in number; the next line that is written tells how many were left out."""

    __slots__ = ("_clock", "_last", "_left_out", "_lines", "_logger")

    def __init__(self, logger: Logger, clock: Callable[[], float]) -> None:
        """``clock`` tells seconds, as ``loop.time`` does."""
        self._logger = logger
        self._clock = clock
        self._lines = float(BURST_LINES)
        self._last = clock()
        self._left_out = 0

    def warn(self, text: str) -> None:
        """Log ``text``, or count it."""
        now = self._clock()
        self._lines = min(BURST_LINES, self._lines + (now - self._last) * LINES_PER_S)
        self._last = now
        if self._lines < 1:
            self._left_out += 1
            return
        self._lines -= 1
        if self._left_out:
            text = f"{text} ({self._left_out} warnings before this one were left out)"
            self._left_out = 0
        self._logger.warning("%s", text)


def printable(text: object, limit: int = 80) -> str:
    """A stranger's ``text`` (or bytes) for a log: quoted, escaped and cut to about ``limit`` signs."""
    shown = ascii(text[:limit] if isinstance(text, (str, bytes)) else str(text)[:limit])
    return shown if len(shown) <= 2 * limit else f"{shown[: 2 * limit]}…"
