"""Transport ``memory``: both ends in one process and event loop, by the rules of a network transport.

Substreams, credit, resets, stops, half-close, datagrams and close codes work as they do elsewhere, so that
a program that is tested over ``memory://name`` meets the same rules in production. Only the network is
missing: nothing is encoded, and large buffers reach the other side as they are, read-only.

Everything is delivered on the next turn of the loop, at most one ``call_soon`` per connection end and turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import copy_context
from itertools import count
from typing import Final

import msgspec

from echostream_core.builtin.memory_connection import CAPABILITIES, MemoryConnection, connect_pair
from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.hookspecs import hookimpl
from echostream_core.transport import Acceptor, Listener, Transport, TransportSpec
from echostream_core.types import Url
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES, Limits

__all__ = ["MemoryListener", "MemoryOptions", "MemoryTransport", "echostream_transports"]

_DEFAULTS: Final = Limits()


class MemoryOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options in ``[transport.memory]``; each end of a connection uses its own."""

    max_streams: int = _DEFAULTS.max_streams
    """Substreams that the peer may have open at once; its writes on further ones wait."""
    max_window_bytes: int = _DEFAULTS.max_window_bytes
    """To what the credit window of one substream may grow."""
    session_window_bytes: int = _DEFAULTS.session_window_bytes
    """Sum to which the windows of one connection may grow beyond their first size."""
    max_queued_datagrams: int = 256
    """Datagrams that wait for the next turn of the loop; beyond it the oldest is dropped."""

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        if self.max_streams < 4:
            raise ValueError("max_streams must be at least 4")
        if self.max_window_bytes < INITIAL_WINDOW_BYTES:
            raise ValueError(f"max_window_bytes must be at least {INITIAL_WINDOW_BYTES}")
        if self.session_window_bytes < 0:
            raise ValueError("session_window_bytes must not be negative")
        if self.max_queued_datagrams < 1:
            raise ValueError("max_queued_datagrams must be at least 1")


class MemoryListener(Listener):
    """A name under which ``dial`` finds an acceptor, on one event loop."""

    def __init__(self, address: str, options: MemoryOptions, accept: Acceptor) -> None:
        self.address = address
        self.addresses = (address,)
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.context = copy_context()
        self._accept = accept
        self._numbers = count(1)

    def connect(self, options: MemoryOptions) -> MemoryConnection:
        """Make a pair of connections, hand one to the acceptor and return the other."""
        dialer_address = f"{self.address}/dialer-{next(self._numbers)}"
        dialer, accepted = connect_pair(self.loop, dialer_address, self.address, options, self.options)
        try:
            self._accept(accepted)
        except BaseException:
            accepted.abort()
            raise
        return dialer

    async def close(self) -> None:
        """Free the name. Connections that were accepted go on."""
        if _listeners.get(self.address) is self:
            del _listeners[self.address]


class MemoryTransport(Transport):
    """Connects by name within this process."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> MemoryListener:
        """Take the name in ``url``. Raises ConnectFailed when another listener has it."""
        address = _address(url)
        other = _listeners.get(address)
        if other is not None and not other.loop.is_closed():
            raise ConnectFailed(f"{address}: the name is taken by another listener in this process")
        listener = _listeners[address] = MemoryListener(address, _checked(options), accept)
        return listener

    async def dial(self, url: Url, options: msgspec.Struct) -> MemoryConnection:
        """Connect to the listener of that name, which must be on this event loop."""
        address = _address(url)
        loop = asyncio.get_running_loop()
        listener = _listeners.get(address)
        if listener is None or listener.loop.is_closed():
            raise ConnectFailed(f"{address}: nobody in this process listens under that name")
        if listener.loop is not loop:
            raise ConnectFailed(
                f"{address}: the listener is on another event loop; memory connects within one loop only, "
                "use a network transport between threads"
            )
        answer: asyncio.Future[MemoryConnection] = loop.create_future()
        # On a later turn and in the listener's context: the acceptor must not run inside the dialer's call.
        loop.call_soon(_answer, answer, listener, _checked(options), context=listener.context)
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:
                answer.result().abort()
            raise


def _answer(answer: asyncio.Future[MemoryConnection], listener: MemoryListener, options: MemoryOptions) -> None:
    if answer.cancelled():
        return
    if _listeners.get(listener.address) is not listener:
        answer.set_exception(ConnectFailed(f"{listener.address}: the listener was closed"))
        return
    try:
        answer.set_result(listener.connect(options))
    except Exception as error:
        failure = ConnectFailed(f"{listener.address}: the listener failed to accept: {error!r}")
        failure.__cause__ = error
        answer.set_exception(failure)


def _address(url: Url) -> str:
    if not url.host:
        raise ConfigError(f"{url} has no name: write {url.scheme}://NAME")
    return str(url)


def _checked(options: msgspec.Struct) -> MemoryOptions:
    return options if isinstance(options, MemoryOptions) else MemoryOptions()


_listeners: Final[dict[str, MemoryListener]] = {}
"""By address; the one thing here that is global, because the process is what memory connects within."""


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer ``memory``."""
    return [
        TransportSpec(
            scheme="memory",
            factory=MemoryTransport,
            capabilities=CAPABILITIES,
            options=MemoryOptions,
            summary="within one process and event loop, for tests and for parts of one program",
            notes={
                "encrypted": "nothing leaves the process, so nobody can read it on the way",
                "priorities": "everything is delivered on the next turn of the loop: nothing waits long",
            },
        )
    ]
