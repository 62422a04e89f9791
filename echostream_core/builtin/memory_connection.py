"""The two ends of one in-process connection.

Each end carries its own substreams (:class:`~echostream_core.wire.substream.Carrier`): what they want to
send stands in line until the end's next turn, which moves it straight into the twin substream at the other
end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from logging import getLogger
from typing import TYPE_CHECKING, Final

from echostream_core.capabilities import Capabilities
from echostream_core.errors import (
    CloseCode,
    ConnectionLost,
    EchoStreamError,
    LimitExceeded,
    LocalProtocolError,
    ResourceClosed,
)
from echostream_core.transport import Connection, ConnectionReceiver, Substream
from echostream_core.types import Buffer, Priority
from echostream_core.wire.closing import closed_by_peer
from echostream_core.wire.credit import ReceiveWindow, WindowBudget
from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue
from echostream_core.wire.substream import (
    ENDED,
    LOW_WATER_BYTES,
    RECEIVED,
    RECEIVING,
    UNLIMITED,
    UNOPENED,
    CarriedSubstream,
    is_small,
)

if TYPE_CHECKING:
    from echostream_core.builtin.memory import MemoryOptions

__all__ = ["CAPABILITIES", "MAX_DATAGRAM_BYTES", "MemoryConnection", "MemorySubstream", "connect_pair"]

CAPABILITIES: Final = Capabilities(
    streams="native",
    datagrams="native",
    reset=True,
    half_close=True,
    flow_control=True,
    encrypted=True,
    in_process=True,
)

MAX_DATAGRAM_BYTES: Final = 16_384
"""Generous beside a network's 1,200, and small enough that a full queue of them is no burden."""

_log = getLogger("echostream.transport")


class MemorySubstream(CarriedSubstream, Substream):
    """A substream of a :class:`MemoryConnection`; ``twin`` is the same one at the other end."""

    __slots__ = ("twin",)

    def __init__(
        self, carrier: MemoryConnection, number: int, priority: Priority, window: ReceiveWindow | None
    ) -> None:
        super().__init__(carrier, number, priority, window)
        self.twin: MemorySubstream | None = None


