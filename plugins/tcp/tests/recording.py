"""Receivers that write down what a pipe calls, raw peers that misbehave, and how to connect two ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar, cast

import msgspec

from echostream_core.errors import EchoStreamError
from echostream_core.transport import Connection, Listener, Pipe, Transport
from echostream_core.types import Buffer, Url
from echostream_tcp import echostream_transports

_T = TypeVar("_T")

SPECS = {spec.scheme: spec for spec in echostream_transports()}


class Recorder:
    """Writes down what a pipe calls, and calls the pipe such that a callback within the call is found."""

    def __init__(self, pipe: Connection | Pipe) -> None:
        assert isinstance(pipe, Pipe)
        self.pipe = pipe
        self.data = bytearray()
        self.events: list[str] = []
        self.closed: list[EchoStreamError | None] = []
        self.violations: list[str] = []
        self.paused = False
        self._calling = ""
        self._changed = asyncio.Event()
        self.on_data_hook: Callable[[Recorder], None] | None = None

    # --- what the pipe calls

    def on_data(self, data: Buffer) -> None:
        if self.paused:
            self.violations.append("on_data while paused")
        self.data += data
        self._happened("data")
        if self.on_data_hook is not None:
            self.on_data_hook(self)

    def on_writable(self) -> None:
        self._happened("writable")

    def on_closed(self, error: EchoStreamError | None) -> None:
        self.closed.append(error)
        self._happened("closed")

    def _happened(self, event: str) -> None:
        if self._calling:
            self.violations.append(f"on_{event} within {self._calling}")
        if "closed" in self.events:
            self.violations.append(f"on_{event} after on_closed")
        self.events.append(event)
        self._changed.set()

    # --- what the test calls

    def start(self) -> Recorder:
        self._call("start", lambda: self.pipe.start(self))
        return self

    def write(self, *buffers: Buffer) -> bool:
        return self._call("write", lambda: self.pipe.write(buffers))

    def pause(self) -> None:
        self.paused = True
        self._call("pause", self.pipe.pause)

    def resume(self) -> None:
        self.paused = False
        self._call("resume", self.pipe.resume)

    def close(self) -> None:
        self._call("close", self.pipe.close)

    def abort(self) -> None:
        self._call("abort", self.pipe.abort)

    def _call(self, name: str, call: Callable[[], _T]) -> _T:
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

    async def received(self, size: int) -> bytes:
        await self.until(lambda: len(self.data) >= size)
        return bytes(self.data)

    async def ended(self) -> EchoStreamError | None:
        await self.until(lambda: self.closed)
        return self.closed[0]

    def check_rules(self) -> None:
        """What holds in every test."""
        assert self.violations == []
        assert len(self.closed) <= 1


@dataclass
class Ends:
    """Two connected pipes: near dialled, far was accepted."""

    near: Recorder
    far: Recorder
    listener: Listener
    address: Url


async def listen(
    url: Url,
    options: dict[str, object],
    stack: AsyncExitStack,
    accept: Callable[[Connection | Pipe], None] | None = None,
) -> Listener:
    """A listener that is closed with ``stack``. Without ``accept`` what it accepts is started and recorded."""
    spec = SPECS[url.scheme]

    def record(pipe: Connection | Pipe) -> None:
        Recorder(pipe).start()

    listener = await spec.factory().listen(url, msgspec.convert(options, spec.options), accept or record)
    stack.push_async_callback(listener.close)
    return listener


async def dial(url: Url | str, options: dict[str, object], transport: Transport | None = None) -> Pipe:
    """Dial with ``options`` as they would stand in a file."""
    url = Url.parse(url) if isinstance(url, str) else url
    spec = SPECS[url.scheme]
    transport = transport if transport is not None else spec.factory()
    return cast("Pipe", await transport.dial(url, msgspec.convert(options, spec.options)))


async def connect(
    url: Url,
    options: dict[str, object],
    stack: AsyncExitStack,
    *,
    dial_options: dict[str, object] | None = None,
    paused: bool = False,
) -> Ends:
    """Listen, dial, and start both ends. Whatever is still open when ``stack`` ends is aborted.

    ``paused``: the accepted end is paused before the acceptor returns. Later connections are accepted as well.
    """
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    def accept(pipe: Connection | Pipe) -> None:
        recorder = Recorder(pipe).start()
        if not accepted.done():
            accepted.set_result(recorder)
            if paused:
                recorder.pause()

    listener = await listen(url, options, stack, accept)
    address = Url.parse(listener.addresses[0])
    near = Recorder(await dial(address, options if dial_options is None else dial_options)).start()
    far = await accepted
    stack.push_async_callback(_end, near, far)
    return Ends(near, far, listener, address)


async def _end(*recorders: Recorder) -> None:
    for recorder in recorders:
        recorder.abort()
    for recorder in recorders:
        await recorder.ended()


def raw_socket(address: Url | str) -> socket.socket:
    """A plain blocking socket that is connected to ``address`` and knows nothing of any protocol."""
    url = Url.parse(address) if isinstance(address, str) else address
    if url.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(url.path)
        return sock
    return socket.create_connection((url.host, url.port or 0))


def reset(sock: socket.socket) -> None:
    """Close a TCP socket such that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class LogLines(logging.Handler):
    """The lines that one logger writes, to be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(record.getMessage())
        self._changed.set()

    async def wait(self, count: int = 1) -> Sequence[str]:
        """The first ``count`` lines."""
        while len(self.lines) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.lines
