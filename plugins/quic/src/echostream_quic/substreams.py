"""All substreams of one connection: what has arrived, what is to be sent, and what the peer is to be told about them.

The engine (``_aioquic.py``) feeds this from the packets it opens and asks it to fill the packets it builds.
Nothing here knows about packets, keys or loss; a frame that was lost is brought back by the handler that went
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aioquic.quic.connection import Limit
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStreamReceiver

from echostream_core.types import Priority
from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue
from echostream_quic import frames
from echostream_quic.flow import CONTROL_WINDOW_BYTES, ReceiveWindow, SessionWindow
from echostream_quic.frames import stream_header
from echostream_quic.options import QuicOptions
from echostream_quic.outgoing import LOW_WATER_BYTES, Frame, Outgoing, Scheduler

__all__ = ["Handlers", "SubstreamState", "Substreams"]

Handlers = list[tuple[Callable[..., None], tuple[Any, ...]]]
"""What is to be called, with what, when a packet's fate is known."""

CONTROL_FRAME_BYTES: Final = 25
"""The largest frame of integers: its type and three of eight bytes."""

LEAST_ROOM_BYTES: Final = 64
"""A packet with less room than this is full: smaller pieces cost more than they carry."""

_ACKED: Final = QuicDeliveryState.ACKED


class SubstreamState:
    """One substream inside the engine; it stands where aioquic keeps its ``QuicStream``."""

    __slots__ = (
        "changed",
        "credit_due",
        "ended",
        "incoming",
        "outgoing",
        "receiver",
        "reset_code",
        "stop_code",
        "stopped",
        "stream_id",
        "substream",
        "window",
    )

    def __init__(self, stream_id: int, outgoing: Outgoing, window: ReceiveWindow) -> None:
        self.stream_id = stream_id
        self.outgoing = outgoing
        self.window = window
        self.receiver = QuicStreamReceiver(stream_id=stream_id, readable=True)
        """Puts in order what arrives out of order."""
        self.incoming: list[bytes] = []
        """In order, not yet delivered."""
        self.ended = False
        """The peer's end stands behind ``incoming``."""
        self.reset_code: int | None = None
        """The peer has given up its direction."""
        self.stop_code: int | None = None
        """The peer reads no more."""
        self.stopped = False
        """We read no more."""
        self.changed = False
        """Stands in the list of what is to be delivered."""
        self.credit_due = False
        """Stands in the list of whose credit the peer is to be told."""
        self.substream: Any = None
        """The contract's face of this substream, once it has one."""

    @property
    def max_stream_data_local(self) -> int:
        """What aioquic's handler of RESET_STREAM checks the final size against."""
        return self.window.granted


