"""The mux's sending half: what waits, and what goes next.

Order: CREDIT, RESET and STOP first, then the control substream, then the other substreams in three classes
that share the rest 16:4:1 by deficit round robin, and round robin within a class. Fragments are small while
others wait, so that an urgent substream that wakes up waits for one fragment and not for a file. Nothing is
copied but small buffers, which are joined with their header.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Generic, Protocol, TypeVar

from echostream_core.errors import LocalProtocolError, ResourceClosed
from echostream_core.types import Buffer, Priority
from echostream_core.wire.credit import ReceiveWindow, WindowBudget
from echostream_core.wire.datagrams import DatagramQueue
from echostream_core.wire.limits import MAX_MUX_DATAGRAM_BYTES, MAX_MUX_FRAME_BYTES, Limits
from echostream_core.wire.mux_frames import (
    DATA,
    END,
    HEADER,
    OPEN,
    Role,
    encode_close,
    encode_credit,
    encode_reset,
    encode_stop,
)
from echostream_core.wire.substream import (
    ENDED,
    LOW_WATER_BYTES,
    RECEIVED,
    RECEIVING,
    UNOPENED,
    CarriedSubstream,
    StreamReceiver,
    is_small,
)

__all__ = ["AHEAD_BYTES", "MuxSender", "MuxSink", "StreamT"]

AHEAD_BYTES: Final = 65_536
"""What ``next_buffers`` gives by default: what the pipe holds can no longer be overtaken."""

_SHARED_FRAGMENT_BYTES: Final = 16_384
"""Largest fragment while another substream of the same or a higher class waits."""

_QUANTA: Final = (65_536, 16_384, 4_096)
"""Bytes per round of urgent, normal and bulk. Small, so that a class that wakes up waits for little."""

_CLASSES: Final = 3
_FRAME_HEAD_BYTES: Final = 8
_MAX_NUMBER: Final = 0xFFFF_FFF0
_DATAGRAM_TURN_BYTES: Final = MAX_MUX_DATAGRAM_BYTES + _FRAME_HEAD_BYTES
_DATA: Final = DATA << 24
_OPEN: Final = OPEN << 24
_END: Final = END << 24

StreamT = TypeVar("StreamT", bound=CarriedSubstream)
_StreamT_contra = TypeVar("_StreamT_contra", bound=CarriedSubstream, contravariant=True)


class MuxSink(Protocol[_StreamT_contra]):
    """What the mux calls on whoever drives it.

    The first two come inside calls of the user, who must not be called back from there.
    """

    def on_output(self) -> None:
        """There is something for ``next_buffers`` to give; not repeated until it has given everything."""

    def on_bulk_output(self) -> None:
        """A large write wants to go out now, unjoined, rather than at the end of the turn."""

    def on_open(self, stream: _StreamT_contra, /) -> StreamReceiver:
        """The peer opened ``stream``; the answer receives its callbacks."""

    def on_datagram(self, data: memoryview, /) -> None:
        """A datagram arrived, whole; valid during the call. Only where ``datagrams`` is set."""

    def on_close(self, code: int, reason: str, /) -> None:
        """The peer closed the connection; nothing comes after this."""


class MuxSender(Generic[StreamT]):
    """Queues of all substreams and the choice between them; the class ``Mux`` adds the receiving half."""

    # Beyond thirty attributes an instance has a dictionary of its own: 1.6 KiB more for each connection.
    __slots__ = (
        "_budget",
        "_credits",
        "_deficits",
        "_lines",
        "_next_local",
        "_orders",
        "_peer_live",
        "_peer_parity",
        "_ready_count",
        "_stream_class",
        "_turn",
        "closed",
        "control",
        "datagrams",
        "limits",
        "live",
        "on_bulk",
        "pending",
        "role",
        "sends_datagrams",
        "sink",
        "writable",
    )

    def __init__(self, role: Role, *, limits: Limits, sink: MuxSink[StreamT], stream_class: type[StreamT]) -> None:
        self.role = role
        self.limits = limits
        self.sink = sink
        self.on_bulk = sink.on_bulk_output
        self.pending = False
        """``next_buffers`` has something to give."""
        self.closed = False
        self.control: StreamT | None = None
        """The control substream, as soon as either side has opened it."""
        self.live: dict[int, StreamT] = {}
        """Substreams opened and not yet finished in both directions, by number."""
        self.writable: list[CarriedSubstream] = []
        """Substreams whose writers wait and have room again; see ``take_writable``."""
        self.datagrams: DatagramQueue | None = None
        """Frames of ``encode_datagram`` that wait. Set from the beginning on a side that takes datagrams, else None."""
        self.sends_datagrams = False
        """The peer takes them too: they may go out."""
        self._stream_class = stream_class
        self._next_local = 2 if role == "dialer" else 1  # 0 is the control substream's
        self._peer_parity = 1 if role == "dialer" else 0
        self._peer_live = 0
        self._budget = WindowBudget(limits.session_window_bytes)
        self._orders = bytearray()  # RESET and STOP, encoded
        self._credits: list[CarriedSubstream] = []
        self._lines: tuple[OrderedDict[StreamT, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._ready_count = 0
        self._deficits = [0, 0, 0]
        self._turn = _CLASSES - 1  # the next turn is urgent's

    def open(self, priority: Priority = Priority.NORMAL) -> StreamT:
        """A new substream of ours. The peer learns of it with the first bytes (or the end)."""
        if self.closed:
            raise ResourceClosed("the connection is closed")
        if priority is Priority.CONTROL:
            if self.role != "dialer" or self.control is not None:
                raise LocalProtocolError("the dialer opens the control substream, once")
            self.control = stream = self._stream_class(self, UNOPENED, priority, None)
            return stream
        if self._next_local > _MAX_NUMBER:
            raise ResourceClosed("this connection has no substream numbers left: dial again")
        return self._stream_class(self, UNOPENED, priority, self._new_window())

    def next_buffers(self, max_bytes: int = AHEAD_BYTES) -> list[Buffer]:
        """What the pipe should get next: about ``max_bytes`` of frames; empty when nothing may be sent."""
        out: list[Buffer] = []
        if self._orders or self._credits:
            self._give_orders(out)
        control = self.control
        if control is not None:
            while control.ready and max_bytes > 0:
                max_bytes -= self._give_fragment(control, MAX_MUX_FRAME_BYTES, out)
        datagrams = self.datagrams if self.sends_datagrams else None
        were_ready = self._ready_count
        if datagrams is not None and datagrams.waiting:
            max_bytes = self._give_alternately(datagrams, max_bytes, out)
        if were_ready:
            while self._ready_count and max_bytes > 0:
                max_bytes -= self._give_next(out)
            if not self._ready_count:  # nobody waits: debts are forgotten
                self._deficits = [0, 0, 0]
                self._turn = _CLASSES - 1
        self.pending = bool(
            self._ready_count
            or self._orders
            or self._credits
            or (control is not None and control.ready)
            or (datagrams is not None and datagrams.waiting)
        )
        return out

    def take_writable(self) -> list[CarriedSubstream]:
        """Whose ``on_writable`` the driver should call, outside of any call of theirs."""
        taken, self.writable = self.writable, []
        return taken

    def close(self, code: int, reason: str) -> list[Buffer]:
        """End: what the pipe should still get, which is orders, the control substream's queue and CLOSE."""
        out: list[Buffer] = []
        if self.closed:
            return out
        if self._orders or self._credits:
            self._give_orders(out)
        control = self.control
        while control is not None and control.ready:
            self._give_fragment(control, MAX_MUX_FRAME_BYTES, out)
        out.append(encode_close(code, reason))
        self.shut()
        return out

    def shut(self) -> None:
        """Forget everything: the pipe is gone. Later writes are dropped, later bytes ignored."""
        self.closed = True
        self.pending = False
        for line in self._lines:
            for stream in line:
                _silence(stream)
            line.clear()
        self._ready_count = 0
        if self.control is not None:
            _silence(self.control)
        self._orders.clear()
        self._credits.clear()
        self.writable.clear()
        if self.datagrams is not None:
            self.datagrams.close()
        for stream in self.live.values():
            _silence(stream)
        self.live.clear()

    def send_datagram(self, frame: bytes, expires_at: float | None) -> bool:
        """Queue a frame of ``encode_datagram``, where ``datagrams`` is set; False when an older one was dropped."""
        assert self.datagrams is not None
        kept = self.datagrams.put(frame, expires_at)
        if self.sends_datagrams:
            self._announce()
        return kept

    def begin_datagrams(self) -> None:
        """The peer takes datagrams: what waits may go, and what comes."""
        self.sends_datagrams = True
        if self.datagrams is not None and self.datagrams.waiting:
            self._announce()

    # What substreams call: the carrier's part.

    def wake(self, stream: CarriedSubstream) -> None:
        """Put ``stream``, which is not in line, there if it has something that may be sent."""
        if self.closed:
            stream.drop_queue()
        elif stream.sendable():
            stream.ready = True
            if stream.priority:
                self._lines[stream.priority - 1][_own(stream)] = None
                self._ready_count += 1
            if not self.pending:
                self._announce()

    def leave_line(self, stream: CarriedSubstream) -> None:
        """``stream`` has nothing to send after all."""
        if stream.ready:
            stream.ready = False
            if stream.priority:
                del self._lines[stream.priority - 1][_own(stream)]
                self._ready_count -= 1

    def queue_credit(self, stream: CarriedSubstream) -> None:
        """Tell the peer the new limit of ``stream``: the newest one at the time of sending."""
        if not self.closed:
            stream.credit_due = True
            self._credits.append(stream)
            self._announce()

    def queue_reset(self, stream: CarriedSubstream, code: int) -> None:
        """Tell the peer that we gave up our direction of ``stream``."""
        self._order(encode_reset(stream.id, code))

    def queue_stop(self, stream: CarriedSubstream, code: int) -> None:
        """Tell the peer that we read no more of ``stream``."""
        self._order(encode_stop(stream.id, code))

    def change_priority(self, stream: CarriedSubstream, priority: Priority) -> None:
        """Move ``stream`` to another class."""
        self.leave_line(stream)
        stream.priority = priority
        self.wake(stream)

    def forget(self, stream: CarriedSubstream) -> None:
        """Both directions are finished."""
        if self.live.pop(stream.id, None) is not None and stream.window is not None:
            stream.window.close()
            if stream.id & 1 == self._peer_parity:
                self._peer_live -= 1

    # Our own parts.

    def _new_window(self) -> ReceiveWindow:
        return ReceiveWindow(self._budget, self.limits.max_window_bytes)

    def _announce(self) -> None:
        if not self.pending:
            self.pending = True
            self.sink.on_output()

    def _order(self, frame: bytes) -> None:
        if not self.closed:
            self._orders += frame
            self._announce()

    def _give_orders(self, out: list[Buffer]) -> None:
        frames = [bytes(self._orders)]
        self._orders.clear()
        for stream in self._credits:
            stream.credit_due = False
            if stream.receiving == RECEIVING and stream.window is not None:
                frames.append(encode_credit(stream.id, stream.window.limit))
        self._credits.clear()
        joined = b"".join(frames)
        if joined:
            out.append(joined)

    def _give_alternately(self, datagrams: DatagramQueue, max_bytes: int, out: list[Buffer]) -> int:
        """Datagrams and fragments in turn, so that neither starves, while there are datagrams; what is left."""
        while datagrams.waiting and max_bytes > 0:
            max_bytes -= _give_datagrams(datagrams, out)
            if self._ready_count:
                max_bytes -= self._give_next(out)
        return max_bytes

    def _give_next(self, out: list[Buffer]) -> int:
        """One fragment of the substream whose turn it is; the bytes it takes."""
        lines = self._lines
        alone = self._ready_count == 1
        turn = self._turn
        if alone:
            turn = 0
            while not lines[turn]:
                turn += 1
            datagrams = self.datagrams
            shared = datagrams is not None and datagrams.waiting
            fragment = _SHARED_FRAGMENT_BYTES if shared else MAX_MUX_FRAME_BYTES
        else:
            deficits = self._deficits
            while not lines[turn] or deficits[turn] <= 0:
                turn = turn + 1 if turn < _CLASSES - 1 else 0
                if lines[turn]:
                    deficits[turn] += _QUANTA[turn]
                else:
                    deficits[turn] = min(deficits[turn], 0)
            self._turn = turn
            waiting = len(lines[turn]) > 1 or any(lines[:turn])
            fragment = _SHARED_FRAGMENT_BYTES if waiting else MAX_MUX_FRAME_BYTES
        line = lines[turn]
        stream, _ = line.popitem(last=False)
        size = self._give_fragment(stream, fragment, out)
        if stream.ready:
            line[stream] = None
        else:
            self._ready_count -= 1
        if not alone:
            deficits[turn] -= size
        return size

    def _give_fragment(self, stream: CarriedSubstream, most: int, out: list[Buffer]) -> int:
        """One DATA frame of ``stream``, which is ready; the bytes it takes."""
        head = _DATA
        if stream.id == UNOPENED:
            self._number(stream)
            head = _DATA | _OPEN
        before = stream.sent
        pieces = stream.take(most)
        size = stream.sent - before
        if stream.sending == ENDED:
            head |= _END
            if stream.receiving == RECEIVED:
                self.forget(stream)
        header = HEADER.pack(head | size, stream.id)
        if is_small(pieces, size):
            pieces.insert(0, header)
            out.append(b"".join(pieces))
        else:
            out.append(header)
            out += pieces
        if stream.waiting and stream.queued < LOW_WATER_BYTES:
            stream.waiting = False
            self.writable.append(stream)
        return size + _FRAME_HEAD_BYTES

    def _number(self, stream: CarriedSubstream) -> None:
        if stream.priority:
            stream.id = self._next_local
            self._next_local += 2
        else:
            stream.id = 0
        self.live[stream.id] = _own(stream)
        if stream.stop_due is not None:
            self._orders += encode_stop(stream.id, stream.stop_due)


def _give_datagrams(datagrams: DatagramQueue, out: list[Buffer]) -> int:
    """One turn of datagrams: as many as take no more room than the largest one; the bytes that they take."""
    given = 0
    while (frame := datagrams.peek()) is not None:
        if given and given + len(frame) > _DATAGRAM_TURN_BYTES:
            break
        datagrams.pop()
        out.append(frame)
        given += len(frame)
    return given


def _silence(stream: CarriedSubstream) -> None:
    stream.drop_queue()
    stream.ready = False


def _own(stream: CarriedSubstream) -> Any:
    """A substream of ours is of the class that we make; the carrier's interface cannot say so."""
    return stream
