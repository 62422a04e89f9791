"""A mux with a recorder on top, for the tests of the mux: what it calls becomes a list of tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from echostream_core.types import Buffer, Priority
from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue
from echostream_core.wire.limits import Limits
from echostream_core.wire.mux import Mux
from echostream_core.wire.mux_frames import HEADER, HEADER_BYTES, Role
from echostream_core.wire.substream import CarriedSubstream

Event = tuple[object, ...]


class Reader:
    """Receives one substream and notes it in the recorder's list; consumes at once if it ``consumes``."""

    def __init__(self, recorder: Recorder, stream: CarriedSubstream) -> None:
        self.recorder = recorder
        self.stream = stream
        self.data = bytearray()
        self.on_piece: Callable[[], None] | None = None

    def on_data(self, data: Buffer) -> None:
        self.data += data
        self.recorder.note_data(self.stream.id, bytes(data))
        if self.recorder.consumes:
            self.stream.consume(len(data))
        if self.on_piece is not None:
            self.on_piece()

    def on_end(self) -> None:
        self.recorder.events.append(("end", self.stream.id))

    def on_reset(self, code: int) -> None:
        self.recorder.events.append(("reset", self.stream.id, code))

    def on_stop(self, code: int) -> None:
        self.recorder.events.append(("stop", self.stream.id, code))

    def on_writable(self) -> None:
        self.recorder.events.append(("writable", self.stream.id))


class Recorder:
    """The sink: one list for everything, in order. Data that arrives in pieces is noted as one."""

    def __init__(self, *, consumes: bool = True) -> None:
        self.events: list[Event] = []
        self.readers: dict[int, Reader] = {}
        self.consumes = consumes
        self.outputs = 0
        self.bulks = 0
        self.on_opened: Callable[[CarriedSubstream], None] | None = None

    def note_data(self, number: int, data: bytes) -> None:
        last = self.events[-1] if self.events else ()
        if last[:2] == ("data", number):
            before = last[2]
            assert isinstance(before, bytes)
            self.events[-1] = ("data", number, before + data)
        else:
            self.events.append(("data", number, data))

    def on_output(self) -> None:
        self.outputs += 1

    def on_bulk_output(self) -> None:
        self.bulks += 1

    def on_open(self, stream: CarriedSubstream) -> Reader:
        self.events.append(("open", stream.id))
        reader = self.readers[stream.id] = Reader(self, stream)
        if self.on_opened is not None:
            self.on_opened(stream)
        return reader

    def on_datagram(self, data: memoryview) -> None:
        self.events.append(("datagram", bytes(data)))

    def on_close(self, code: int, reason: str) -> None:
        self.events.append(("close", code, reason))


@dataclass
class Side:
    """One end: a mux and what it called."""

    role: Role
    limits: Limits = field(default_factory=Limits)
    consumes: bool = True
    datagrams: bool = False

    def __post_init__(self) -> None:
        self.recorder = Recorder(consumes=self.consumes)
        self.mux: Mux[CarriedSubstream] = Mux(
            self.role, limits=self.limits, sink=self.recorder, stream_class=CarriedSubstream
        )
        self.now = 0.0
        """What the queue of datagrams takes for the time."""
        if self.datagrams:
            queued = self.limits.max_queued_datagrams
            self.mux.datagrams = DatagramQueue(queued, lambda: self.now, DatagramDrops())
            self.mux.begin_datagrams()

    @property
    def events(self) -> list[Event]:
        return self.recorder.events

    def open(self, priority: Priority = Priority.NORMAL) -> CarriedSubstream:
        """A started substream of ours, which logs under its number."""
        stream = self.mux.open(priority)
        stream.start(Reader(self.recorder, stream))
        return stream

    def reader(self, number: int) -> Reader:
        """The reader of a substream that the peer opened."""
        return self.recorder.readers[number]

    def output(self) -> bytes:
        """Everything that may be sent now, joined."""
        out = b""
        while self.mux.pending:
            out += b"".join(self.mux.next_buffers())
        return out


def listener(limits: Limits | None = None, *, consumes: bool = True) -> Side:
    """The side that most tests of the reader feed."""
    return Side("listener", limits or Limits(), consumes)


def dialer(limits: Limits | None = None, *, consumes: bool = True) -> Side:
    """The other side."""
    return Side("dialer", limits or Limits(), consumes)


def exchange(one: Side, other: Side) -> None:
    """Carry bytes both ways until nothing moves."""
    while one.mux.pending or other.mux.pending:
        other.mux.receive(one.output())
        one.mux.receive(other.output())


def frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The frames in ``data``: type byte, substream, body."""
    position = 0
    while position < len(data):
        head, number = HEADER.unpack_from(data, position)
        position += HEADER_BYTES
        body = data[position : position + (head & 0xFF_FFFF)]
        assert len(body) == head & 0xFF_FFFF
        position += len(body)
        yield head >> 24, number, body


def feed_whole(mux: Mux[CarriedSubstream], data: bytes) -> None:
    mux.receive(data)


def feed_byte_by_byte(mux: Mux[CarriedSubstream], data: bytes) -> None:
    for position in range(len(data)):
        mux.receive(data[position : position + 1])


def feed_from_one_reused_buffer(mux: Mux[CarriedSubstream], data: bytes) -> None:
    """As BufferedProtocol does: what was delivered is overwritten afterwards."""
    buffer = bytearray(7)
    for position in range(0, len(data), 7):
        piece = data[position : position + 7]
        buffer[: len(piece)] = piece
        mux.receive(memoryview(buffer)[: len(piece)])
        buffer[:] = b"\xff" * 7


FEEDINGS = (feed_whole, feed_byte_by_byte, feed_from_one_reused_buffer)