class MemoryConnection(Connection):
    """One end. ``peer`` is the other; it is set once both exist."""

    peer: MemoryConnection

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        local_address: str,
        peer_address: str,
        options: MemoryOptions,
        *,
        dials: bool,
    ) -> None:
        self.capabilities = CAPABILITIES
        self.local_address = local_address
        self.peer_address = peer_address
        self.closed = False
        """Ended, by either side: nothing is sent or delivered any more but ``on_closed``."""
        self.datagram_drops = DatagramDrops()
        self.on_bulk: Callable[[], None] = _nothing  # the next turn is soon enough: there is no pipe to fill
        self._loop = loop
        self._context: Context | None = None  # of our receiver; callbacks run there, not in the writer's
        self._options = options
        self._dials = dials
        self._receiver: ConnectionReceiver | None = None
        self._error: EchoStreamError | None = None
        self._reported = False
        self._scheduled = False
        self._budget = WindowBudget(options.session_window_bytes)
        self._control: MemorySubstream | None = None
        self._live: set[CarriedSubstream] = set()
        self._accepted: set[CarriedSubstream] = set()  # those of the live ones that the peer opened
        self._orders: list[tuple[Callable[[int], None], int]] = []  # resets and stops, calls at the peer
        self._line: dict[CarriedSubstream, None] = {}
        self._unopened: dict[CarriedSubstream, None] = {}  # in line, but beyond the peer's max_streams
        self._writable: list[CarriedSubstream] = []
        self._datagrams = DatagramQueue(options.max_queued_datagrams, loop.time, self.datagram_drops)
        self._last: list[Buffer] = []  # of the control substream, when we close
        self._farewell: EchoStreamError | None = None  # what the peer is told when we close

    # The contract's Connection.

    def start(self, receiver: ConnectionReceiver) -> None:
        """Begin delivery; what the peer has sent so far arrives on the next turn."""
        self._receiver = receiver
        self._context = copy_context()
        if self.closed:
            self._loop.call_soon(self._report)
        self.peer._schedule()

    def open_substream(self, priority: Priority = Priority.NORMAL) -> MemorySubstream:
        """A new substream; the peer learns of it with the first bytes."""
        if self.closed:
            raise ResourceClosed(f"{self.peer_address}: the connection is closed")
        if priority is not Priority.CONTROL:
            return MemorySubstream(self, UNOPENED, priority, self._new_window())
        if not self._dials or self._control is not None:
            raise LocalProtocolError("the dialer opens the control substream, once")
        self._control = stream = MemorySubstream(self, UNOPENED, priority, None)
        return stream

    def close(self, code: int, reason: str) -> None:
        """Hand over the control substream's queue, tell the peer, and end."""
        if not self.closed:
            if self._control is not None and self._control.ready:
                self._last = self._control.take(UNLIMITED)
            self._end(closed_by_peer(self.local_address, code, reason))

    def abort(self) -> None:
        """End at once; the peer sees a lost connection."""
        if not self.closed:
            self._end(ConnectionLost(f"{self.local_address}: the connection was aborted by the peer"))

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Queue one datagram for the next turn; False when an older one was dropped to take it."""
        datagram = b"".join(data)
        if len(datagram) > MAX_DATAGRAM_BYTES:
            raise LimitExceeded(
                f"a datagram of {len(datagram)} bytes: at most {MAX_DATAGRAM_BYTES} are possible here",
                limit="max_datagram_size",
                value=len(datagram),
                maximum=MAX_DATAGRAM_BYTES,
            )
        if self.closed:
            self._datagrams.drops.closed += 1
            return True
        kept = self._datagrams.put(datagram, expires_at)
        self._schedule()
        return kept

    def max_datagram_size(self) -> int:
        """Always the same here."""
        return MAX_DATAGRAM_BYTES

    # What substreams call: the carrier's part.

    def wake(self, stream: CarriedSubstream) -> None:
        """Put ``stream`` in line if it has something that may be sent."""
        if self.closed:
            stream.drop_queue()
        elif stream.sendable():
            stream.ready = True
            self._line[stream] = None
            self._schedule()

    def leave_line(self, stream: CarriedSubstream) -> None:
        """``stream`` has nothing to send after all."""
        stream.ready = False
        self._line.pop(stream, None)
        self._unopened.pop(stream, None)

    def queue_credit(self, stream: CarriedSubstream) -> None:
        """Credit needs no turn of its own: it calls nobody back, it only puts the twin in line."""
        if stream.window is not None and not self.closed:
            _twin(stream).credit_received(stream.window.limit)

    def queue_reset(self, stream: CarriedSubstream, code: int) -> None:
        """Tell the twin that we gave up our direction."""
        self._orders.append((_twin(stream).reset_received, code))
        self._schedule()

    def queue_stop(self, stream: CarriedSubstream, code: int) -> None:
        """Tell the twin that we read no more."""
        self._orders.append((_twin(stream).stop_received, code))
        self._schedule()

    def change_priority(self, stream: CarriedSubstream, priority: Priority) -> None:
        """Note it; nothing overtakes anything here."""
        stream.priority = priority

    def forget(self, stream: CarriedSubstream) -> None:
        """Both directions are finished; one that the peer has waiting may be opened now."""
        self._live.discard(stream)
        if stream.window is not None:
            stream.window.close()
        if stream in self._accepted:
            self._accepted.remove(stream)
            self.peer._open_waiting()

    # Our own parts.

    def _new_window(self) -> ReceiveWindow:
        return ReceiveWindow(self._budget, self._options.max_window_bytes)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn, context=self.peer._context)

    def _turn(self) -> None:
        """Move everything to the other end, in the other end's context."""
        self._scheduled = False
        peer = self.peer
        if peer.closed or peer._receiver is None:  # its start schedules us again
            return
        try:
            self._deliver(peer, peer._receiver)
        except Exception as error:
            _log.exception("%s: a callback of the session failed", peer.local_address)
            peer._error = ConnectionLost(f"{peer.peer_address}: closed because a callback failed: {error!r}")
            peer._error.__cause__ = error
            peer.close(CloseCode.INTERNAL, "internal error")

    def _deliver(self, peer: MemoryConnection, receiver: ConnectionReceiver) -> None:
        if self._farewell is not None:
            control = self._control
            if control is not None and self._last and (control.id != UNOPENED or self._open(control)):
                self._hand_over(control, self._last)
            peer._lose(self._farewell)
            return
        orders, self._orders = self._orders, []
        for call, code in orders:
            call(code)
            if peer.closed:
                return
        line, self._line = self._line, {}
        control = self._control
        if control in line and control is not None:
            self._move(control)
        for stream in line:
            if peer.closed:
                return
            if stream.ready:
                self._move(stream)
        datagrams = self._datagrams
        for _ in range(len(datagrams.waiting)):  # those that a callback sends wait for the next turn
            datagram = datagrams.peek()
            if datagram is None or peer.closed:
                return
            datagrams.pop()
            receiver.on_datagram(memoryview(datagram))

    def _move(self, stream: CarriedSubstream) -> None:
        """What ``stream`` has credit for, and its end, to its twin."""
        if stream.id == UNOPENED and not self._open(stream):
            return
        pieces = stream.take(UNLIMITED)
        ended = stream.sending == ENDED
        if ended and stream.receiving == RECEIVED:
            self.forget(stream)
        if pieces:
            self._hand_over(stream, pieces)
        if ended and not self.peer.closed:
            _twin(stream).end_received()
        if stream.waiting and stream.queued < LOW_WATER_BYTES:
            stream.waiting = False
            if not self._writable:
                self._loop.call_soon(self._tell_writable, context=self._context)
            self._writable.append(stream)

    def _hand_over(self, stream: CarriedSubstream, pieces: list[Buffer]) -> None:
        peer = self.peer
        twin = _twin(stream)
        size = sum(map(len, pieces))
        if twin.window is not None and size:
            twin.window.receive(size)
        if len(pieces) > 1 and is_small(pieces, size):
            pieces = [b"".join(pieces)]
        for piece in pieces:
            if twin.receiving != RECEIVING or peer.closed:
                return
            if piece:
                twin.receiver.on_data(memoryview(piece).toreadonly())  # type: ignore[union-attr]  # it is started

    def _open(self, stream: CarriedSubstream) -> bool:
        """Make the twin; False when the peer has as many as it allows."""
        peer = self.peer
        if stream.window is not None and len(peer._accepted) >= peer._options.max_streams:
            self._unopened[stream] = None
            return False
        window = None if stream.window is None else peer._new_window()
        twin = MemorySubstream(peer, 0, stream.priority if window is None else Priority.NORMAL, window)
        stream.id = 0
        stream.twin = twin  # type: ignore[attr-defined]  # ours are of that class
        twin.twin = stream  # type: ignore[assignment]
        self._live.add(stream)
        peer._live.add(twin)
        if window is None:
            peer._control = twin
        else:
            peer._accepted.add(twin)
        if stream.stop_due is not None:
            self.queue_stop(stream, stream.stop_due)
        twin.receiver = peer._receiver.on_substream(twin)  # type: ignore[union-attr]  # it is started
        return True

    def _open_waiting(self) -> None:
        if self._unopened:
            stream = next(iter(self._unopened))
            del self._unopened[stream]
            self._line[stream] = None
            self._schedule()

    def _tell_writable(self) -> None:
        writable, self._writable = self._writable, []
        for stream in writable:
            if self.closed:
                return
            stream.receiver.on_writable()  # type: ignore[union-attr]  # it has sent, so it is started

    def _end(self, farewell: EchoStreamError) -> None:
        """We end the connection; the peer is told on the next turn, and so are we."""
        self._shut()
        self._farewell = farewell
        self._schedule()
        self._loop.call_soon(self._report, context=self._context)

    def _lose(self, error: EchoStreamError) -> None:
        """The peer has ended the connection."""
        self._shut()
        self._error = error
        self._report()

    def _shut(self) -> None:
        self.closed = True
        for stream in (*self._live, *self._line, *self._unopened):
            stream.drop_queue()
            stream.ready = False
        self._live.clear()
        self._accepted.clear()
        self._line.clear()
        self._unopened.clear()
        self._orders.clear()
        self._datagrams.close()

    def _report(self) -> None:
        if self._receiver is not None and not self._reported:
            self._reported = True
            self._receiver.on_closed(self._error)


def connect_pair(
    loop: asyncio.AbstractEventLoop,
    dialer_address: str,
    listener_address: str,
    dialer_options: MemoryOptions,
    listener_options: MemoryOptions,
) -> tuple[MemoryConnection, MemoryConnection]:
    """Two connected ends: the dialer's, the listener's."""
    dialer = MemoryConnection(loop, dialer_address, listener_address, dialer_options, dials=True)
    accepted = MemoryConnection(loop, listener_address, dialer_address, listener_options, dials=False)
    dialer.peer = accepted
    accepted.peer = dialer
    return dialer, accepted


def _twin(stream: CarriedSubstream) -> MemorySubstream:
    """The other end of a substream that is open."""
    return stream.twin  # type: ignore[attr-defined, no-any-return]  # ours are of that class


def _nothing() -> None:
    pass
