"""The mux: substreams out of one ordered pipe of bytes. Sans-I/O: bytes in, calls out.

A driver feeds ``receive`` and empties ``next_buffers``; the mux calls a :class:`MuxSink` and, per
substream, a ``StreamReceiver``. Bodies are handed on as they arrive, as slices of the caller's buffer: a
frame is never put together, only a header or a control frame's few bytes that a read has split. Source:
docs/wire/mux.md.
"""

from __future__ import annotations

from typing import Final

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Buffer, Priority
from echostream_core.wire.limits import MAX_MUX_DATAGRAM_BYTES, MAX_MUX_FRAME_BYTES, Limits
from echostream_core.wire.mux_frames import (
    CLOSE,
    CREDIT,
    DATA,
    DATAGRAM,
    END,
    HEADER,
    HEADER_BYTES,
    IGNORABLE,
    MAX_REASON_BYTES,
    OPEN,
    RESERVED,
    RESET,
    STOP,
    Role,
    encode_reset,
    encode_stop,
)
from echostream_core.wire.mux_sender import MuxSender, MuxSink, StreamT
from echostream_core.wire.substream import RECEIVED, RECEIVING

__all__ = ["MAX_ORDERS_BYTES", "Mux", "MuxSink"]

MAX_ORDERS_BYTES: Final = 1_048_576
"""Answers (RESET, STOP) that may wait for a peer that does not read them. 24 bytes per refused substream."""

_KIND: Final = 0x0F
_BODY_BYTES: Final = {
    CREDIT: (8, 8),
    RESET: (4, 4),
    STOP: (4, 4),
    CLOSE: (4, 4 + MAX_REASON_BYTES),
    DATAGRAM: (0, MAX_MUX_DATAGRAM_BYTES),
}
_NAMES: Final = {
    DATA: "DATA",
    CREDIT: "CREDIT",
    RESET: "RESET",
    STOP: "STOP",
    CLOSE: "CLOSE",
    DATAGRAM: "DATAGRAM",
}


