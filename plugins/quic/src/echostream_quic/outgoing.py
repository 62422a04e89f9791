"""What is to be sent: the bytes of each substream, and in which order the substreams have their turns.

Nothing is handed to the QUIC library ahead of time. When a packet is built, the scheduler is asked whose
turn it is, so urgent bytes overtake all bulk that is not yet in a packet. Bytes on their way are held by the
packets themselves: an acknowledged frame is forgotten, a lost one comes back to its substream whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from echostream_core.types import Buffer, Priority
from echostream_quic.frames import varint, varint_size

__all__ = ["HIGH_WATER_BYTES", "LOW_WATER_BYTES", "Frame", "Outgoing", "Scheduler"]

HIGH_WATER_BYTES: Final = 65_536
"""``write`` answers False while more than this waits in one substream."""

LOW_WATER_BYTES: Final = 16_384
"""``on_writable`` comes when no more than this is left."""

WEIGHTS: Final = (0, 16, 4, 1)
"""Shares of urgent, normal and bulk; control (the first) does not share, it goes first."""


Frame = tuple[int, bytes, bool]
"""A piece of one substream as it stands in one packet: offset, data, and whether our direction ends behind it."""


class Outgoing:
    """The sending direction of one substream."""

    __slots__ = (
        "_head",
        "_overhead",
        "_pieces",
        "credit",
        "end_sent",
        "ended",
        "id_bytes",
        "in_flight",
        "lost",
        "next_offset",
        "priority",
        "queued_bytes",
        "reset_code",
        "reset_pending",
        "reset_done",
        "scheduled",
        "stream_id",
        "wants_room",
    )

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.stream_id = -1
        self.id_bytes = b""
        """``stream_id`` as frames have it."""
        self.credit = 0
        """The offset up to which the peer lets us send."""
        self.next_offset = 0
        """The offset of the first byte that was never sent."""
        self.queued_bytes = 0
        """Bytes that were never sent."""
        self.ended = False
        """Our direction is to be ended after what is queued."""
        self.end_sent = False
        self.lost: list[Frame] = []
        """Frames that have to be sent again; they need no credit."""
        self.in_flight = 0
        """Frames that are neither acknowledged nor lost."""
        self.reset_code: int | None = None
        self.reset_pending = False
        self.reset_done = False
        self.scheduled = False
        """Stands in the scheduler."""
        self.wants_room = False
        """A write answered False: ``on_writable`` is owed."""
        self._pieces: deque[bytes | memoryview] = deque()
        self._head = 0
        self._overhead = 3

    def number(self, stream_id: int) -> None:
        """Give it its place among the connection's substreams."""
        self.stream_id = stream_id
        self.id_bytes = varint(stream_id)
        self._overhead = 3 + len(self.id_bytes)

    @property
    def finished(self) -> bool:
        """Nothing is left to do in this direction: the peer has acknowledged the end, or the reset."""
        if self.reset_code is not None:
            return self.reset_done
        return self.end_sent and not self.in_flight and not self.lost

    @property
    def sendable(self) -> bool:
        """A packet with room could take a frame now, as far as this substream's own credit goes."""
        if self.lost:
            return True
        if self.queued_bytes:
            return self.credit > self.next_offset
        return self.ended and not self.end_sent

    def push(self, buffers: Sequence[Buffer], *, end: bool) -> None:
        """Queue ``buffers``, then the end if ``end``. The buffers belong to us from here on."""
        for buffer in buffers:
            piece = buffer if type(buffer) is bytes else memoryview(buffer).cast("B")
            size = len(piece)
            if size:
                self._pieces.append(piece)
                self.queued_bytes += size
        if end:
            self.ended = True

    def prefix(self, data: bytes) -> None:
        """Put ``data`` before everything that is queued; only while nothing was sent."""
        self._pieces.appendleft(data)
        self.queued_bytes += len(data)

    def take(self, room: int, session_credit: int) -> Frame | None:
        """The next frame of at most ``room`` bytes with its header, ``session_credit`` of them new data; or None."""
        offset = self.next_offset
        if self.lost:
            return self._take_lost(room)
        room -= self._overhead if not offset else self._overhead + varint_size(offset)
        size = self.queued_bytes
        if size:
            size = min(size, room, self.credit - offset, session_credit)
            if size <= 0:
                return None
            data = self._pull(size)
            self.next_offset = offset + size
            self.queued_bytes -= size
        elif self.ended and not self.end_sent and room >= 0:
            data = b""
        else:
            return None
        end = self.ended and not self.queued_bytes
        if end:
            self.end_sent = True
        self.in_flight += 1
        return offset, data, end

    def _take_lost(self, room: int) -> Frame | None:
        offset, data, end = self.lost[0]
        room -= self._overhead + (varint_size(offset) if offset else 0)
        if len(data) <= room:
            frame = self.lost.pop(0)
        elif room <= 0:
            return None
        else:
            self.lost[0] = (offset + room, data[room:], end)
            frame = (offset, data[:room], False)
        self.in_flight += 1
        return frame

    def _pull(self, size: int) -> bytes:
        if not size:
            return b""
        pieces, head = self._pieces, self._head
        first = pieces[0]
        left = len(first) - head
        if left > size:
            self._head = head + size
            return bytes(first[head : head + size])
        if left == size:
            pieces.popleft()
            self._head = 0
            return bytes(first[head:]) if head or type(first) is not bytes else first
        taken: list[bytes | memoryview] = []
        while size:
            first = pieces[0]
            left = len(first) - head
            if left > size:
                taken.append(first[head : head + size])
                head += size
                break
            taken.append(first[head:] if head else first)
            pieces.popleft()
            size -= left
            head = 0
        self._head = head
        return b"".join(taken)

    def frame_lost(self, frame: Frame) -> None:
        """One frame has not arrived: it goes first in this substream, unless we gave up."""
        self.in_flight -= 1
        if self.reset_code is None:
            self.lost.append(frame)

    def reset(self, code: int) -> bool:
        """Give up: drop everything. False when there is nothing left to give up."""
        if self.reset_code is not None or self.finished:
            return False
        self.reset_code = code
        self.reset_pending = True
        self.drop()
        return True

    def drop(self) -> None:
        """Forget what is queued or waits to be sent again, and the end if it was not sent."""
        self.ended = False
        self._pieces.clear()
        self._head = 0
        self.lost.clear()
        self.queued_bytes = 0


