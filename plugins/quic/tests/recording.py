"""Receivers that write down what a connection calls, and how to connect two ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec

from echostream_core.errors import EchoStreamError
from echostream_core.transport import Acceptor, Connection, Listener, Pipe, Substream
from echostream_core.types import Buffer, Priority, Url
from echostream_quic.connection import QuicConnection
from echostream_quic.listener import QuicListener
from echostream_quic.options import QuicOptions
from echostream_quic.substream import QuicSubstream
from echostream_quic.transport import QuicTransport

_T = TypeVar("_T")

DEVELOPMENT: dict[str, Any] = {"tls": {"dev": True}}


class Watched:
    """Waits for callbacks, and finds those that come within one of our calls."""

    def __init__(self, violations: list[str]) -> None:
        self.events: list[str] = []
        self.violations = violations
        self._calling = ""
        self._changed = asyncio.Event()

    def happened(self, event: str) -> None:
        if self._calling:
            self.violations.append(f"on_{event} within {self._calling}")
        self.events.append(event)
        self._changed.set()

    def call(self, name: str, call: Callable[[], _T]) -> _T:
        outer, self._calling = self._calling, name
        try:
            return call()
        finally:
            self._calling = outer

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for callbacks until ``condition`` holds; pytest-timeout ends what never will."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def happens(self, event: str) -> None:
        """Wait for ``event``."""
        await self.until(lambda: event in self.events)


class SubstreamRecorder(Watched):
    """The user of one substream. Consumes what arrives unless ``reads`` is False."""

    def __init__(self, substream: Substream, violations: list[str], *, reads: bool = True) -> None:
        super().__init__(violations)
        assert isinstance(substream, QuicSubstream)
        self.substream = substream
        self.reads = reads
        self.unread = 0
        self.data = bytearray()
        self.hook: Callable[[SubstreamRecorder, bytes], object] | None = None
        self.reset_code: int | None = None
        self.stop_code: int | None = None

    # --- what the substream calls

    def on_data(self, data: Buffer) -> None:
        self.data += data
        if self.reads:
            self.substream.consume(len(data))
        else:
            self.unread += len(data)
        if {"end", "reset"} & set(self.events):
            self.violations.append("on_data after the end")
        self.happened("data")
        if self.hook is not None:
            self.hook(self, bytes(data))

    def on_end(self) -> None:
        self.happened("end")

    def on_reset(self, code: int) -> None:
        self.reset_code = code
        self.happened("reset")

    def on_stop(self, code: int) -> None:
        self.stop_code = code
        self.happened("stop")

    def on_writable(self) -> None:
        self.happened("writable")

    # --- what the test calls

    def start(self) -> SubstreamRecorder:
        self.call("start", lambda: self.substream.start(self))
        return self

    def write(self, *buffers: Buffer, end: bool = False) -> bool:
        return self.call("write", lambda: self.substream.write(buffers, end))

    def read_all(self) -> None:
        """Consume what has been left, and from now on what arrives."""
        self.reads = True
        unread, self.unread = self.unread, 0
        self.call("consume", lambda: self.substream.consume(unread))

    def reset(self, code: int) -> None:
        self.call("reset", lambda: self.substream.reset(code))

    def stop(self, code: int) -> None:
        self.call("stop", lambda: self.substream.stop(code))

    async def received(self, size: int) -> bytes:
        await self.until(lambda: len(self.data) >= size)
        return bytes(self.data)

    async def ended(self) -> bytes:
        await self.until(lambda: "end" in self.events)
        return bytes(self.data)


class Recorder(Watched):
    """The session above one connection."""

    def __init__(self, connection: Connection | Pipe, *, reads: bool = True) -> None:
        super().__init__([])
        assert isinstance(connection, QuicConnection)
        self.connection = connection
        self.reads = reads
        self.accepted: list[SubstreamRecorder] = []
        self.datagrams: list[bytes] = []
        self.closed: list[EchoStreamError | None] = []
        self.hook: Callable[[SubstreamRecorder, bytes], object] | None = None
        """Given to each accepted substream."""

    # --- what the connection calls

    def on_substream(self, substream: Substream) -> SubstreamRecorder:
        recorder = SubstreamRecorder(substream, self.violations, reads=self.reads)
        recorder.hook = self.hook
        self.accepted.append(recorder)
        self.happened("substream")
        return recorder

    def on_datagram(self, data: Buffer) -> None:
        self.datagrams.append(bytes(data))
        self.happened("datagram")

    def on_closed(self, error: EchoStreamError | None) -> None:
        if self.closed:
            self.violations.append("on_closed twice")
        self.closed.append(error)
        self.happened("closed")

    # --- what the test calls

    def start(self) -> Recorder:
        self.call("start", lambda: self.connection.start(self))
        return self

    def open(self, priority: Priority = Priority.NORMAL, *, reads: bool = True) -> SubstreamRecorder:
        substream = self.call("open_substream", lambda: self.connection.open_substream(priority))
        return SubstreamRecorder(substream, self.violations, reads=reads).start()

    def close(self, code: int = 0, reason: str = "") -> None:
        self.call("close", lambda: self.connection.close(code, reason))

    def abort(self) -> None:
        self.call("abort", self.connection.abort)

    def send_datagram(self, *data: Buffer) -> bool:
        return self.call("send_datagram", lambda: self.connection.send_datagram(data))

    async def substream(self, number: int) -> SubstreamRecorder:
        """The ``number``-th accepted one, control being 0 at the listener's end."""
        await self.until(lambda: len(self.accepted) > number)
        return self.accepted[number]

    async def ended(self) -> EchoStreamError | None:
        await self.until(lambda: self.closed)
        return self.closed[0]