class Mux(MuxSender[StreamT]):
    """Both halves of the mux on one side of a connection; ``stream_class`` is what substreams are made of."""

    __slots__ = (
        "_current",
        "_ends",
        "_held",
        "_held_bytes",
        "_left",
        "_next_peer",
        "ignored",
        "refused",
        "resets_received",
    )

    def __init__(self, role: Role, *, limits: Limits, sink: MuxSink[StreamT], stream_class: type[StreamT]) -> None:
        super().__init__(role, limits=limits, sink=sink, stream_class=stream_class)
        self.resets_received = 0
        """RESET and STOP frames so far; whoever has a clock makes a rate of it."""
        self.refused = 0
        """Substreams refused because ``limits.max_streams`` were open."""
        self.ignored = 0
        """Frames skipped because they are ignorable and unknown."""
        self._next_peer = 1 if role == "dialer" else 2
        self._left = 0  # bytes to come of the body of a DATA frame, or of one to skip
        self._current: StreamT | None = None  # whose they are; None: skip
        self._ends = False  # what they end
        self._held = bytearray()  # a header or control frame that a read has split
        self._held_bytes = HEADER_BYTES  # how long that is in all

    def receive(self, data: Buffer) -> None:
        """Take what arrived. Raises RemoteProtocolError, after which nothing more should be fed."""
        if self.closed:
            return
        view = memoryview(data).toreadonly()
        stop = len(view)
        position = 0
        if self._left:
            position = self._take_body(view, 0, stop)
        if self._held:
            position = self._take_held(view, position, stop)
        unpack = HEADER.unpack_from
        live = self.live
        body = position + HEADER_BYTES
        while body <= stop and not self.closed:
            head, number = unpack(view, position)
            size = head & 0xFF_FFFF
            position = body + size
            stream = live.get(number)
            if (
                head >> 24 != DATA
                or stream is None
                or stream.receiving
                or position > stop
                or not 0 < size <= MAX_MUX_FRAME_BYTES
            ):
                position = self._take_frame(head, number, view, body, stop)
            else:
                window = stream.window
                if window is not None:
                    if size > window.limit - window.received:
                        raise _over_credit(number)
                    window.receive(size)
                stream.receiver.on_data(view[body:position])  # type: ignore[union-attr]  # live ones are started
            body = position + HEADER_BYTES
        if position < stop and not self.closed:
            self._held += view[position:]
        if len(self._orders) > MAX_ORDERS_BYTES:
            raise RemoteProtocolError(
                "the peer opens, stops and resets substreams without reading the answers",
                close_code=CloseCode.LIMIT,
            )

    def _take_body(self, view: memoryview, position: int, stop: int) -> int:
        """The next piece of a body whose header is known; where it ends."""
        size = min(self._left, stop - position)
        end = position + size
        self._left = left = self._left - size
        stream = self._current
        if stream is None:
            return end
        if size:
            if stream.window is not None:
                stream.window.receive(size)
            if stream.receiving == RECEIVING:
                stream.receiver.on_data(view[position:end])  # type: ignore[union-attr]  # live ones are started
        if not left:
            self._current = None
            if self._ends and not self.closed:
                stream.end_received()
        return end

    def _take_held(self, view: memoryview, position: int, stop: int) -> int:
        """Complete what a read has split; where the rest begins."""
        held = self._held
        missing = self._held_bytes - len(held)
        held += view[position : position + missing]
        if len(held) < self._held_bytes:
            return stop
        position += missing
        frame = bytes(held)
        held.clear()
        head, number = HEADER.unpack_from(frame)
        if self._held_bytes == HEADER_BYTES:
            return self._take_frame(head, number, view, position, stop)
        self._held_bytes = HEADER_BYTES
        self._take_order(head >> 24, number, memoryview(frame)[HEADER_BYTES:])
        return position

    def _take_frame(self, head: int, number: int, view: memoryview, body: int, stop: int) -> int:
        """Any frame, with as much of its body as stands from ``body`` to ``stop``; where the rest begins."""
        size = head & 0xFF_FFFF
        type_byte = head >> 24
        kind = type_byte & _KIND
        if size > MAX_MUX_FRAME_BYTES:
            raise RemoteProtocolError(
                f"a frame of {size} bytes: at most {MAX_MUX_FRAME_BYTES} are allowed",
                close_code=CloseCode.LIMIT,
            )
        if kind not in _NAMES and type_byte & IGNORABLE:
            self.ignored += 1
            return self._take_data(None, size, view, body, stop)
        if kind not in _NAMES or (kind == DATAGRAM and self.datagrams is None):
            raise RemoteProtocolError(f"a frame of the unknown type 0x{type_byte:02x}")
        if type_byte & (RESERVED | IGNORABLE) or (kind != DATA and type_byte & (OPEN | END)):
            raise RemoteProtocolError(f"{_NAMES[kind]} with a flag it cannot have (type 0x{type_byte:02x})")
        if kind == DATA:
            self._ends = bool(type_byte & END)
            return self._take_data(self._target(type_byte, number, size), size, view, body, stop)
        least, most = _BODY_BYTES[kind]
        if not least <= size <= most:
            code = CloseCode.LIMIT if kind == DATAGRAM else CloseCode.PROTOCOL
            raise RemoteProtocolError(f"{_NAMES[kind]} with a body of {size} bytes", close_code=code)
        if kind == DATAGRAM and number:
            raise RemoteProtocolError(f"DATAGRAM on substream {number}: it concerns the connection")
        end = body + size
        if end > stop:
            self._held += HEADER.pack(head, number)
            self._held += view[body:stop]
            self._held_bytes = HEADER_BYTES + size
            return stop
        self._take_order(kind, number, view[body:end])
        return end

    def _take_data(self, stream: StreamT | None, size: int, view: memoryview, body: int, stop: int) -> int:
        self._current = stream
        self._left = size
        return self._take_body(view, body, stop)

    def _target(self, type_byte: int, number: int, size: int) -> StreamT | None:
        """The substream that a DATA frame of ``size`` bytes is for, opened if need be; None: drop it."""
        if not size and not type_byte & (OPEN | END):
            raise RemoteProtocolError(f"an empty DATA frame on substream {number}")
        if type_byte & OPEN:
            stream = self._open_received(number)
        else:
            stream = self.live.get(number)
            if stream is None:
                self._check_gone(number, "DATA")
        if stream is None or self.closed:
            return None
        if stream.receiving == RECEIVED:
            raise RemoteProtocolError(f"DATA on substream {number} after its END or RESET")
        if stream.window is not None and size > stream.window.limit - stream.window.received:
            raise _over_credit(number)
        return stream

    def _open_received(self, number: int) -> StreamT | None:
        """A new substream of the peer's; None when it was refused."""
        if number == 0 and self.role == "listener" and self.control is None:
            self.control = stream = self._stream_class(self, number, Priority.CONTROL, None)
        elif number != self._next_peer:
            raise RemoteProtocolError(f"substream {number} was opened where {self._next_peer} is the next")
        else:
            self._next_peer += 2
            if self._peer_live >= self.limits.max_streams:
                self.refused += 1
                refused = CloseCode.REFUSED
                self._order(encode_reset(number, refused) + encode_stop(number, refused))
                return None
            self._peer_live += 1
            stream = self._stream_class(self, number, Priority.NORMAL, self._new_window())
        self.live[number] = stream
        stream.receiver = self.sink.on_open(stream)
        return stream

    def _take_order(self, kind: int, number: int, body: memoryview) -> None:
        """One whole CREDIT, RESET, STOP, CLOSE or DATAGRAM, its length checked."""
        if kind == DATAGRAM:
            self.sink.on_datagram(body)
            return
        if kind == CLOSE:
            if number:
                raise RemoteProtocolError(f"CLOSE on substream {number}: it concerns the connection")
            code = int.from_bytes(body[:4], "little")
            self.shut()
            self.sink.on_close(code, bytes(body[4:]).decode("utf-8", "replace"))
            return
        if kind != CREDIT:
            self.resets_received += 1
        stream = self.live.get(number)
        if stream is None:
            self._check_gone(number, _NAMES[kind])
            return
        value = int.from_bytes(body, "little")
        if kind == CREDIT:
            stream.credit_received(value)
        elif kind == RESET:
            if stream.receiving == RECEIVED:
                raise RemoteProtocolError(f"RESET on substream {number} after its END or RESET")
            stream.reset_received(value)
        else:
            stream.stop_received(value)

    def _check_gone(self, number: int, name: str) -> None:
        """Frames for a substream that is gone are dropped; for one that never was, they are an error."""
        if number == 0:
            known = self.control is not None and self.control.id == 0
        elif number & 1 == self._peer_parity:
            known = number < self._next_peer
        else:
            known = number < self._next_local
        if not known:
            raise RemoteProtocolError(f"{name} on substream {number}, which was never opened")


def _over_credit(number: int) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"the peer sent more on substream {number} than it had credit for", close_code=CloseCode.LIMIT
    )
