"""Reads the packets of one connection: frames into the engine's tables, and lists of what is to be delivered."""

from __future__ import annotations

from collections import deque
from struct import error as StructError
from typing import Final

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Priority
from echostream_core.wire.substream import RECEIVED, UNOPENED
from echostream_sim import link_frames as wire
from echostream_sim.link_engine import Engine
from echostream_sim.link_recovery import ACK_DELAY_S
from echostream_sim.link_substream import SimSubstream

__all__ = ["BEFORE_START_BYTES", "Reader"]

BEFORE_START_BYTES: Final = 1_048_576
"""What may wait until somebody listens; packets beyond are dropped, and their sender repeats them."""


class Reader:
    """The receiving half. ``receive`` takes a packet; a turn then delivers what it brought."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unseen: set[int] = set()  # numbers of substreams that are open by a higher one, nothing of them is here
        self._highest = 0  # of the numbers of the peer's substreams
        self.changed: list[SimSubstream] = []
        """Those with something to deliver, in the order in which it came."""
        self.datagrams: deque[bytes] = deque(maxlen=engine.options.max_queued_datagrams)
        self.heard_at = 0.0
        """When the last packet came."""
        self.listening = False
        """Somebody takes what arrives."""
        self._unheard_bytes = 0
        self._farewell: tuple[int, str, int] | None = None

    @property
    def farewell(self) -> tuple[int, str] | None:
        """The peer's code and reason, once all that it sent before them on the control substream is here."""
        if self._farewell is None:
            return None
        code, reason, final = self._farewell
        control = self._engine.control
        here = 0 if control is None else control.assembly.position
        return (code, reason) if here >= final else None

    def receive(self, packet: bytes, now: float) -> None:
        """Take one packet. Raises RemoteProtocolError for what no peer of ours would send."""
        self.heard_at = now
        if not self.listening and self._unheard_bytes > BEFORE_START_BYTES:
            return
        engine = self._engine
        try:
            _, _, number, settled = wire.HEADER.unpack_from(packet)
            received = engine.received
            expected = received.largest + 1
            if not received.add(number):
                engine.acknowledge_at = now  # our acknowledgement may be lost
                engine.unacknowledged += 1
                return
            received.settle(settled)
            eliciting = self._read(packet, now)
        except (StructError, IndexError, ValueError) as error:
            raise RemoteProtocolError(f"a packet of {len(packet)} bytes cannot be read: {error}") from error
        if number >= expected:
            engine.largest_at = now
        if eliciting:
            engine.unacknowledged += 1
            if number != expected:
                engine.acknowledge_at = now  # a gap, or what fills one: the peer should know at once
            elif engine.acknowledge_at is None:
                engine.acknowledge_at = now + ACK_DELAY_S

    def _read(self, packet: bytes, now: float) -> bool:
        """The frames of ``packet``; whether it asks for an acknowledgement."""
        at, stop = wire.HEADER_BYTES, len(packet)
        eliciting = False
        while at < stop:
            kind = packet[at]
            if kind == wire.ACK:
                at = self._read_ack(packet, at, now)
                continue
            eliciting = True
            if kind in (wire.DATA, wire.DATA_END):
                _, number, offset, size = wire.DATA_HEAD.unpack_from(packet, at)
                at += wire.DATA_HEAD.size
                self._take_data(number, offset, _cut(packet, at, size), ended=kind == wire.DATA_END)
                at += size
            elif kind == wire.DATAGRAM:
                _, size = wire.DATAGRAM_HEAD.unpack_from(packet, at)
                at += wire.DATAGRAM_HEAD.size
                self._engine.datagrams.drops.crowded += len(self.datagrams) == self.datagrams.maxlen
                self.datagrams.append(_cut(packet, at, size))
                at += size
            elif kind == wire.CREDIT:
                _, number, limit = wire.CREDIT_BODY.unpack_from(packet, at)
                at += wire.CREDIT_BODY.size
                stream = self._engine.live.get(number)
                if stream is not None:
                    stream.credit_received(limit)
            elif kind in (wire.RESET, wire.STOP):
                _, number, code = wire.ORDER_BODY.unpack_from(packet, at)
                at += wire.ORDER_BODY.size
                self._take_order(kind, number, code)
            elif kind == wire.MAX_STREAMS:
                _, count = wire.MAX_STREAMS_BODY.unpack_from(packet, at)
                at += wire.MAX_STREAMS_BODY.size
                self._engine.allowance_received(count)
            elif kind == wire.CLOSE:
                _, code, final, size = wire.CLOSE_HEAD.unpack_from(packet, at)
                at += wire.CLOSE_HEAD.size
                self._farewell = code, _cut(packet, at, size).decode("utf-8", "replace"), final
                at += size
            elif kind == wire.PING:
                at += 1
            else:
                raise ValueError(f"a frame of the unknown type {kind}")
        return eliciting

    def _read_ack(self, packet: bytes, at: int, now: float) -> int:
        _, delay, count = wire.ACK_HEAD.unpack_from(packet, at)
        at += wire.ACK_HEAD.size
        ranges = []
        for _ in range(count):
            ranges.append(wire.ACK_RANGE.unpack_from(packet, at))
            at += wire.ACK_RANGE.size
        self._engine.acknowledged(ranges, delay / 1_000_000, now)
        return at

    def _take_data(self, number: int, offset: int, data: bytes, *, ended: bool) -> None:
        stream = self._find(number)
        if stream is None or stream.receiving == RECEIVED or stream.reset_code is not None:
            return
        window = stream.window
        end = offset + len(data)
        if window is not None and end > window.limit:
            raise RemoteProtocolError(
                f"the peer sent more on substream {number} than it had credit for", close_code=CloseCode.LIMIT
            )
        assembly = stream.assembly
        if ended:
            assembly.end = end
        ready = assembly.add(offset, data) if data else ()
        if ready:
            stream.incoming += ready
            if not self.listening:
                self._unheard_bytes += sum(map(len, ready))
        if ready or assembly.complete:
            self.note(stream)

    def _take_order(self, kind: int, number: int, code: int) -> None:
        stream = self._find(number)
        if stream is None:
            return
        if kind == wire.STOP:
            stream.told_stop = code
        elif stream.receiving == RECEIVED or stream.assembly.complete:
            return
        else:
            stream.reset_code = code
        self.note(stream)

    def note(self, stream: SimSubstream) -> None:
        """There is something of ``stream`` to deliver."""
        if not stream.changed:
            stream.changed = True
            self.changed.append(stream)

    def _find(self, number: int) -> SimSubstream | None:
        """The substream of that number, opened if need be; None when it is over."""
        engine = self._engine
        stream = engine.live.get(number)
        if stream is not None:
            return stream
        if number == 0:
            return self._open_control()
        if number & 1 != engine.dials:
            return None  # of ours, and over; or the peer made it up, which harms nobody
        if number > self._highest:
            first = self._highest + 2 if self._highest else (1 if engine.dials else 2)
            opened = range(first, number + 2, 2)
            if engine.peer_opened + len(opened) > engine.peer_may_open:
                raise RemoteProtocolError(
                    f"the peer opened more than the {engine.options.max_streams} substreams that it may have open",
                    close_code=CloseCode.LIMIT,
                )
            engine.peer_opened += len(opened)
            engine.accepted += len(opened)
            self._unseen.update(opened)
            self._highest = number
        elif number not in self._unseen:
            return None
        self._unseen.remove(number)
        stream = engine.live[number] = SimSubstream(engine, number, Priority.NORMAL, engine.new_window())
        return stream

    def _open_control(self) -> SimSubstream | None:
        engine = self._engine
        if engine.control is not None:
            return None if engine.control.id == UNOPENED else engine.control
        engine.control = engine.live[0] = SimSubstream(engine, 0, Priority.CONTROL, None)
        return engine.control


def _cut(packet: bytes, at: int, size: int) -> bytes:
    """``size`` bytes of ``packet``, all of them."""
    if at + size > len(packet):
        raise ValueError(f"{size} bytes are announced and {len(packet) - at} are there")
    return packet[at : at + size]