class Substreams:
    """The table. ``max_data``, ``max_streams`` and ``max_uni_streams`` are what the peer was told and what it used.

    Streams on which only one side sends are in it too, with their other direction done from the start; what they are
    for is their owner's business. ``uni_streams`` is how many of them the peer may have open.
    """

    def __init__(
        self,
        options: QuicOptions,
        *,
        dials: bool,
        max_data: Limit,
        max_streams: Limit,
        max_uni_streams: Limit,
        uni_streams: int = 0,
    ) -> None:
        self.by_id: dict[int, SubstreamState] = {}
        self.scheduler = Scheduler()
        self.session = SessionWindow(
            max_streams=options.max_streams + uni_streams,
            window_bytes=options.window_bytes,
            growth_bytes=options.session_window_bytes,
        )
        self.changed: list[SubstreamState] = []
        """Those with something to deliver, in the order in which it began to arrive."""
        self.relieved: list[SubstreamState] = []
        """Those whose queue has room again after a write that answered False."""
        self.datagrams = DatagramQueue(options.max_queued_datagrams, lambda: 0.0, DatagramDrops())
        """To be sent. The connection, which has a clock, puts its own queue here."""
        self.listening = False
        """Somebody takes what arrives: the peer may use all the windows."""
        self._options = options
        self._dials = dials
        self._max_data = max_data
        self._max_streams = max_streams
        self._max_uni_streams = max_uni_streams
        self._limits_due = False
        self._credit_due: list[SubstreamState] = []
        self._stops_due: list[SubstreamState] = []
        self._resets_due: list[SubstreamState] = []
        self._held_back: list[Outgoing] = []
        self._datagrams_turn = True

    # What the session's side does

    def listen(self) -> None:
        """Somebody takes what arrives from now on."""
        self.listening = self._limits_due = True

    def add(self, stream_id: int, outgoing: Outgoing, now: float) -> SubstreamState:
        """A new substream, opened by either side."""
        options = self._options
        window = ReceiveWindow(self.session, size=options.window_bytes, most=options.max_window_bytes, now=now)
        state = self.by_id[stream_id] = SubstreamState(stream_id, outgoing, window)
        outgoing.number(stream_id)
        if outgoing.priority is Priority.CONTROL:
            window.fix(CONTROL_WINDOW_BYTES)
            self._owe_credit(state)
        if stream_id & 2:  # it has one direction; the other is done
            if bool(stream_id & 1) == self._dials:
                outgoing.end_sent = True
            else:
                state.receiver.is_finished = True
                window.close(0)
        return state

    def make_control(self, state: SubstreamState) -> None:
        """``state`` has turned out to be the control substream: it goes first, and has the control window."""
        self.scheduler.reclass(state.outgoing, Priority.CONTROL)
        state.window.fix(CONTROL_WINDOW_BYTES)
        self._owe_credit(state)

    def ready(self, state: SubstreamState) -> None:
        """Let ``state`` have turns if it has something that may be sent."""
        outgoing = state.outgoing
        if not outgoing.scheduled and outgoing.sendable:
            self.scheduler.add(outgoing)

    def consume(self, state: SubstreamState, size: int, now: float, rtt: float, least_rtt: float) -> bool:
        """Count ``size`` delivered bytes as used; True when there is something to tell the peer."""
        due = state.window.consume(size, now, rtt, least_rtt)
        if state.ended:
            self.forget_if_finished(state)
        elif due:
            self._owe_credit(state)
        if self.listening and self.session.due(self._max_data.sent):
            self._limits_due = True
        return self._limits_due or bool(self._credit_due)

    def reset(self, state: SubstreamState, code: int) -> None:
        """Give up our direction."""
        if state.outgoing.reset(code):
            self._resets_due.append(state)

    def stop(self, state: SubstreamState, code: int) -> None:
        """Read no more: what was not consumed counts as consumed."""
        if state.stopped:
            return
        state.stopped = True
        state.incoming.clear()
        if not state.receiver.is_finished:
            state.receiver.stop(code)
            self._stops_due.append(state)
        state.window.close(state.window.received)
        self.forget_if_finished(state)

    # What arrives

    def arrived(self, state: SubstreamState, data: bytes, *, ended: bool) -> None:
        """The next bytes, in order, and the end if ``ended``."""
        if state.stopped:
            state.window.received += len(data)
            self.session.consumed += len(data)
            if ended:
                self.forget_if_finished(state)
            return
        if data:
            state.window.received += len(data)
            state.incoming.append(data)
        if ended:
            state.ended = True
            self.forget_if_finished(state)  # nothing may be left to consume
        if not state.changed:
            state.changed = True
            self.changed.append(state)

    def reset_arrived(self, state: SubstreamState, code: int, final_size: int) -> None:
        """The peer has given up after ``final_size`` bytes, not all of which may have come."""
        state.reset_code = code
        if state.stopped:
            self.session.consumed += final_size - state.window.received
            state.window.received = final_size
        else:
            state.window.close(final_size)
        self.note_changed(state)
        self.forget_if_finished(state)

    def stop_arrived(self, state: SubstreamState, code: int) -> None:
        """The peer reads no more. Without effect when all was sent already, the end included."""
        outgoing = state.outgoing
        if state.stop_code is None and outgoing.reset_code is None and not (outgoing.end_sent and not outgoing.lost):
            state.stop_code = code
            outgoing.drop()
            self.note_changed(state)

    def credit_arrived(self, state: SubstreamState, credit: int) -> None:
        """The peer lets this substream send up to ``credit`` bytes in all."""
        if credit > state.outgoing.credit:
            state.outgoing.credit = credit
            self.ready(state)

    def session_credit_arrived(self) -> None:
        """The peer lets the connection send more."""
        waiting, self._held_back = self._held_back, []
        for outgoing in waiting:
            if outgoing.sendable:
                self.scheduler.add(outgoing)

    def note_changed(self, state: SubstreamState) -> None:
        """There is something of ``state`` to deliver."""
        if not state.changed:
            state.changed = True
            self.changed.append(state)

    # What goes into packets

    @property
    def waiting(self) -> bool:
        """Something could be sent."""
        return bool(
            self.scheduler
            or self.datagrams.waiting
            or self._limits_due
            or self._credit_due
            or self._stops_due
            or self._resets_due
        )

    def fill(self, pieces: list[bytes], handlers: Handlers, room: int, session_credit: int, *, most: int) -> int:
        """Fill one packet of ``room`` bytes with what is most urgent; how much of ``session_credit`` was used.

        ``most`` is the largest datagram that any packet could carry.
        """
        if self._limits_due or self._credit_due or self._stops_due or self._resets_due:
            room = self._fill_control(pieces, handlers, room)
        scheduler = self.scheduler
        if self.datagrams.waiting:
            turn = scheduler.peek()
            # With other substreams waiting, every second packet is theirs: datagrams do not starve them.
            if turn is None or (turn.priority and self._datagrams_turn):
                room = self._fill_datagrams(pieces, room, most)
            self._datagrams_turn = not self._datagrams_turn
        used = 0
        by_id = self.by_id
        while room > LEAST_ROOM_BYTES:
            outgoing = scheduler.peek()
            if outgoing is None:
                break
            before = outgoing.next_offset
            frame = outgoing.take(room, session_credit - used)
            if frame is None:
                scheduler.park(outgoing)
                if outgoing.sendable:
                    self._held_back.append(outgoing)
                continue
            offset, data, end = frame
            size = len(data)
            used += outgoing.next_offset - before
            head = stream_header(outgoing.id_bytes, offset, size, end)
            pieces.append(head)
            pieces.append(data)
            state = by_id[outgoing.stream_id]
            handlers.append((self._on_frame_delivery, (state, frame)))
            room -= len(head) + size
            scheduler.served(outgoing, size)
            if outgoing.wants_room and outgoing.queued_bytes <= LOW_WATER_BYTES:
                outgoing.wants_room = False
                self.relieved.append(state)
        return used

    def _fill_datagrams(self, pieces: list[bytes], room: int, most: int) -> int:
        """Add datagrams while they fit; what is left of ``room``."""
        waiting = self.datagrams
        while (data := waiting.peek()) is not None:
            size = len(data)
            if size + 3 > room:
                if size <= most:
                    break
                waiting.drops.too_large += 1
            else:
                pieces.append(frames.frame(frames.DATAGRAM, size))
                pieces.append(data)
                room -= size + 3
            waiting.pop()
        return room

    def _fill_control(self, pieces: list[bytes], handlers: Handlers, room: int) -> int:
        """Add limits, STOP_SENDING and RESET_STREAM while they fit; what is left of ``room``."""
        if self._limits_due and room >= 2 * CONTROL_FRAME_BYTES:
            room = self._fill_limits(pieces, handlers, room)
        while self._credit_due and room >= CONTROL_FRAME_BYTES:
            state = self._credit_due.pop()
            state.credit_due = False
            if state.window.closed or state.ended:
                continue
            piece = frames.frame(frames.MAX_STREAM_DATA, state.stream_id, state.window.granted)
            handlers.append((self._on_credit_delivery, (state,)))
            pieces.append(piece)
            room -= len(piece)
        while self._stops_due and room >= CONTROL_FRAME_BYTES:
            state = self._stops_due.pop()
            code = state.receiver.get_stop_frame().error_code
            piece = frames.frame(frames.STOP_SENDING, state.stream_id, code)
            handlers.append((self._on_stop_delivery, (state,)))
            pieces.append(piece)
            room -= len(piece)
        while self._resets_due and room >= CONTROL_FRAME_BYTES:
            state = self._resets_due.pop()
            outgoing = state.outgoing
            piece = frames.frame(frames.RESET_STREAM, state.stream_id, outgoing.reset_code or 0, outgoing.next_offset)
            handlers.append((self._on_reset_delivery, (state,)))
            pieces.append(piece)
            room -= len(piece)
        return room

    def _fill_limits(self, pieces: list[bytes], handlers: Handlers, room: int) -> int:
        """Add MAX_DATA and both kinds of MAX_STREAMS where the peer should be told anew."""
        self._limits_due = False
        if self.listening:
            self._max_data.value = max(self._max_data.value, self.session.limit)
        for limit, frame_type in (
            (self._max_data, frames.MAX_DATA),
            (self._max_streams, frames.MAX_STREAMS),
            (self._max_uni_streams, frames.MAX_STREAMS_UNI),
        ):
            if limit.value != limit.sent:
                piece = frames.frame(frame_type, limit.value)
                limit.sent = limit.value
                handlers.append((self._on_limit_delivery, (limit,)))
                pieces.append(piece)
                room -= len(piece)
        return room

    # What became of what was sent

    def _on_frame_delivery(self, delivery: QuicDeliveryState, state: SubstreamState, frame: Frame) -> None:
        outgoing = state.outgoing
        if delivery is _ACKED:
            outgoing.in_flight -= 1
            if outgoing.end_sent:
                self.forget_if_finished(state)
        else:
            outgoing.frame_lost(frame)
            self.ready(state)

    def _on_reset_delivery(self, delivery: QuicDeliveryState, state: SubstreamState) -> None:
        if delivery is _ACKED:
            state.outgoing.reset_done = True
            self.forget_if_finished(state)
        else:
            self._resets_due.append(state)

    def _on_stop_delivery(self, delivery: QuicDeliveryState, state: SubstreamState) -> None:
        if delivery is not _ACKED and not state.receiver.is_finished:
            self._stops_due.append(state)

    def _on_credit_delivery(self, delivery: QuicDeliveryState, state: SubstreamState) -> None:
        if delivery is not _ACKED:
            self._owe_credit(state)

    def _on_limit_delivery(self, delivery: QuicDeliveryState, limit: Limit) -> None:
        if delivery is not _ACKED:
            limit.sent = 0
            self._limits_due = True

    def _owe_credit(self, state: SubstreamState) -> None:
        if not state.credit_due:
            state.credit_due = True
            self._credit_due.append(state)

    def forget_if_finished(self, state: SubstreamState) -> None:
        """Forget ``state`` when both directions are done and all is consumed; the peer may open another."""
        if not state.receiver.is_finished or not state.outgoing.finished:
            return
        window = state.window
        if not window.closed:
            if window.consumed < window.received:
                return
            window.close(window.received)
        if self.by_id.pop(state.stream_id, None) is None:
            return
        window.release(self._options.window_bytes)
        if bool(state.stream_id & 1) == self._dials:
            limit = self._max_uni_streams if state.stream_id & 2 else self._max_streams
            limit.value += 1
            # As aioquic does: when the peer has fewer left than it would get, so one frame serves many.
            if limit.sent - limit.used < limit.value - limit.sent:
                self._limits_due = True