class Scheduler:
    """Whose turn it is: control first, then urgent, normal and bulk sharing 16:4:1, each class in a round.

    The shares are kept with one virtual clock per class, which advances by bytes sent divided by the weight;
    the class whose clock is behind has its turn. A class that comes back from idleness starts at the clock of
    the others, so it cannot claim what it did not use.
    """

    __slots__ = ("_clocks", "_queues")

    def __init__(self) -> None:
        self._queues: tuple[deque[Outgoing], ...] = tuple(deque() for _ in Priority)
        self._clocks = [0.0 for _ in Priority]

    def __bool__(self) -> bool:
        return any(self._queues)

    def add(self, outgoing: Outgoing) -> None:
        """Let ``outgoing`` have turns; a no-op while it already has."""
        if outgoing.scheduled:
            return
        outgoing.scheduled = True
        priority = outgoing.priority
        queue = self._queues[priority]
        if not queue and priority:
            others = [self._clocks[other] for other in (1, 2, 3) if self._queues[other]]
            if others:
                self._clocks[priority] = max(self._clocks[priority], min(others))
        queue.append(outgoing)

    def peek(self) -> Outgoing | None:
        """Whose turn it is, or None."""
        queues = self._queues
        if queues[0]:
            return queues[0][0]
        clocks, best = self._clocks, 0
        for priority in (1, 2, 3):
            if queues[priority] and (not best or clocks[priority] < clocks[best]):
                best = priority
        return queues[best][0] if best else None

    def served(self, outgoing: Outgoing, size: int) -> None:
        """``outgoing``, whose turn it was, has sent ``size`` bytes: to the end of its class, or out of it."""
        priority = outgoing.priority
        queue = self._queues[priority]
        if priority:
            self._clocks[priority] += size / WEIGHTS[priority]
        if outgoing.sendable:
            if len(queue) > 1:
                queue.rotate(-1)
        else:
            queue.popleft()
            outgoing.scheduled = False

    def park(self, outgoing: Outgoing) -> None:
        """``outgoing``, whose turn it was, cannot send now."""
        self._queues[outgoing.priority].popleft()
        outgoing.scheduled = False

    def reclass(self, outgoing: Outgoing, priority: Priority) -> None:
        """Change the class of ``outgoing``."""
        if outgoing.scheduled:
            self._queues[outgoing.priority].remove(outgoing)
            outgoing.scheduled = False
            outgoing.priority = priority
            self.add(outgoing)
        else:
            outgoing.priority = priority
