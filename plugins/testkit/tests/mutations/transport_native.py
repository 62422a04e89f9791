"""A correct native transport to be made faulty: the contract's layer around ``memory``, ``native://name``.

Every call and every callback passes through here, so that one overridden method is one fault. The layer itself adds
nothing: with none of its methods overridden it is the memory transport under another scheme.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakSet

import msgspec

from echostream_core.builtin.memory import MemoryOptions, MemoryTransport
from echostream_core.builtin.memory_connection import CAPABILITIES
from echostream_core.capabilities import Capabilities
from echostream_core.errors import EchoStreamError
from echostream_core.transport import (
    Acceptor,
    Connection,
    ConnectionReceiver,
    Listener,
    Pipe,
    Substream,
    SubstreamReceiver,
    Transport,
    TransportSpec,
)
from echostream_core.types import Buffer, Priority, Url

__all__ = [
    "SCHEME",
    "LayeredConnection",
    "LayeredListener",
    "LayeredSubstream",
    "LayeredTransport",
    "native_spec",
    "soon",
]

SCHEME: Final = "native"


def soon(call: Callable[[], object]) -> None:
    """Do ``call`` on a later turn of the loop."""
    asyncio.get_running_loop().call_soon(call)


class LayeredSubstream(Substream, SubstreamReceiver):
    """One substream: towards the user a substream, towards the memory transport its receiver."""

    def __init__(self, connection: LayeredConnection, inner: Substream) -> None:
        self.connection = connection
        self.inner = inner
        self.receiver: SubstreamReceiver

    # Down: what the user calls.

    def start(self, receiver: SubstreamReceiver) -> None:
        """Pass on."""
        self.receiver = receiver
        self.inner.start(self)

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        """Pass on."""
        return self.inner.write(buffers, end)

    def consume(self, size: int) -> None:
        """Pass on."""
        self.inner.consume(size)

    def reset(self, code: int) -> None:
        """Pass on."""
        self.inner.reset(code)

    def stop(self, code: int) -> None:
        """Pass on."""
        self.inner.stop(code)

    @property
    def known_to_peer(self) -> bool:
        """Pass on."""
        return self.inner.known_to_peer

    def set_priority(self, priority: Priority) -> None:
        """Pass on."""
        self.inner.set_priority(priority)

    # Up: what the memory transport calls.

    def on_data(self, data: Buffer, /) -> None:
        """Pass on."""
        self.receiver.on_data(data)

    def on_end(self) -> None:
        """Pass on."""
        self.receiver.on_end()

    def on_reset(self, code: int, /) -> None:
        """Pass on."""
        self.receiver.on_reset(code)

    def on_stop(self, code: int, /) -> None:
        """Pass on."""
        self.receiver.on_stop(code)

    def on_writable(self) -> None:
        """Pass on."""
        self.receiver.on_writable()


class LayeredConnection(Connection, ConnectionReceiver):
    """One connection, likewise in both directions."""

    substream_class: type[LayeredSubstream] = LayeredSubstream

    def __init__(self, inner: Connection, capabilities: Capabilities) -> None:
        self.inner = inner
        self.capabilities = capabilities
        self.local_address = inner.local_address
        self.peer_address = inner.peer_address
        self.receiver: ConnectionReceiver

    # Down.

    def start(self, receiver: ConnectionReceiver) -> None:
        """Pass on."""
        self.receiver = receiver
        self.inner.start(self)

    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        """Pass on, with a layer around the substream."""
        return self.substream_class(self, self.inner.open_substream(priority))

    def close(self, code: int, reason: str) -> None:
        """Pass on."""
        self.inner.close(code, reason)

    def abort(self) -> None:
        """Pass on."""
        self.inner.abort()

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Pass on."""
        return self.inner.send_datagram(data, expires_at)

    def max_datagram_size(self) -> int:
        """Pass on."""
        return self.inner.max_datagram_size()

    # Up.

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        """Pass on, with a layer around the substream."""
        layer = self.substream_class(self, substream)
        layer.receiver = self.receiver.on_substream(layer)
        return layer

    def on_datagram(self, data: Buffer, /) -> None:
        """Pass on."""
        self.receiver.on_datagram(data)

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        """Pass on."""
        self.receiver.on_closed(error)


class LayeredListener(Listener):
    """One listener."""

    def __init__(self, inner: Listener, accepted: WeakSet[LayeredConnection]) -> None:
        self.inner = inner
        self.accepted = accepted
        self.addresses = inner.addresses

    async def close(self) -> None:
        """Pass on."""
        await self.inner.close()


class LayeredTransport(Transport):
    """``native://NAME``."""

    connection_class: type[LayeredConnection] = LayeredConnection
    listener_class: type[LayeredListener] = LayeredListener
    capabilities: Capabilities = CAPABILITIES
    """What its connections say of themselves."""

    def __init__(self) -> None:
        self.inner = MemoryTransport()

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Pass on."""
        accepted: WeakSet[LayeredConnection] = WeakSet()

        def accept_layered(inner: Connection | Pipe) -> None:
            assert isinstance(inner, Connection)
            connection = self.connection_class(inner, self.capabilities)
            accepted.add(connection)
            accept(connection)

        return self.listener_class(await self.inner.listen(url, options, accept_layered), accepted)

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        """Pass on."""
        return self.connection_class(await self.inner.dial(url, options), self.capabilities)


def native_spec(
    factory: Callable[[], Transport] = LayeredTransport,
    capabilities: Capabilities = CAPABILITIES,
    options: type[msgspec.Struct] = MemoryOptions,
) -> TransportSpec:
    """The transport's spec, or that of a faulty variant."""
    return TransportSpec(
        scheme=SCHEME, factory=factory, capabilities=capabilities, options=options, summary="memory, layered"
    )
