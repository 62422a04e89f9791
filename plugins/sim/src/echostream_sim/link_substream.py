"""One substream of a connection over the simulated network, and the line in which the substreams wait for packets."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from echostream_core.transport import Substream
from echostream_core.types import Priority
from echostream_core.wire.credit import ReceiveWindow
from echostream_core.wire.substream import (
    ENDED,
    GIVEN_UP,
    LOW_WATER_BYTES,
    RECEIVED,
    RECEIVING,
    STOPPED,
    CarriedSubstream,
)
from echostream_sim.link_received import Assembly

if TYPE_CHECKING:
    from echostream_sim.link_engine import Engine

__all__ = ["Line", "Piece", "SimSubstream", "own"]

WEIGHTS: Final = (0, 16, 4, 1)
"""Shares of urgent, normal and bulk; control (the first) does not share, it goes first."""

Piece = tuple[int, bytes, bool]
"""Some bytes of one substream as they stand in one packet: offset, data, and whether our direction ends behind them."""


class SimSubstream(CarriedSubstream, Substream):
    """A substream of a :class:`~echostream_sim.connection.SimConnection`.

    State, queue and credit are the kernel's own (``CarriedSubstream``); what a network that loses packets needs is
    here: pieces that have to be sent again, and the order of those that arrive.
    """

    __slots__ = ("assembly", "changed", "incoming", "lost", "queueing", "reset_code", "told_stop")

    def __init__(self, carrier: Engine, number: int, priority: Priority, window: ReceiveWindow | None) -> None:
        super().__init__(carrier, number, priority, window)
        self.assembly = Assembly()
        self.incoming: list[bytes] = []
        """In order, not yet delivered."""
        self.lost: deque[Piece] = deque()
        """To be sent again, before anything new and without new credit."""
        self.queueing = False
        """Stands in the connection's line."""
        self.changed = False
        """Stands in the connection's list of those with something to deliver."""
        self.reset_code: int | None = None
        """The peer has given up its direction; to be delivered."""
        self.told_stop: int | None = None
        """The peer reads no more; to be delivered."""

    @property
    def over(self) -> bool:
        """What was sent need not arrive any more: we have reset, or the peer has stopped reading."""
        return self.sending in (STOPPED, GIVEN_UP)

    @property
    def finished(self) -> bool:
        """Both directions are over: the last piece of ours is in a packet, and the peer's is here."""
        return self.sending == ENDED and self.receiving == RECEIVED

    def next_piece(self, room: int) -> Piece:
        """At most ``room`` bytes off the queue, or of what was lost. Call it while something of either is there."""
        if self.lost:
            offset, data, end = self.lost.popleft()
            if len(data) <= room:
                return offset, data, end
            self.lost.appendleft((offset + room, data[room:], end))
            return offset, data[:room], False
        offset = self.sent
        pieces = self.take(room)
        data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        return offset, data, self.sending == ENDED

    def relieved(self) -> bool:
        """Whether ``on_writable`` is due now: a write answered False and little is left. Asked once each time."""
        if self.waiting and self.queued < LOW_WATER_BYTES:
            self.waiting = False
            return True
        return False

    def deliver(self) -> None:
        """Tell the receiver, which is there, what has arrived."""
        if self.incoming:
            incoming, self.incoming = self.incoming, []
            data = incoming[0] if len(incoming) == 1 else b"".join(incoming)
            if self.window is not None:
                self.window.receive(len(data))
            if self.receiving == RECEIVING:
                self.receiver.on_data(memoryview(data))  # type: ignore[union-attr]  # it is started
        if self.carrier.closed:
            return
        if self.receiving != RECEIVED:
            if self.assembly.complete:
                self.end_received()
            elif self.reset_code is not None:
                self.reset_received(self.reset_code)
        if self.told_stop is not None and not self.carrier.closed:
            code, self.told_stop = self.told_stop, None
            self.stop_received(code)


class Line:
    """Whose turn it is: control first, then urgent, normal and bulk sharing 16:4:1, each class in a round.

    The shares are kept with one virtual clock per class, which advances by bytes sent divided by the weight; the class
    whose clock is behind has its turn. One that comes back from idleness begins at the clock of the others.
    """

    __slots__ = ("_clocks", "_queues")

    def __init__(self) -> None:
        self._queues: tuple[deque[SimSubstream], ...] = tuple(deque() for _ in Priority)
        self._clocks = [0.0 for _ in Priority]

    def __bool__(self) -> bool:
        return any(self._queues)

    def add(self, stream: SimSubstream) -> None:
        """Let ``stream`` have turns; a no-op while it already has."""
        if stream.queueing:
            return
        stream.queueing = True
        priority = stream.priority
        queue = self._queues[priority]
        if not queue and priority:
            others = [self._clocks[other] for other in (1, 2, 3) if self._queues[other]]
            if others:
                self._clocks[priority] = max(self._clocks[priority], min(others))
        queue.append(stream)

    def remove(self, stream: SimSubstream) -> None:
        """Let ``stream`` have no more turns."""
        if stream.queueing:
            stream.queueing = False
            self._queues[stream.priority].remove(stream)

    def peek(self) -> SimSubstream | None:
        """Whose turn it is, or None."""
        queues = self._queues
        if queues[0]:
            return queues[0][0]
        clocks, best = self._clocks, 0
        for priority in (1, 2, 3):
            if queues[priority] and (not best or clocks[priority] < clocks[best]):
                best = priority
        return queues[best][0] if best else None

    def served(self, stream: SimSubstream, size: int) -> None:
        """``stream``, whose turn it was, has sent ``size`` bytes: to the end of its class, or out of the line."""
        priority = stream.priority
        queue = self._queues[priority]
        if priority:
            self._clocks[priority] += size / WEIGHTS[priority]
        if stream.ready or stream.lost:
            if len(queue) > 1:
                queue.rotate(-1)
        else:
            queue.popleft()
            stream.queueing = False

    def clear(self) -> None:
        """Let nobody have turns."""
        for queue in self._queues:
            for stream in queue:
                stream.queueing = False
            queue.clear()


def own(stream: CarriedSubstream) -> Any:
    """``stream`` itself: what a connection carries is of the class that it makes; the interface cannot say so."""
    return stream
