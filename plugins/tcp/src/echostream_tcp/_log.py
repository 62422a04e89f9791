"""One line for each peer that we turn away, and few lines when they come in floods."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from echostream_core.complaints import printable

__all__ = ["ComplaintLog", "logger", "printable"]

logger: Final = logging.getLogger("echostream.tcp")

BURST_LINES: Final = 20
"""Lines that are written at once."""
LINES_PER_S: Final = 1.0
"""Lines that are written for long: 86,400 a day, about 15 MB."""
SUMMARY_S: Final = 10.0
"""How often the number of lines that were left out is told."""


class ComplaintLog:
    """Warnings of one listener about its peers, limited in number; those left out are counted, and the count logged."""

    __slots__ = ("_address", "_last", "_left_out", "_lines", "_logger", "_timer")

    def __init__(self, address: str, logger: logging.Logger = logger) -> None:
        self._address = address
        self._logger = logger
        self._lines = float(BURST_LINES)
        self._last = asyncio.get_running_loop().time()
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None

    def warn(self, text: str) -> None:
        """Log ``text`` behind the listener's address, or count it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._lines = min(BURST_LINES, self._lines + (now - self._last) * LINES_PER_S)
        self._last = now
        if self._lines >= 1:
            self._lines -= 1
            self._logger.warning("%s: %s", self._address, text)
            return
        self._left_out += 1
        if self._timer is None:
            self._timer = loop.call_later(SUMMARY_S, self.flush)

    def flush(self) -> None:
        """Tell how many lines were left out since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left_out:
            self._logger.warning("%s: %d more of such warnings were left out", self._address, self._left_out)
            self._left_out = 0
