"""A correct native transport over TCP, to lie about: ``wired://127.0.0.1:0``, with datagrams that are emulated.

The plain pipe and the kernel's mux, under a layer that makes a connection of them: one byte at the beginning of each
substream says whose it is, the user's or the datagrams'. A datagram is a length of four bytes and its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import EchoStreamError, LimitExceeded
from echostream_core.hookspecs import hookimpl
from echostream_core.testing import as_connection
from echostream_core.transport import Acceptor, Connection, Listener, Pipe, Substream, SubstreamReceiver, TransportSpec
from echostream_core.types import Buffer, Priority, Url
from plugins.testkit.tests.mutations.transport_native import LayeredConnection, LayeredSubstream, LayeredTransport
from plugins.testkit.tests.mutations.transport_pipe import (
    PLAIN_CAPABILITIES,
    PlainOptions,
    PlainPipe,
    PlainTransport,
)

__all__ = ["SCHEME", "WIRED_CAPABILITIES", "WiredConnection", "WiredTransport", "echostream_transports", "wired_spec"]

SCHEME: Final = "wired"
WIRED_CAPABILITIES: Final = replace(PLAIN_CAPABILITIES, streams="native", datagrams="emulated")
MAX_DATAGRAM_BYTES: Final = 1_200
MAX_QUEUED_BYTES: Final = 131_072
USERS: Final = b"\0"
DATAGRAMS: Final = b"\1"


class WiredSubstream(LayeredSubstream):
    """A substream of the user's; the first write says so."""

    announced = False

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        """Pass on, with the byte in front."""
        if not self.announced and (any(buffers) or end):
            self.announced = True
            buffers = [USERS, *buffers]
        return self.inner.write(buffers, end)


class Quiet(SubstreamReceiver):
    """Hears of nothing but what its subclasses listen to."""

    def on_data(self, data: Buffer, /) -> None:
        """Nothing."""

    def on_end(self) -> None:
        """Nothing."""

    def on_reset(self, code: int, /) -> None:
        """Nothing."""

    def on_stop(self, code: int, /) -> None:
        """Nothing."""

    def on_writable(self) -> None:
        """Nothing."""


class Arriving(Quiet):
    """A substream that the peer has opened, until its first byte says whose it is."""

    def __init__(self, connection: WiredConnection, substream: Substream) -> None:
        self.connection = connection
        self.substream = substream
        self.later: list[Callable[[SubstreamReceiver], None]] = []

    def on_data(self, data: Buffer, /) -> None:
        """The first bytes."""
        self.substream.consume(1)
        if bytes(data[:1]) == USERS:
            layer = WiredSubstream(self.connection, self.substream)
            layer.announced = True
            self.substream.start(layer)
            layer.receiver = self.connection.receiver.on_substream(layer)
            rest: SubstreamReceiver = layer
        else:
            rest = Datagrams(self.connection, self.substream)
            self.substream.start(rest)
        if len(data) > 1:
            rest.on_data(data[1:])
        for callback in self.later:
            callback(rest)

    def on_stop(self, code: int, /) -> None:
        """It comes before the first byte when it was given before that was written."""
        self.later.append(lambda receiver: receiver.on_stop(code))


class Datagrams(Quiet):
    """Cuts what arrives into datagrams, or writes them and is told when there is room."""

    def __init__(self, connection: WiredConnection, substream: Substream) -> None:
        self.connection = connection
        self.substream = substream
        self.buffer = bytearray()

    def on_data(self, data: Buffer, /) -> None:
        """Deliver what is whole."""
        self.buffer += data
        self.substream.consume(len(data))
        while len(self.buffer) >= 4 and len(self.buffer) >= 4 + int.from_bytes(self.buffer[:4]):
            size = int.from_bytes(self.buffer[:4])
            datagram = bytes(self.buffer[4 : 4 + size])
            del self.buffer[: 4 + size]
            self.connection.receiver.on_datagram(datagram)

    def on_writable(self) -> None:
        """Send what waited."""
        self.connection.room = True
        self.connection.pump()


class WiredConnection(LayeredConnection):
    """One connection over one pipe."""

    substream_class = WiredSubstream

    def __init__(self, inner: Connection, capabilities: Capabilities) -> None:
        super().__init__(inner, capabilities)
        self.local_address = inner.local_address.replace("plain:", "wired:")
        self.peer_address = inner.peer_address.replace("plain:", "wired:")
        self.waiting: list[bytes] = []
        self.room = True
        self.datagrams: Substream | None = None
        self.ended = False

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        """Wait for the byte that says whose it is."""
        return Arriving(self, substream)

    def close(self, code: int, reason: str) -> None:
        """No datagram goes out any more."""
        self.ended = True
        super().close(code, reason)

    def abort(self) -> None:
        """Likewise."""
        self.ended = True
        super().abort()

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        """Likewise."""
        self.ended = True
        super().on_closed(error)

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Queue one; the oldest goes when too many wait."""
        datagram = b"".join(data)
        if len(datagram) > MAX_DATAGRAM_BYTES:
            raise LimitExceeded(
                f"a datagram of {len(datagram)} bytes: at most {MAX_DATAGRAM_BYTES} are possible here",
                limit="max_datagram_size",
                value=len(datagram),
                maximum=MAX_DATAGRAM_BYTES,
            )
        if self.ended:
            return True
        self.waiting.append(len(datagram).to_bytes(4) + datagram)
        dropped = len(self.waiting) > MAX_QUEUED_BYTES // MAX_DATAGRAM_BYTES
        if dropped:
            del self.waiting[0]
        self.pump()
        return not dropped

    def pump(self) -> None:
        """Write as many as there is room for."""
        if self.datagrams is None:
            self.datagrams = self.inner.open_substream(Priority.URGENT)
            self.datagrams.start(Datagrams(self, self.datagrams))
            self.room = self.datagrams.write([DATAGRAMS])
        while self.waiting and self.room and not self.ended:
            self.room = self.datagrams.write([self.waiting.pop(0)])

    def max_datagram_size(self) -> int:
        """Always the same here."""
        return MAX_DATAGRAM_BYTES


class WiredTransport(LayeredTransport):
    """``wired://127.0.0.1:PORT``."""

    connection_class = WiredConnection
    capabilities = WIRED_CAPABILITIES
    pipe_class: type[PlainPipe] = PlainPipe

    def __init__(self) -> None:
        super().__init__()
        self.pipes = PlainTransport()
        self.pipes.pipe_class = self.pipe_class

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Listen, and make connections of pipes."""

        def accept_pipe(pipe: Connection | Pipe) -> None:
            accept(self.connection_class(as_connection(pipe, "listener"), self.capabilities))

        listener = await self.pipes.listen(url, options, accept_pipe)
        listener.addresses = tuple(address.replace("plain:", "wired:") for address in listener.addresses)
        return listener

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        """Dial, and make a connection of the pipe."""
        return self.connection_class(as_connection(await self.pipes.dial(url, options), "dialer"), self.capabilities)


def wired_spec(
    factory: Callable[[], WiredTransport] = WiredTransport, capabilities: Capabilities = WIRED_CAPABILITIES
) -> TransportSpec:
    """The transport's spec, or that of a liar."""
    return TransportSpec(
        scheme=SCHEME, factory=factory, capabilities=capabilities, options=PlainOptions, summary="TCP, as connections"
    )


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer it, where a test has installed it."""
    return [wired_spec()]
