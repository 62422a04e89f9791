"""One substream: its state, its queue and its credit in both directions, whatever carries it.

The user's half of this class is what the transport contract asks of a substream; the carrier's half is
called by the mux (``wire/mux.py``) or by the memory transport, which so mean the same by every word. Each
direction lives on its own: ours ends with an end or a reset, the peer's likewise, and the substream is gone
when both have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from echostream_core.errors import LocalProtocolError, ResourceClosed
from echostream_core.types import Buffer, Priority
from echostream_core.wire.credit import ReceiveWindow, cut_buffers
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES

__all__ = [
    "BULK_BYTES",
    "HIGH_WATER_BYTES",
    "LOW_WATER_BYTES",
    "CarriedSubstream",
    "Carrier",
    "StreamReceiver",
    "is_small",
]

BULK_BYTES: Final = 8_192
"""A write from here on goes out at once and unjoined: joining at the end of the turn halved the rate."""

HIGH_WATER_BYTES: Final = 65_536
"""``write`` answers False while more than this is queued …"""

LOW_WATER_BYTES: Final = 16_384
"""… and ``on_writable`` comes when it falls below this."""

UNLIMITED: Final = 1 << 64
"""The credit of the control substream."""

_SMALL_PIECE_BYTES: Final = 512

# Our direction (``sending``); anything but SENDING takes the slow path of write().
SENDING: Final = 0
ENDING: Final = 1  # the user has ended, the end is still queued
STOPPED: Final = 2  # the peer reads no more; our reset is due
ENDED: Final = 3  # the end has been sent, and everything before it
GIVEN_UP: Final = 4  # we have reset

# The peer's direction (``receiving``); anything but RECEIVING takes the carrier's slow path.
RECEIVING: Final = 0
DISCARDING: Final = 1  # we have stopped; what still arrives is dropped
RECEIVED: Final = 2  # its end or reset is here

UNOPENED: Final = -1
"""Number of a substream of which nothing has been sent yet."""


class StreamReceiver(Protocol):
    """What a substream calls on its user; the same as ``SubstreamReceiver`` of the transport contract."""

    def on_data(self, data: Buffer, /) -> None:
        """Bytes arrived, in order; valid during the call."""

    def on_end(self) -> None:
        """The peer has finished its direction."""

    def on_reset(self, code: int, /) -> None:
        """The peer gave up its direction."""

    def on_stop(self, code: int, /) -> None:
        """The peer no longer reads."""

    def on_writable(self) -> None:
        """There is room again after a ``write`` that answered False."""


class Carrier(Protocol):
    """What a substream asks of whatever carries it. None of these may call back into the user."""

    closed: bool
    """Nothing is sent any more."""
    on_bulk: Callable[[], None]
    """A large write is in line and wants to go at once."""

    def wake(self, stream: CarriedSubstream, /) -> None:
        """Put ``stream``, which is not in line, there if it is ``sendable``; when closed, drop its queue."""

    def leave_line(self, stream: CarriedSubstream, /) -> None:
        """``stream`` has nothing to send after all; also when it is not in line."""

    def queue_credit(self, stream: CarriedSubstream, /) -> None:
        """Tell the peer ``stream.window.limit``."""

    def queue_reset(self, stream: CarriedSubstream, code: int, /) -> None:
        """Tell the peer that we gave up; not called for a substream that it never heard of."""

    def queue_stop(self, stream: CarriedSubstream, code: int, /) -> None:
        """Tell the peer that we read no more; likewise."""

    def change_priority(self, stream: CarriedSubstream, priority: Priority, /) -> None:
        """Move ``stream`` to another class."""

    def forget(self, stream: CarriedSubstream, /) -> None:
        """Both directions are finished."""


class CarriedSubstream:
    """One substream. Made by its carrier only."""

    __slots__ = (
        "carrier",
        "credit_due",
        "id",
        "limit",
        "priority",
        "queue",
        "queued",
        "ready",
        "receiver",
        "receiving",
        "sending",
        "sent",
        "stop_code",
        "stop_due",
        "waiting",
        "window",
    )

    def __init__(self, carrier: Carrier, number: int, priority: Priority, window: ReceiveWindow | None) -> None:
        self.carrier = carrier
        self.id = number
        self.priority = priority
        self.receiver: StreamReceiver | None = None
        self.window = window  # None: exempt from credit
        self.sending = SENDING
        self.receiving = RECEIVING
        self.queue: list[Buffer] = []
        self.queued = 0
        self.sent = 0
        self.limit = UNLIMITED if window is None else INITIAL_WINDOW_BYTES
        self.ready = False  # in the carrier's line
        self.waiting = False  # a write answered False
        self.credit_due = False  # in the carrier's list of those
        self.stop_code = 0  # the peer's, when STOPPED
        self.stop_due: int | None = None  # ours, given before the substream was opened

    # The user's half.

    def start(self, receiver: StreamReceiver) -> None:
        """Deliver to ``receiver`` from now on. What was written before the first start waits for it."""
        self.receiver = receiver
        if not self.ready:
            self.carrier.wake(self)

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        """Queue ``buffers``, then the end of our direction if ``end``; False: wait for ``on_writable``."""
        if self.sending:
            return self._write_late(end=end)
        size = sum(map(len, buffers))
        self.queue += buffers
        self.queued += size
        if end:
            self.sending = ENDING
        if not self.ready:
            self.carrier.wake(self)
        if size >= BULK_BYTES and self.ready:
            self.carrier.on_bulk()
        if self.queued > HIGH_WATER_BYTES:
            self.waiting = True
            return False
        return True

    def _write_late(self, *, end: bool) -> bool:
        """A write when our direction is over: an error only when it was the user who ended it."""
        if self.sending == STOPPED:
            if end:  # nothing more will come: let the direction finish
                self.reset(self.stop_code)
        elif self.sending != GIVEN_UP and not self.carrier.closed:
            raise ResourceClosed("this direction of the substream is ended: write() after end=True")
        return True

    def consume(self, size: int) -> None:
        """Give the peer credit for ``size`` delivered bytes. Without effect on the control substream."""
        window = self.window
        if window is not None and window.consume(size) and not self.credit_due and not self.receiving:
            self.carrier.queue_credit(self)

    def reset(self, code: int) -> None:
        """Give up our direction: what is queued is dropped. Idempotent."""
        if self.sending < ENDED:
            self.carrier.leave_line(self)
            self.drop_queue()
            self.sending = GIVEN_UP
            if self.id != UNOPENED:
                self.carrier.queue_reset(self, code)
                if self.receiving == RECEIVED:
                    self.carrier.forget(self)

    def stop(self, code: int) -> None:
        """Read no more: after this comes ``on_end`` or ``on_reset``, but no ``on_data``. Idempotent."""
        if self.receiving == RECEIVING:
            self.receiving = DISCARDING
            if self.id == UNOPENED:
                self.stop_due = code
            else:
                self.carrier.queue_stop(self, code)

    @property
    def known_to_peer(self) -> bool:
        """False until the first frame has gone out."""
        return self.id != UNOPENED

    def set_priority(self, priority: Priority) -> None:
        """Change the class of what is written here. The control substream keeps its own."""
        if self.priority is Priority.CONTROL or priority is self.priority:
            return
        if priority is Priority.CONTROL:
            raise LocalProtocolError("a substream cannot become the control substream: open it as that")
        self.carrier.change_priority(self, priority)

    # The carrier's half.

    def sendable(self) -> bool:
        """There are bytes and credit for them, or only the end is left; and somebody awaits the answer."""
        if self.receiver is None:
            return False
        return self.sent < self.limit if self.queued else self.sending == ENDING

    def take(self, most: int) -> list[Buffer]:
        """Take up to ``most`` bytes that there is credit for off the queue, and the end if it comes next."""
        queued = self.queued
        size = min(queued, most, self.limit - self.sent)
        self.sent += size
        if size == queued:
            pieces, self.queue = self.queue, []
            self.queued = 0
            self.ready = False
            if self.sending == ENDING:
                self.sending = ENDED
        else:
            pieces = cut_buffers(self.queue, size)
            self.queued = queued - size
            if self.sent >= self.limit:
                self.ready = False
        return pieces

    def drop_queue(self) -> None:
        """What is queued will not be sent."""
        self.queue.clear()
        self.queued = 0
        self.waiting = False

    def credit_received(self, limit: int) -> None:
        """The peer allows ``limit`` bytes in all; one that takes back is ignored."""
        if limit > self.limit:
            self.limit = limit
            if not self.ready:
                self.carrier.wake(self)

    def end_received(self) -> None:
        """The peer's direction ended, in order."""
        self._receive_last()
        self.receiver.on_end()  # type: ignore[union-attr]  # one that receives is started

    def reset_received(self, code: int) -> None:
        """The peer gave up its direction."""
        self._receive_last()
        self.receiver.on_reset(code)  # type: ignore[union-attr]  # one that receives is started

    def stop_received(self, code: int) -> None:
        """The peer reads no more. Where the user has said all already, the answering reset is ours."""
        if self.sending == SENDING:
            self.carrier.leave_line(self)
            self.drop_queue()
            self.sending = STOPPED
            self.stop_code = code
        elif self.sending == ENDING:
            self.reset(code)
        else:
            return
        self.receiver.on_stop(code)  # type: ignore[union-attr]  # one that receives is started

    def _receive_last(self) -> None:
        self.receiving = RECEIVED
        if self.sending >= ENDED:
            self.carrier.forget(self)


def is_small(pieces: Sequence[Buffer], size: int) -> bool:
    """Whether ``pieces`` of ``size`` bytes in all are better joined: few bytes, or many small pieces.

    One more iovec, or one more ``on_data``, costs more than copying 512 bytes.
    """
    return size < BULK_BYTES or size < _SMALL_PIECE_BYTES * len(pieces)
