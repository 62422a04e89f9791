"""Receivers that write down what a transport calls, and call it such that a callback within the call is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from echostream_core.errors import EchoStreamError
from echostream_core.transport import Connection, Pipe, Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority

__all__ = ["End", "Line", "PipeEnd", "Rules"]

T = TypeVar("T")


class Rules:
    """The rules that hold for every callback; shared by both ends, since a call of one may not call the other back."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._calling = ""

    def call(self, name: str, call: Callable[[], T]) -> T:
        """Make one call into the transport."""
        outer, self._calling = self._calling, name
        try:
            return call()
        finally:
            self._calling = outer

    def happened(self, event: str) -> None:
        """A callback has come."""
        if self._calling:
            self.violations.append(f"{event} came inside of {self._calling}")

    def check(self) -> None:
        """Fail for what was found."""
        assert not self.violations, "; ".join(dict.fromkeys(self.violations))


class Line:
    """The user of one substream. It consumes what arrives unless ``reads`` is False."""

    def __init__(self, end: End, substream: Substream, *, reads: bool = True) -> None:
        self.end = end
        self.substream = substream
        self.reads = reads
        self.echoes = False
        self.data = bytearray()
        self.unread = 0
        self.ends = 0
        self.resets: list[int] = []
        self.stops: list[int] = []
        self.writables = 0
        self.order: list[str] = []
        self.hook: Callable[[bytes], None] | None = None

    @property
    def over(self) -> int:
        """How often the peer's direction was said to be over: once at most."""
        return self.ends + len(self.resets)

    # What the substream calls

    def on_data(self, data: Buffer) -> None:
        """Keep it, and give credit for it."""
        self._happened("on_data")
        self.data += data
        copy = bytes(data)
        if self.reads:
            self.end.rules.call("consume", lambda: self.substream.consume(len(copy)))
        else:
            self.unread += len(copy)
        if self.echoes:
            self.write(copy)
        if self.hook is not None:
            self.hook(copy)

    def on_end(self) -> None:
        """Count it."""
        self._happened("on_end")
        self.ends += 1

    def on_reset(self, code: int) -> None:
        """Keep the code."""
        self._happened("on_reset")
        self.resets.append(code)

    def on_stop(self, code: int) -> None:
        """Keep the code."""
        self._happened("on_stop")
        self.stops.append(code)

    def on_writable(self) -> None:
        """Count it."""
        self._happened("on_writable")
        self.writables += 1

    def _happened(self, event: str) -> None:
        self.end.happened(event)
        if self.over and event in {"on_data", "on_end", "on_reset"}:
            self.end.rules.violations.append(f"{event} came after the end of the substream")
        self.order.append(event)

    # What a check calls

    def start(self) -> Line:
        """Begin delivery."""
        self.end.rules.call("start", lambda: self.substream.start(self))
        return self

    def write(self, *buffers: Buffer, end: bool = False) -> bool:
        """Write, and the end if ``end``."""
        return self.end.rules.call("write", lambda: self.substream.write(buffers, end))

    def consume_all(self) -> None:
        """Give credit for what was left, and from now on for what arrives."""
        self.reads = True
        unread, self.unread = self.unread, 0
        if unread:
            self.end.rules.call("consume", lambda: self.substream.consume(unread))

    def reset(self, code: int) -> None:
        """Give up our direction."""
        self.end.rules.call("reset", lambda: self.substream.reset(code))

    def stop(self, code: int) -> None:
        """Read no more."""
        self.end.rules.call("stop", lambda: self.substream.stop(code))


class End:
    """The session above one connection."""

    def __init__(self, connection: Connection, rules: Rules, *, expects_control: bool) -> None:
        self.connection = connection
        self.rules = rules
        self.lines: list[Line] = []
        self.control: Line | None = None
        self.datagrams: list[bytes] = []
        self.closed: list[EchoStreamError | None] = []
        self.reads = True
        self.echoes = False
        self.hook: Callable[[Line], None] | None = None
        """Called with each substream that the peer opens."""
        self._expects_control = expects_control

    # What the connection calls

    def on_substream(self, substream: Substream) -> SubstreamReceiver:
        """Receive it with a line; the first one is the control substream where that is awaited."""
        self.happened("on_substream")
        line = Line(self, substream, reads=self.reads)
        if self._expects_control and self.control is None:
            self.control = line
            return line
        line.echoes = self.echoes
        self.lines.append(line)
        if self.hook is not None:
            self.hook(line)
        return line

    def on_datagram(self, data: Buffer) -> None:
        """Keep it."""
        self.happened("on_datagram")
        self.datagrams.append(bytes(data))

    def on_closed(self, error: EchoStreamError | None) -> None:
        """Keep it."""
        self.happened("on_closed")
        self.closed.append(error)

    def happened(self, event: str) -> None:
        """A callback has come, of the connection or of one of its substreams."""
        self.rules.happened(event)
        if self.closed:
            self.rules.violations.append(f"{event} came after on_closed")

    # What a check calls

    def start(self) -> End:
        """Begin delivery."""
        self.rules.call("start", lambda: self.connection.start(self))
        return self

    def open(self, priority: Priority = Priority.NORMAL, *, reads: bool = True) -> Line:
        """Open a substream and start it."""
        substream = self.rules.call("open_substream", lambda: self.connection.open_substream(priority))
        return Line(self, substream, reads=reads).start()

    def open_control(self) -> Line:
        """Open the control substream and write a byte: the peer learns of it."""
        self.control = self.open(Priority.CONTROL)
        self.control.write(b"c")
        return self.control

    def send_datagram(self, *data: Buffer) -> bool:
        """Send one datagram."""
        return self.rules.call("send_datagram", lambda: self.connection.send_datagram(data))

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close in order."""
        self.rules.call("close", lambda: self.connection.close(code, reason))

    def abort(self) -> None:
        """End at once."""
        self.rules.call("abort", self.connection.abort)


class PipeEnd:
    """What stands in the mux's place above a bare pipe."""

    def __init__(self, pipe: Pipe, rules: Rules) -> None:
        self.pipe = pipe
        self.rules = rules
        self.data = bytearray()
        self.writables = 0
        self.closed: list[EchoStreamError | None] = []
        self.paused = False

    def on_data(self, data: Buffer) -> None:
        """Keep it."""
        self._happened("on_data")
        if self.paused:
            self.rules.violations.append("on_data came while the pipe was paused")
        self.data += data

    def on_writable(self) -> None:
        """Count it."""
        self._happened("on_writable")
        self.writables += 1

    def on_closed(self, error: EchoStreamError | None) -> None:
        """Keep it."""
        self._happened("on_closed")
        self.closed.append(error)

    def _happened(self, event: str) -> None:
        self.rules.happened(event)
        if self.closed:
            self.rules.violations.append(f"{event} came after on_closed")

    def start(self) -> PipeEnd:
        """Begin delivery."""
        self.rules.call("start", lambda: self.pipe.start(self))
        return self

    def write(self, *buffers: Buffer) -> bool:
        """Write."""
        return self.rules.call("write", lambda: self.pipe.write(buffers))

    def pause(self) -> None:
        """Stop delivery."""
        self.paused = True
        self.rules.call("pause", self.pipe.pause)

    def resume(self) -> None:
        """Deliver again."""
        self.paused = False
        self.rules.call("resume", self.pipe.resume)

    def close(self) -> None:
        """Close in order."""
        self.rules.call("close", self.pipe.close)

    def abort(self) -> None:
        """End at once."""
        self.rules.call("abort", self.pipe.abort)