class Ends:
    """Two connected ends: near dialled, far was accepted; and the control substream at both."""

    def __init__(self, near: Recorder, far: Recorder, listener: QuicListener) -> None:
        self.near = near
        self.far = far
        self.listener = listener
        self.control: SubstreamRecorder
        self.far_control: SubstreamRecorder

    async def open(self, priority: Priority = Priority.NORMAL, data: bytes = b"hello") -> tuple[Any, Any]:
        """A substream opened by near, and the same at far."""
        number = len(self.far.accepted)
        near = self.near.open(priority)
        near.write(data)
        far = await self.far.substream(number)
        await far.received(len(data))
        return near, far

    def check_rules(self) -> None:
        """What holds in every test."""
        assert self.near.violations == []
        assert self.far.violations == []


def options(**given: Any) -> QuicOptions:
    """Options as they would stand in a file."""
    return msgspec.convert({**DEVELOPMENT, **given}, QuicOptions)


async def listen(
    stack: AsyncExitStack, accept: Acceptor | None = None, url: str = "quic://127.0.0.1:0", **given: Any
) -> QuicListener:
    """A listener, closed with ``stack``. Without ``accept``, what it accepts is started, and aborted in the end."""

    def record(connection: Connection | Pipe) -> None:
        recorder = Recorder(connection).start()
        stack.push_async_callback(_end, recorder)

    listener = await QuicTransport().listen(Url.parse(url), options(**given), accept or record)
    assert isinstance(listener, QuicListener)
    stack.push_async_callback(listener.close)
    return listener


async def dial(url: str | Listener, **given: Any) -> QuicConnection:
    """Dial with ``given`` options."""
    address = url if isinstance(url, str) else url.addresses[0]
    connection = await QuicTransport().dial(Url.parse(address), options(**given))
    assert isinstance(connection, QuicConnection)
    return connection


async def connect(
    stack: AsyncExitStack,
    *,
    near_options: dict[str, Any] | None = None,
    far_options: dict[str, Any] | None = None,
    far_reads: bool = True,
    control: bool = True,
) -> Ends:
    """Listen, dial, start both ends and open the control substream. What is still open at the end is aborted."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    def accept(connection: Connection | Pipe) -> None:
        accepted.set_result(Recorder(connection, reads=far_reads).start())

    listener = await listen(stack, accept, **(far_options or {}))
    near = Recorder(await dial(listener, **(near_options or {}))).start()
    far = await accepted
    stack.push_async_callback(_end, near, far)
    ends = Ends(near, far, listener)
    if control:
        ends.control, ends.far_control = await ends.open(Priority.CONTROL, b"SETUP")
    return ends


async def _end(*recorders: Recorder) -> None:
    for recorder in recorders:
        recorder.abort()
    for recorder in recorders:
        await recorder.ended()


class LogLines(logging.Handler):
    """The lines that one logger writes, to be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(record.getMessage())

    async def wait(self, count: int = 1) -> Sequence[str]:
        """The first ``count`` lines."""
        while len(self.lines) < count:
            await asyncio.sleep(0.005)
        return self.lines
