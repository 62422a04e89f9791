"""The plain pipe with a handshake of its own: the listener speaks one byte first, and a dialer waits for it.

A dialer that has been greeted at an address before does not wait again: its first bytes travel before the handshake is
complete, which is what ``early_data`` means.
"""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from echostream_core.errors import ConnectFailed
from echostream_core.transport import Acceptor, Pipe, PipeReceiver
from echostream_core.types import Url
from plugins.testkit.tests.mutations.transport_pipe import PlainPipe, PlainTransport

__all__ = ["GreetingPipe", "HastyTransport"]

GREETING: Final = b"!"

_greeted: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, set[Url]]] = WeakKeyDictionary()
"""Where dialers of an event loop have been greeted."""


class GreetingPipe(PlainPipe):
    """Greets when it was accepted; awaits the greeting when it has dialled."""

    def __init__(self, accept: Acceptor | None = None) -> None:
        super().__init__(accept)
        self.greeted: asyncio.Future[None] | None = None
        self.early = b""
        if accept is None:
            self.greeted = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet before anything else is said, or listen for the greeting."""
        if self.greeted is None:
            assert isinstance(transport, asyncio.WriteTransport)
            transport.write(GREETING)
        super().connection_made(transport)
        if self.greeted is not None:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """The greeting, then what follows it."""
        if self.greeted is not None and not self.greeted.done():
            self.greeted.set_result(None)
            data = data[len(GREETING) :]
            if self.receiver is None or self.paused:
                self.transport.pause_reading()
        if self.receiver is None:
            self.early += data
        elif data:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """No greeting will come."""
        if self.greeted is not None and not self.greeted.done():
            self.greeted.set_result(None)
        super().connection_lost(exc)

    def start(self, receiver: PipeReceiver) -> None:
        """What came behind the greeting is delivered on a later turn."""
        super().start(receiver)
        early, self.early = self.early, b""
        if early:
            asyncio.get_running_loop().call_soon(super().data_received, early)


class HastyTransport(PlainTransport):
    """Waits for the greeting once per address."""

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect, and wait for the greeting where it is the first one."""
        pipe = await super().dial(url, options)
        assert isinstance(pipe, GreetingPipe) and pipe.greeted is not None
        known = _greeted.setdefault(asyncio.get_running_loop(), set())
        if url not in known:
            try:
                await pipe.greeted
            except asyncio.CancelledError:
                pipe.abort()
                raise
            if pipe.gone:
                raise ConnectFailed(f"nobody greets at {url}")
            known.add(url)
        return pipe
