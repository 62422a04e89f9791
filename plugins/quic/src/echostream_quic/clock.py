"""Which clock the packets are timed by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

__all__ = ["clock_of"]

SAME_S: Final = 1.0


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The loop's clock; its finer twin where the loop's counts in milliseconds and stands still within a turn.

    uvloop's does. A round trip on loopback is a fraction of one, and pacing by it would step. A loop with a
    virtual clock keeps it: it does not agree with the system's, or it is one of asyncio's with a clock put in.
    """
    if isinstance(loop, asyncio.BaseEventLoop) and type(loop).time is not asyncio.BaseEventLoop.time:
        return loop.time  # even at the moment at which both clocks show the same
    return time.monotonic if abs(loop.time() - time.monotonic()) < SAME_S else loop.time
