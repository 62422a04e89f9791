"""A network between a client and a server over ``memory``, which a test can cut after any byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from echostream_core import EchoStreamError, Priority, Url
from echostream_core.builtin.memory import MemoryOptions, MemoryTransport
from echostream_core.transport import Connection, Pipe, Substream
from echostream_core.types import Buffer
from tests.support.pairs import memory_url

__all__ = ["Relay", "relayed"]


class _Half:
    """One direction of one substream: what arrives here is written there."""

    def __init__(self, relay: Relay, source: Substream, target: Substream, direction: str) -> None:
        self.relay = relay
        self.source = source
        self.target = target
        self.direction = direction

    def on_data(self, data: Buffer) -> None:
        self.source.consume(len(data))
        allowed = self.relay.pass_on(self.direction, len(data))
        if allowed:
            self.target.write([bytes(data[:allowed])])
        if allowed < len(data):
            self.relay.cut()

    def on_end(self) -> None:
        if not self.relay.stalled:
            self.target.write((), end=True)

    def on_reset(self, code: int) -> None:
        if not self.relay.stalled:
            self.target.reset(code)

    def on_stop(self, code: int) -> None:
        if not self.relay.stalled:
            self.target.stop(code)

    def on_writable(self) -> None:
        """Nothing waits here."""


class _Side:
    """One connection of the relay."""

    def __init__(self, relay: Relay, connection: Connection, direction: str) -> None:
        self.relay = relay
        self.connection = connection
        self.direction = direction
        self.other: _Side | None = None

    def on_substream(self, substream: Substream) -> _Half:
        assert self.other is not None
        # The dialer's first substream is the control substream: it is the first one in that direction.
        first = self.direction == "up" and not self.relay.opened
        self.relay.opened += 1
        twin = self.other.connection.open_substream(Priority.CONTROL if first else Priority.NORMAL)
        twin.start(_Half(self.relay, twin, substream, self.other.direction))
        return _Half(self.relay, substream, twin, self.direction)

    def on_datagram(self, data: Buffer) -> None:
        """Nobody sends any."""

    def on_closed(self, error: EchoStreamError | None) -> None:
        if self.other is not None and not self.relay.stalled:
            self.other.connection.close(getattr(error, "close_code", None) or 0, "")


class Relay:
    """Counts the bytes that pass in each direction (``up``: from the dialer) and cuts where it was told to."""

    def __init__(
        self, direction: str = "up", after: int | None = None, cut: Callable[[Relay], None] | None = None
    ) -> None:
        self.passed = {"up": 0, "down": 0}
        self.opened = 0
        self.stalled = False
        self.sides: list[_Side] = []
        self._direction = direction
        self._after = after
        self._cut = cut

    def pass_on(self, direction: str, size: int) -> int:
        """How many of ``size`` bytes may pass."""
        if self.stalled:
            return 0
        if direction == self._direction and self._after is not None:
            size = min(size, self._after - self.passed[direction])
        self.passed[direction] += size
        return size

    def cut(self) -> None:
        """Do what was asked for, once."""
        if not self.stalled:
            self.stalled = True
            if self._cut is not None:
                self._cut(self)

    def abort(self) -> None:
        """End both connections at once, without a word."""
        self.stalled = True
        for side in self.sides:
            side.connection.abort()


@asynccontextmanager
async def relayed(url: str, relay: Relay) -> AsyncIterator[str]:
    """The URL under which ``url`` is reached through ``relay``; for one dialer."""
    transport = MemoryTransport()
    front = memory_url()

    def accept(made: Connection | Pipe) -> None:
        assert isinstance(made, Connection)
        near = _Side(relay, made, "up")
        far = _Side(relay, target, "down")
        near.other, far.other = far, near
        relay.sides = [near, far]
        made.start(near)
        target.start(far)

    target = await transport.dial(Url.parse(url), MemoryOptions())
    listener = await transport.listen(Url.parse(front), MemoryOptions(), accept)
    try:
        yield front
    finally:
        await listener.close()
        target.abort()
        relay.abort()
