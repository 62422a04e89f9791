"""PING and PONG: round trips on demand, and the keep-alive that notices a peer that has gone without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from echostream_core.errors import CloseCode, ConnectionLost
from echostream_core.wire.frames import encode_ping

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["Liveness"]

_logger = logging.getLogger("echostream.session")


class Liveness:
    """Signs of life of one session's peer."""

    __slots__ = ("_asked_at", "_next", "_pongs", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pongs: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._asked_at: float | None = None
        """When the PING was sent that nothing has followed yet."""

    async def ping(self) -> float:
        """Seconds for one round trip; Disconnected when the session ends meanwhile."""
        session = self._session
        future: asyncio.Future[None] = session.loop.create_future()
        begin = session.loop.time()
        self._send(lambda: None if future.done() else future.set_result(None))
        waiter = asyncio.ensure_future(asyncio.wait({future, session.closed}, return_when=asyncio.FIRST_COMPLETED))
        await waiter
        if not future.done():
            raise session.closed_error()
        return session.loop.time() - begin

    def on_pong(self, value: int) -> bool:
        """The answer to a PING of ours, and to all before it; False when we sent none such."""
        if value not in self._pongs:
            return False
        for earlier in [ping for ping in self._pongs if ping <= value]:
            self._pongs.pop(earlier)()
        return True

    def begin(self) -> None:
        """The session is open: look after it, unless keep-alive is off."""
        interval = self._interval
        if interval:
            self._session.after(interval, self._look)

    def close(self) -> None:
        """The session has ended."""
        self._pongs.clear()

    @property
    def _interval(self) -> float:
        """Ours, but not more often than the peer's SETUP welcomes; 0: off."""
        session = self._session
        interval = session.pipeline.limits.keepalive_interval_s
        floor = session.peer_setup.keepalive_floor_ms / 1000 if session.peer_setup is not None else 0.0
        return max(interval, floor) if interval else 0.0

    def _look(self) -> None:
        session = self._session
        if session.disconnected:
            return
        timeout = session.pipeline.limits.keepalive_timeout_s
        interval = self._interval
        now = session.loop.time()
        quiet = now - session.last_received
        if self._asked_at is not None and session.last_received >= self._asked_at:
            self._asked_at = None
        if self._asked_at is not None and now >= self._asked_at + timeout:
            error = ConnectionLost(f"no sign of life from {session.peer} for {quiet:.0f} s")
            _logger.warning("%s", error)
            session.fail(error, CloseCode.TIMEOUT, "no sign of life")
            return
        if self._asked_at is None and quiet >= interval:
            self._asked_at = now
            self._send(lambda: None)
        # An answer may come at once: then the next PING is due an interval later, however long the timeout is.
        wait = interval - quiet if self._asked_at is None else min(interval, self._asked_at + timeout - now)
        session.after(max(wait, 0.001), self._look)  # a rounding error must not spin the loop

    def _send(self, callback: Callable[[], None]) -> None:
        session = self._session
        if session.disconnected:
            raise session.closed_error()
        value = self._next
        self._next += 1
        self._pongs[value] = callback
        session.send_control(encode_ping(value))
