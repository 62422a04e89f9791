"""Receivers that write down what a connection calls, and two connected ends on a simulated network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import msgspec

from echostream_core.errors import EchoStreamError
from echostream_core.transport import Acceptor, Connection, Pipe, Substream
from echostream_core.types import Buffer, Priority, Url
from echostream_sim import Network, SimLoop, simulate
from echostream_sim.connection import SimConnection
from echostream_sim.link_ports import SimListener
from echostream_sim.link_substream import SimSubstream
from echostream_sim.options import SimOptions
from echostream_sim.transport import SimTransport

_T = TypeVar("_T")
_P = ParamSpec("_P")

URL = "sim://server:4433"


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
        """Wait for callbacks until ``condition`` holds; a simulation in which it never will is a Deadlock."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Stream(Watched):
    """The user of one substream. Consumes what arrives unless ``reads`` is False."""

    def __init__(self, substream: Substream, violations: list[str], *, reads: bool = True) -> None:
        super().__init__(violations)
        assert isinstance(substream, SimSubstream)
        self.substream = substream
        self.reads = reads
        self.unread = 0
        self.data = bytearray()
        self.reset_code: int | None = None
        self.stop_code: int | None = None

    def on_data(self, data: Buffer) -> None:
        self.data += data
        if self.reads:
            self.substream.consume(len(data))
        else:
            self.unread += len(data)
        if {"end", "reset"} & set(self.events):
            self.violations.append("on_data after the end")
        self.happened("data")

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

    async def happens(self, event: str) -> None:
        await self.until(lambda: event in self.events)

    async def received(self, size: int) -> bytes:
        await self.until(lambda: len(self.data) >= size)
        return bytes(self.data)

    async def ended(self) -> bytes:
        await self.happens("end")
        return bytes(self.data)


class Session(Watched):
    """The session above one connection."""

    def __init__(self, connection: Connection | Pipe, *, reads: bool = True) -> None:
        super().__init__([])
        assert isinstance(connection, SimConnection)
        self.connection = connection
        self.reads = reads
        self.accepted: list[Stream] = []
        self.datagrams: list[bytes] = []
        self.closed: list[EchoStreamError | None] = []

    def on_substream(self, substream: Substream) -> Stream:
        stream = Stream(substream, self.violations, reads=self.reads)
        self.accepted.append(stream)
        self.happened("substream")
        return stream

    def on_datagram(self, data: Buffer) -> None:
        self.datagrams.append(bytes(data))
        self.happened("datagram")

    def on_closed(self, error: EchoStreamError | None) -> None:
        if self.closed:
            self.violations.append("on_closed twice")
        self.closed.append(error)
        self.happened("closed")

    def start(self) -> Session:
        self.call("start", lambda: self.connection.start(self))
        return self

    def open(self, priority: Priority = Priority.NORMAL, *, reads: bool = True) -> Stream:
        substream = self.call("open_substream", lambda: self.connection.open_substream(priority))
        stream = Stream(substream, self.violations, reads=reads)
        self.call("start", lambda: substream.start(stream))
        return stream

    def close(self, code: int = 0, reason: str = "") -> None:
        self.call("close", lambda: self.connection.close(code, reason))

    def abort(self) -> None:
        self.call("abort", self.connection.abort)

    def send_datagram(self, *data: Buffer) -> bool:
        return self.call("send_datagram", lambda: self.connection.send_datagram(data))

    async def substream(self, number: int) -> Stream:
        """The ``number``-th accepted one."""
        await self.until(lambda: len(self.accepted) > number)
        return self.accepted[number]

    async def ended(self) -> EchoStreamError | None:
        await self.until(lambda: self.closed)
        return self.closed[0]


class Ends:
    """Two connected ends: near dialled, far was accepted; and the control substream at both."""

    def __init__(self, near: Session, far: Session, listener: SimListener) -> None:
        self.near = near
        self.far = far
        self.listener = listener
        self.control: Stream
        self.far_control: Stream

    async def open(self, priority: Priority = Priority.NORMAL, data: bytes = b"hello") -> tuple[Stream, Stream]:
        """A substream opened by near, and the same at far."""
        number = len(self.far.accepted)
        near = self.near.open(priority)
        near.write(data)
        far = await self.far.substream(number)
        await far.received(len(data))
        return near, far


def simulated(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run an asynchronous test as a simulation, on a network of its own with seed 7."""

    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        simulate(test(*args, **kwargs), seed=7, limit_s=3_600)

    del run.__wrapped__  # or pytest would take it for a coroutine function
    run.__signature__ = signature(test)  # type: ignore[attr-defined]  # fixtures and parameters are found by it
    return run


def loop() -> SimLoop:
    """The simulation's loop."""
    running = asyncio.get_running_loop()
    assert isinstance(running, SimLoop)
    return running


def network(**link: Any) -> Network:
    """The simulation's network, with a link between the hosts "client" and "server"."""
    here = loop().network
    here.host("server")
    here.host("client")
    here.link("client", "server", **link)
    return here


def options(**given: Any) -> SimOptions:
    """Options as they would stand in a file."""
    return msgspec.convert(given, SimOptions)


async def listen(accept: Acceptor, url: str = URL, **given: Any) -> SimListener:
    """Listen with ``given`` options."""
    return await SimTransport().listen(Url.parse(url), options(**given), accept)


async def dial(url: str = URL, **given: Any) -> SimConnection:
    """Dial with ``given`` options."""
    return await SimTransport().dial(Url.parse(url), options(**given))


@asynccontextmanager
async def connected(
    *,
    near_options: dict[str, Any] | None = None,
    far_options: dict[str, Any] | None = None,
    far_reads: bool = True,
    control: bool = True,
) -> AsyncIterator[Ends]:
    """Listen, dial, start both ends and open the control substream; afterwards check what holds in every test."""
    accepted: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    def accept(connection: Connection | Pipe) -> None:
        accepted.set_result(Session(connection, reads=far_reads).start())

    listener = await listen(accept, **(far_options or {}))
    near = Session(await dial(**(near_options or {}))).start()
    ends = Ends(near, await accepted, listener)
    if control:
        ends.control, ends.far_control = await ends.open(Priority.CONTROL, b"SETUP")
    yield ends
    for session in (ends.near, ends.far):
        session.abort()
        await session.ended()
        assert session.violations == []
    await listener.close()
