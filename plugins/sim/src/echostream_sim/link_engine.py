"""One end of a connection without its loop: packets in, packets out, time an argument.

The connection feeds ``receive`` and delivers what stands in ``changed``, ``datagrams_received`` and ``farewell``; it
calls ``transmit`` once per turn and ``timed_out`` at the ``deadline``. Nothing here calls the session back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from echostream_core.errors import LocalProtocolError, ResourceClosed
from echostream_core.types import Priority
from echostream_core.wire.credit import ReceiveWindow, WindowBudget
from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue
from echostream_core.wire.substream import RECEIVING, UNOPENED, CarriedSubstream
from echostream_sim import link_frames as wire
from echostream_sim.link_received import ReceivedNumbers
from echostream_sim.link_recovery import SLACK_S, Frame, Recovery
from echostream_sim.link_substream import Line, SimSubstream, own
from echostream_sim.options import SimOptions

__all__ = ["Engine"]

MAX_PACKETS_PER_TURN: Final = 64
"""How many packets one turn may build; then it looks at what has arrived."""
ACKNOWLEDGE_EVERY: Final = 2
"""Packets after which an acknowledgement goes out; a single one waits a little for company."""
LEAST_ROOM_BYTES: Final = 64
"""A packet with less room than this is full: smaller pieces cost more than they carry."""

_PING: Final = bytes((wire.PING,))
_DATA_HEAD_BYTES: Final = wire.DATA_HEAD.size


class Engine:
    """The carrier of one connection's substreams. ``wake_up`` asks for a turn: there is something to send."""

    def __init__(
        self,
        number: int,
        options: SimOptions,
        *,
        dials: bool,
        peer_max_streams: int,
        wake_up: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.number = number
        self.options = options
        self.dials = dials
        self.closed = False
        """Over: nothing is sent or delivered any more."""
        self.on_bulk: Callable[[], None] = _nothing  # the turn comes soon enough
        self.recovery = Recovery(options.packet_bytes)
        self.received = ReceivedNumbers()
        self.live: dict[int, SimSubstream] = {}
        self.control: SimSubstream | None = None
        self.line = Line()
        self.datagrams = DatagramQueue(options.max_queued_datagrams, clock, DatagramDrops())
        """To be sent."""
        self.writable: list[SimSubstream] = []
        """Whose ``on_writable`` is due."""
        self.unacknowledged = 0
        """Packets that arrived and want an acknowledgement."""
        self.acknowledge_at: float | None = None
        self.largest_at = 0.0
        """When the packet with the highest number came."""
        self.accepted = 0
        """Substreams of the peer's that are open."""
        self.peer_opened = 0
        """Substreams that the peer has opened so far, the control substream aside."""
        self.farewell_sent = False
        self.ping_due = dials
        """Ask for an acknowledgement: the dialer's first packet says that it has heard the listener."""
        self._farewell: tuple[int, bytes] | None = None
        self._farewell_due = False
        self._wake_up = wake_up
        self._budget = WindowBudget(options.session_window_bytes)
        self._next_number = 2 if dials else 1  # 0 is the control substream's
        self._opened = 0
        self._may_open = peer_max_streams
        self._unopened: dict[SimSubstream, None] = {}  # with something to send, but beyond what the peer allows
        self.peer_may_open = options.max_streams
        self._peer_told = options.max_streams  # of that
        self._orders: deque[tuple[int, int, int]] = deque()  # RESET and STOP: type, substream, code
        self._credits: deque[SimSubstream] = deque()
        self._datagrams_turn = True

    # What the connection does

    def open(self, priority: Priority) -> SimSubstream:
        """A new substream of ours; it gets its number with its first bytes."""
        if priority is not Priority.CONTROL:
            return SimSubstream(self, UNOPENED, priority, self.new_window())
        if not self.dials or self.control is not None:
            raise LocalProtocolError("the dialer opens the control substream, once")
        self.control = SimSubstream(self, UNOPENED, priority, None)
        return self.control

    def new_window(self) -> ReceiveWindow:
        """The credit that we give for a new substream."""
        return ReceiveWindow(self._budget, self.options.max_window_bytes)

    def say_farewell(self, code: int, reason: str) -> None:
        """Send what the control substream has queued, then CLOSE, and nothing else."""
        self._farewell = code & 0xFFFF_FFFF, reason.encode()[: wire.MAX_REASON_BYTES].decode(errors="ignore").encode()
        self._farewell_due = True
        self._drop(but=self.control)

    def shut(self) -> None:
        """Forget everything."""
        self.closed = True
        self._drop(but=None)
        self.live.clear()
        self.recovery.sent.clear()
        self.acknowledge_at = None

    def _drop(self, *, but: SimSubstream | None) -> None:
        keep = but is not None and but.queueing
        for stream in (*self.live.values(), *self._unopened):
            if stream is not but:
                stream.drop_queue()
                stream.lost.clear()
                stream.ready = False
        self.line.clear()
        if but is not None and keep:
            self.line.add(but)
        self._unopened.clear()
        self._orders.clear()
        self._credits.clear()
        self.datagrams.close()
        self.writable.clear()

    # What substreams call: the carrier's part

    def wake(self, stream: CarriedSubstream) -> None:
        """Put ``stream`` in line if it has something that may be sent."""
        if self.closed or (self._farewell is not None and stream is not self.control):
            stream.drop_queue()
        elif stream.sendable():
            stream.ready = True
            self.line.add(own(stream))
            self._wake_up()

    def leave_line(self, stream: CarriedSubstream) -> None:
        """``stream`` has nothing to send after all, not even again."""
        mine = own(stream)
        mine.ready = False
        mine.lost.clear()
        self.line.remove(mine)
        self._unopened.pop(mine, None)

    def queue_credit(self, stream: CarriedSubstream) -> None:
        """Tell the peer the newest limit of ``stream``."""
        if not self.closed:
            stream.credit_due = True
            self._credits.append(own(stream))
            self._wake_up()

    def queue_reset(self, stream: CarriedSubstream, code: int) -> None:
        """Tell the peer that we gave up our direction."""
        self._order(wire.RESET, stream.id, code)

    def queue_stop(self, stream: CarriedSubstream, code: int) -> None:
        """Tell the peer that we read no more."""
        self._order(wire.STOP, stream.id, code)

    def change_priority(self, stream: CarriedSubstream, priority: Priority) -> None:
        """Move ``stream`` to another class."""
        mine = own(stream)
        queueing = mine.queueing
        self.line.remove(mine)
        mine.priority = priority
        if queueing:
            self.line.add(mine)

    def forget(self, stream: CarriedSubstream) -> None:
        """Both directions are finished; the peer may open another in its place."""
        if self.live.pop(stream.id, None) is None or stream.window is None:
            return
        stream.window.close()
        if stream.id & 1 == self.dials:
            self.accepted -= 1
            self.peer_may_open += 1
            if self._allowance_due():
                self._wake_up()

    def _order(self, kind: int, number: int, code: int) -> None:
        if not self.closed and self._farewell is None:
            self._orders.append((kind, number, code & 0xFFFF_FFFF))
            self._wake_up()

    def _allowance_due(self) -> bool:
        """The peer may open more than it knows, and has few left of those it knows of."""
        return (
            self.peer_may_open > self._peer_told and self._peer_told - self.peer_opened <= self.options.max_streams // 2
        )

    # What arrives

    def allowance_received(self, count: int) -> None:
        """The peer lets us open ``count`` substreams in all."""
        if count > self._may_open:
            self._may_open = count
            for stream in self._unopened:
                self.line.add(stream)
            self._unopened.clear()

    def acknowledged(self, ranges: Sequence[tuple[int, int]], delay_s: float, now: float) -> None:
        """The peer has acknowledged these of our packets."""
        if ranges[0][1] > self.recovery.next_number:
            raise ValueError("the peer acknowledges a packet that was never sent")
        _, lost = self.recovery.acknowledged(ranges, delay_s, now)
        for packet in lost:
            self._send_again(packet.frames)

    def _send_again(self, frames: Sequence[Frame]) -> None:
        """Packets were lost: queue what they carried, as far as it still matters."""
        if self.closed:
            return
        for frame in frames:
            kind = frame[0]
            if kind == wire.DATA:
                stream: SimSubstream = frame[1]  # type: ignore[assignment]  # that is what stands there
                if not stream.over and (self._farewell is None or stream is self.control):
                    stream.lost.append(frame[2])  # type: ignore[arg-type]  # a piece
                    self.line.add(stream)
            elif kind == wire.CLOSE:
                self._farewell_due = True
            elif self._farewell is not None or kind == wire.PING:
                continue
            elif kind == wire.CREDIT:
                stream = frame[1]  # type: ignore[assignment]  # that is what stands there
                if not stream.credit_due and stream.receiving == RECEIVING:
                    stream.credit_due = True
                    self._credits.append(stream)
            elif kind == wire.MAX_STREAMS:
                self._peer_told = min(self._peer_told, self.peer_opened)
            else:
                self._orders.append(frame)  # type: ignore[arg-type]  # an order

    # Time

    @property
    def deadline(self) -> float | None:
        """When ``timed_out`` is to be called; None: nothing is awaited."""
        at = self.recovery.deadline
        wait = self.acknowledge_at
        return wait if at is None or (wait is not None and wait < at) else at

    def timed_out(self, now: float) -> None:
        """The deadline may have passed. A ``transmit`` follows."""
        at = self.recovery.deadline
        if at is not None and at <= now + SLACK_S:
            for packet in self.recovery.timed_out(now):
                frames, packet.frames = packet.frames, ()
                self._send_again(frames)

    # What is sent

    @property
    def waiting(self) -> bool:
        """Something could be sent, if the window has room."""
        return bool(
            self.line
            or self.datagrams.waiting
            or self._orders
            or self._credits
            or self._farewell_due
            or self.ping_due
            or self._allowance_due()
        )

    def transmit(self, now: float) -> list[bytes]:
        """The packets that may go now."""
        packets: list[bytes] = []
        if self.closed:
            return packets
        recovery = self.recovery
        room_bytes = self.options.packet_bytes - wire.HEADER_BYTES
        bare = False  # no acknowledgement that is not pressing: the next datagram needs the whole packet
        while len(packets) < MAX_PACKETS_PER_TURN:
            at = self.acknowledge_at
            pressing = self.unacknowledged >= ACKNOWLEDGE_EVERY or (at is not None and at <= now + SLACK_S)
            pieces: list[bytes] = [b""]
            frames: list[Frame] = []
            room = room_bytes
            if self.unacknowledged and (pressing or recovery.probes or self.waiting) and not bare:
                pieces.append(wire.encode_ack(now - self.largest_at, self.received.ranges, room >> 1))
                room -= len(pieces[1])
            heads = len(pieces)
            if (self.waiting or recovery.probes) and recovery.may_send(now):
                self._fill(pieces, frames, room)
                if recovery.probes and len(pieces) == heads:
                    pieces.append(_PING)  # a probe asks for an answer whatever it carries
            eliciting = len(pieces) > heads
            if not eliciting and not pressing:
                if bare or not self.datagrams.waiting or heads == 1:
                    break
                bare = True
                continue
            if heads > 1:
                self.unacknowledged = 0
                self.acknowledge_at = None
            number = recovery.next_number
            pieces[0] = wire.HEADER.pack(wire.PACKET, self.number, number, recovery.settled)
            packet = b"".join(pieces)
            packets.append(packet)
            if eliciting:
                recovery.note_sent(len(packet), frames, now)
            else:
                recovery.next_number = number + 1
        return packets

    def _fill(self, pieces: list[bytes], frames: list[Frame], room: int) -> None:
        """Fill one packet of ``room`` bytes with what is most urgent."""
        if self.ping_due:
            self.ping_due = False
            pieces.append(_PING)
            frames.append((wire.PING,))
            room -= 1
        if self._orders or self._credits or self._allowance_due():
            room = self._fill_orders(pieces, frames, room)
        line = self.line
        if self.datagrams.waiting:
            turn = line.peek()
            # With other substreams waiting, every second packet is theirs: datagrams do not starve them.
            if turn is None or (turn.priority and self._datagrams_turn):
                room = self._fill_datagrams(pieces, room)
            self._datagrams_turn = not self._datagrams_turn
        while room >= LEAST_ROOM_BYTES:
            stream = line.peek()
            if stream is None:
                break
            if stream.id == UNOPENED and not self._open(stream):
                line.remove(stream)
                self._unopened[stream] = None
                continue
            piece = offset, data, end = stream.next_piece(room - _DATA_HEAD_BYTES)
            size = len(data)
            pieces.append(wire.DATA_HEAD.pack(wire.DATA_END if end else wire.DATA, stream.id, offset, size))
            pieces.append(data)
            frames.append((wire.DATA, stream, piece))
            room -= _DATA_HEAD_BYTES + size
            line.served(stream, size)
            if stream.finished:
                self.forget(stream)
            if stream.relieved():
                self.writable.append(stream)
        if self._farewell_due and self._farewell is not None and not line:
            code, reason = self._farewell
            piece_bytes = wire.CLOSE_HEAD.pack(wire.CLOSE, code, self._control_sent(), len(reason)) + reason
            if len(piece_bytes) <= room:
                self._farewell_due = False
                self.farewell_sent = True
                pieces.append(piece_bytes)
                frames.append((wire.CLOSE,))

    def _fill_orders(self, pieces: list[bytes], frames: list[Frame], room: int) -> int:
        """Add RESET, STOP, credit and allowances while they fit; what is left of ``room``."""
        while self._orders and room >= wire.ORDER_BODY.size:
            order = self._orders.popleft()
            pieces.append(wire.ORDER_BODY.pack(*order))
            frames.append(order)
            room -= wire.ORDER_BODY.size
        while self._credits and room >= wire.CREDIT_BODY.size:
            stream = self._credits.popleft()
            stream.credit_due = False
            if stream.receiving != RECEIVING or stream.window is None:
                continue
            pieces.append(wire.CREDIT_BODY.pack(wire.CREDIT, stream.id, stream.window.limit))
            frames.append((wire.CREDIT, stream))
            room -= wire.CREDIT_BODY.size
        if room >= wire.MAX_STREAMS_BODY.size and self._allowance_due():
            self._peer_told = self.peer_may_open
            pieces.append(wire.MAX_STREAMS_BODY.pack(wire.MAX_STREAMS, self.peer_may_open))
            frames.append((wire.MAX_STREAMS,))
            room -= wire.MAX_STREAMS_BODY.size
        return room

    def _fill_datagrams(self, pieces: list[bytes], room: int) -> int:
        """Add datagrams while they fit, but for those that have waited too long; what is left of ``room``."""
        waiting = self.datagrams
        while (data := waiting.peek()) is not None and len(data) + wire.DATAGRAM_HEAD.size <= room:
            pieces.append(wire.DATAGRAM_HEAD.pack(wire.DATAGRAM, len(data)))
            pieces.append(data)
            room -= wire.DATAGRAM_HEAD.size + len(data)
            waiting.pop()
        return room

    def _control_sent(self) -> int:
        return 0 if self.control is None else self.control.sent

    def _open(self, stream: SimSubstream) -> bool:
        """Give ``stream`` its number; False when the peer allows no more."""
        if stream.priority:
            if self._opened >= self._may_open:
                return False
            self._opened += 1
            stream.id = self._next_number
            self._next_number += 2
        else:
            stream.id = 0
        self.live[stream.id] = stream
        if stream.stop_due is not None:
            self._orders.append((wire.STOP, stream.id, stream.stop_due & 0xFFFF_FFFF))
        return True

    def check_open(self) -> None:
        """Raise ResourceClosed after the end."""
        if self.closed or self._farewell is not None:
            raise ResourceClosed("the connection is closed")


def _nothing() -> None:
    pass
