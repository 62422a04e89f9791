"""A gate that tasks wait at: credit to write, a free slot to call."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Gate"]


class Gate:
    """Waiters in order of arrival; a cancelled waiter passes its turn on."""

    __slots__ = ("_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return len(self._waiters)

    async def wait(self) -> None:
        """Wait for this task's turn; raises what ``fail`` was given."""
        future = self._loop.create_future()
        self._waiters.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                if future in self._waiters:
                    self._waiters.remove(future)
            else:
                self.open_one()
            raise

    def open_one(self) -> None:
        """Let the first waiter through."""
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                return

    def open_all(self) -> None:
        """Let all waiters through."""
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in all waiters."""
        while self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()
