"""The slots of calls in flight: at most so many at once, and those who wait get theirs in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from echostream_core.errors import CallError, DeadlineExceeded

__all__ = ["Slots"]

_FOREVER: Final = float("inf")


class Slots:
    """Counts slots. A freed slot is handed to the first waiter, so that nobody overtakes it."""

    __slots__ = ("_loop", "limit", "used", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self.limit = limit
        """How many may be used at once."""
        self.used = 0
        """How many are."""
        self.waiters: deque[asyncio.Future[None]] | tuple[()] = ()
        """Those who wait. While there are any, a newcomer queues behind them. (An empty deque takes 760 bytes.)"""

    def take(self) -> bool:
        """Take a free slot at once; False when there is none, or others wait for it."""
        if self.used >= self.limit or self.waiters:
            return False
        self.used += 1
        return True

    async def wait(self, deadline: float) -> None:
        """Take a slot, waiting until ``deadline`` (``loop.time()`` seconds) for it; DeadlineExceeded when it comes
        first.

        Raises what ``fail`` was given.
        """
        if self.take():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        if not isinstance(self.waiters, deque):
            self.waiters = deque()
        self.waiters.append(future)
        timer = None if deadline == _FOREVER else self._loop.call_at(deadline, self._expire, future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                self.release()  # it was ours already
            elif isinstance(self.waiters, deque) and future in self.waiters:
                self.waiters.remove(future)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        """Give a slot back: the first waiter has it now."""
        while isinstance(self.waiters, deque) and self.waiters:
            future = self.waiters.popleft()
            if not future.done():
                if self.used <= self.limit:
                    future.set_result(None)
                    return
                self.waiters.appendleft(future)
                break
        self.used -= 1

    def resize(self, limit: int) -> None:
        """Change the limit; waiters that fit now get their slots."""
        self.limit = limit
        while isinstance(self.waiters, deque) and self.waiters and self.used < limit:
            future = self.waiters.popleft()
            if not future.done():
                self.used += 1
                future.set_result(None)

    def fail(self, error: CallError | Exception) -> None:
        """Nobody gets a slot any more: ``error`` is raised in all who wait."""
        while isinstance(self.waiters, deque) and self.waiters:
            future = self.waiters.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()

    def _expire(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            if isinstance(self.waiters, deque):
                self.waiters.remove(future)
            text = f"no free slot in time: {self.used} calls are open, the peer's max_concurrent_calls is {self.limit}"
            future.set_exception(DeadlineExceeded(text, not_processed=True))
