"""One timer for the heartbeats of all sessions: it looks after them four times per timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from echostream_core import ConfigError

__all__ = ["Heartbeats"]


class Heartbeats:
    """Calls ``check(oldest)`` now and then: who was last seen at ``oldest`` (loop time) or before has stopped."""

    def __init__(self, timeout: float | None, check: Callable[[float], None]) -> None:
        """``timeout`` in seconds; None: never."""
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"rooms: heartbeat_timeout must be above 0, not {timeout}", key="heartbeat_timeout")
        self.timeout = timeout
        self._check = check
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Somebody is to be looked after. Idempotent."""
        if self.timeout is not None and self._timer is None:
            self._timer = loop.call_later(self.timeout / 4, self._look, loop)

    def stop(self) -> None:
        """Look after nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.timeout is not None
        self._timer = None
        self._check(loop.time() - self.timeout)
