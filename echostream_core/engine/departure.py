"""Going away in order, from both sides: GOAWAY, what still runs finishes, events arrive, then the end.

The side that leaves refuses new calls, waits for the running ones and closes. The other side closes by itself as soon
as it has all its answers, so that nothing is lost in between. Source: docs/wire.md section 8, decision 0007.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from echostream_core.complaints import printable
from echostream_core.errors import CloseCode, Disconnected
from echostream_core.wire.frames import encode_goaway

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["Departure"]

_GOODBYE_S: Final = 5.0
"""What a peer has to close the session by itself, once everything is answered and it knows that we are going away."""
_logger = logging.getLogger("echostream.session")


class Departure:
    """How one session ends in order."""

    __slots__ = ("_flushing", "_idle", "_session", "announced", "as_asked", "final", "large_answers", "on_announced")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._idle: asyncio.Future[None] | None = None
        self._flushing = False
        self.announced = False
        """The peer has said that it goes away: it takes no new calls."""
        self.on_announced: Callable[[Session], None] | None = None
        """Called once, when it says so."""
        self.as_asked = False
        """We have closed the session because the peer goes away and nothing was left to do."""
        self.final = False
        """The peer has sent its final GOAWAY."""
        self.large_answers = False
        """Something was answered on a substream: it may take its time to get there."""

    async def drain(self, timeout: float, reason: str) -> None:
        """Refuse new calls, let the running ones finish for at most ``timeout`` seconds, then close."""
        session = self._session
        incoming = session.incoming
        incoming.draining = True
        session.send_control(encode_goaway(None, CloseCode.GOING_AWAY, reason))
        try:
            async with asyncio.timeout(timeout):
                # One round trip later every call that was sent before the peer heard of it is here.
                await session.ping()
                incoming.goaway = (incoming.highest + 1) & 0xFFFF_FFFF
                session.send_control(encode_goaway(incoming.goaway, CloseCode.GOING_AWAY, reason))
                while session.busy:
                    self._idle = session.loop.create_future()
                    await self._idle
                events = await session.events.finish()
                # A peer that has all its answers and events closes by itself. What travels on substreams may take its
                # time to get there; in-line answers go out with the close.
                patience = None if self.large_answers or events else _GOODBYE_S
                await asyncio.wait({session.closed}, timeout=patience)
        except (TimeoutError, Disconnected):
            left = session.busy
            sender = session.events.sender
            if left and not session.closed.done():
                _logger.warning("%s: %d calls did not finish within the drain time", session.peer, left)
            if sender is not None and sender.held and not session.closed.done():
                _logger.warning("%s: %d events were not taken within the drain time", session.peer, sender.held)
        await session.close(CloseCode.GOING_AWAY, reason)

    def on_goaway(self, reason: str, *, final: bool) -> None:
        """The peer is going away; ``final``: it has said which calls it takes."""
        if not self.announced:
            self.announced = True
            _logger.info("%s: the peer is going away: %s", self._session.peer, printable(reason, 200))
            if self.on_announced is not None:
                self.on_announced(self._session)
        if final:
            self.final = True
            self.close_if_done()

    def close_if_done(self) -> None:
        """The peer is going away: end the session once nothing of ours is open there, and nothing of it here, and the
        events of both have been read.
        """
        session = self._session
        if not self.final or self._flushing or session.disconnected:
            return
        if session.outgoing.pending or session.busy or not session.events.arrived:
            return
        if session.events.unacknowledged:
            self._flushing = True
            session.run_handler(self._flush())
        else:
            self.as_asked = True
            session.close_now(CloseCode.OK, "going away, as asked")

    async def _flush(self) -> None:
        try:
            await self._session.events.flush(None)
        except Disconnected:
            return
        finally:
            self._flushing = False
        self.close_if_done()

    def on_idle(self) -> None:
        """Perhaps the last running call has been answered."""
        self.close_if_done()
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
