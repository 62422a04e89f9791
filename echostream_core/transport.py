"""The transport contract: what moves bytes, and how it talks to the session above it.

A transport listens and dials. What it yields is either a :class:`Connection`, which carries substreams of its own
(QUIC, in-process memory), or a :class:`Pipe`, one ordered pipe of bytes (TCP) of which the kernel's mux makes
substreams.

The contract is made of callbacks, as asyncio's Transport and Protocol are, so that nothing on the hot path costs a task
switch or a queue per message. Its rules, for both kinds:

* Every method and every callback runs on the event loop's thread. None of them blocks, none is a coroutine, but
  ``listen``, ``dial`` and ``Listener.close``.
* No callback runs inside a call of the other side: what a call causes is delivered on a later loop turn.
* No callback comes before ``start``; data that arrives earlier waits, bounded. ``on_closed`` is the last callback and
comes
  exactly once, also after our own ``close``.
* A buffer given to ``on_data`` or ``on_datagram`` is valid during that call only: copy what must outlive it. A buffer
  given to ``write`` belongs to the transport: do not change it afterwards.
* ``write`` never fails for pressure: it takes everything and answers False when the caller should wait for
``on_writable``.
* Foreign exceptions (``OSError``, ``ssl.SSLError``, a library's own) are translated at the plugin's edge into the
tree of
  ``errors.py``, cause chained.
* Codes are unsigned 32-bit integers (see ``CloseCode`` for those that the kernel uses).

Where a connection ends without our doing, ``on_closed`` names which of the four failures it was: ``EndOfStream``
(ended by the peer), ``ConnectionLost`` (broken by the network, or closed by the peer with a code),
``RemoteProtocolError`` (the peer broke the transport's rules), and None when we closed it ourselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import EchoStreamError
from echostream_core.types import Buffer, Priority, Url
from echostream_core.wire.datagrams import DatagramDrops

__all__ = [
    "Acceptor",
    "Connection",
    "ConnectionReceiver",
    "Listener",
    "NoOptions",
    "Pipe",
    "PipeReceiver",
    "Substream",
    "SubstreamReceiver",
    "Transport",
    "TransportSpec",
]


class SubstreamReceiver(Protocol):
    """What a substream calls on its user."""

    def on_data(self, data: Buffer, /) -> None:
        """Bytes arrived, in order; valid during the call. They count against the window until ``consume(n)``."""

    def on_end(self) -> None:
        """The peer has finished its direction; nothing more arrives. Ours stays open."""

    def on_reset(self, code: int, /) -> None:
        """The peer gave up its direction: what it sent may be incomplete. No ``on_end`` follows."""

    def on_stop(self, code: int, /) -> None:
        """The peer no longer reads what we write; further writes are dropped. Answer with ``reset``."""

    def on_writable(self) -> None:
        """A ``write`` answered False; now there is room again."""


class Substream(ABC):
    """One ordered, reliable, bidirectional sequence of bytes within a connection, with credit of its own."""

    @abstractmethod
    def start(self, receiver: SubstreamReceiver) -> None:
        """Begin delivery to ``receiver``; for accepted substreams done by the connection with ``on_substream``'s
        answer.

        Calling it again replaces the receiver.
        """

    @abstractmethod
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        """Queue ``buffers``, then the end of our direction if ``end``; False: wait for ``on_writable`` before more.

        Never fails for pressure, and is a no-op after ``reset``, the peer's ``stop`` or the connection's end (callbacks
        told of those). Writing after ``end`` raises ResourceClosed.
        """

    @abstractmethod
    def consume(self, size: int) -> None:
        """Give the peer credit for ``size`` bytes that ``on_data`` has delivered and the application has used."""

    @abstractmethod
    def reset(self, code: int) -> None:
        """Give up our direction: queued bytes are dropped, the peer gets ``on_reset(code)``. Idempotent."""

    @abstractmethod
    def stop(self, code: int) -> None:
        """Tell the peer that we read no more; it gets ``on_stop(code)``. Idempotent.

        We get no more ``on_data``, but still the one ``on_end`` or ``on_reset`` that says that its direction is over.
        """

    @property
    @abstractmethod
    def known_to_peer(self) -> bool:
        """Whether the end or reset that follows our reset and stop comes from the peer's session.

        False as long as nothing has gone out (it ends without a callback), and where the transport answers by itself.
        """

    @abstractmethod
    def set_priority(self, priority: Priority) -> None:
        """Change the class of what we write here. A transport without priorities ignores it."""


class ConnectionReceiver(Protocol):
    """What a connection calls on the session above it."""

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        """The peer opened a substream; the answer receives its callbacks."""

    def on_datagram(self, data: Buffer, /) -> None:
        """One datagram arrived, whole; valid during the call."""

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        """The connection is gone, and all its substreams with it (they get no callbacks of their own). None: by us."""


class Connection(ABC):
    """One transport-level connection that carries ordered substreams, and perhaps datagrams."""

    capabilities: Capabilities
    """What was negotiated on this connection."""
    local_address: str
    """Our end as a URL, as far as known."""
    peer_address: str
    """The peer's end as a URL. For logs and limits; not an identity."""
    peer_identity: str | None = None
    """Who the peer is, if the transport has proved it; None otherwise."""
    datagram_drops: DatagramDrops | None = None
    """Datagrams that this connection has dropped, by reason. The session counts on in it; None: it makes its own."""

    @abstractmethod
    def start(self, receiver: ConnectionReceiver) -> None:
        """Begin delivery to ``receiver``."""

    @abstractmethod
    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        """Open a substream; the caller then calls its ``start`` and writes. The peer learns of it with the first bytes.

        ``Priority.CONTROL`` marks the one substream that always goes first and is always read.
        Beyond the peer's limit of concurrent substreams the writes wait in the queue where that limit is known (QUIC,
        memory); where it is not (the mux), the peer resets and stops it with ``CloseCode.REFUSED``. Raises
        ResourceClosed after the end.
        """

    def flush(self) -> None:
        """The session writes no more in this loop turn: what is queued may go now instead of in the next one."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Send what is queued on the control substream, tell the peer ``code`` and ``reason``, and end. Idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """End at once, dropping what is queued. Idempotent."""

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Send ``data`` joined as one datagram; False when the bounded queue dropped an older one to take it.

        Datagrams wait in a bounded queue (``wire.datagrams.DatagramQueue``) until there is room to send them. One that
        still waits at ``expires_at`` (in ``loop.time()`` seconds; None: never) is dropped and not sent. What is dropped
        is counted in ``datagram_drops``. After the end it is a no-op.
        Raises CapabilityError where ``capabilities.datagrams`` is "none", LimitExceeded beyond ``max_datagram_size()``.
        """
        from echostream_core.errors import CapabilityError

        raise CapabilityError(f"{self.peer_address}: no datagrams on this connection", capability="datagrams")

    def max_datagram_size(self) -> int:
        """The largest datagram in bytes right now (it changes with the path); 0 without datagrams."""
        return 0


class PipeReceiver(Protocol):
    """What a pipe calls on the mux above it."""

    def on_data(self, data: Buffer, /) -> None:
        """Bytes arrived, in order; message boundaries mean nothing. Valid during the call."""

    def on_writable(self) -> None:
        """A ``write`` answered False; now there is room again."""

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        """The pipe is gone. None: closed by us; EndOfStream: the peer finished; ConnectionLost: the network did."""


class Pipe(ABC):
    """One ordered, reliable pipe of bytes. The kernel's mux makes substreams of it.

    ``write`` should answer False when more than about 64 KiB wait: what waits here can no longer be overtaken.
    """

    capabilities: Capabilities
    """What was negotiated on this connection; ``streams`` is "muxed"."""
    local_address: str
    peer_address: str
    peer_identity: str | None = None
    negotiated: bool = False
    """True when a handshake (ALPN ``echostream/1``) has already settled the protocol: the 8-byte preamble is left
    out."""

    @abstractmethod
    def start(self, receiver: PipeReceiver) -> None:
        """Begin delivery to ``receiver``."""

    @abstractmethod
    def write(self, buffers: Sequence[Buffer]) -> bool:
        """Queue ``buffers`` in order; False: wait for ``on_writable`` before more. A no-op after the end."""

    @abstractmethod
    def pause(self) -> None:
        """Stop delivering data (flow control of last resort). Idempotent."""

    @abstractmethod
    def resume(self) -> None:
        """Deliver data again. Idempotent."""

    @abstractmethod
    def close(self) -> None:
        """Send what is queued, then end. Idempotent. ``abort`` after a while is the caller's business."""

    @abstractmethod
    def abort(self) -> None:
        """End at once, dropping what is queued. Idempotent."""


Acceptor = Callable[[Connection | Pipe], None]
"""Called by a listener for each connection whose handshake is complete. It calls ``start`` before it returns."""


class Listener(ABC):
    """A bound address that accepts connections."""

    addresses: tuple[str, ...]
    """The bound URLs, ports resolved: what a dialer on this host would use."""

    @abstractmethod
    async def close(self) -> None:
        """Accept no more and free the address. Connections that were accepted go on. Idempotent."""


class Transport(ABC):
    """Moves bytes for one or more URL schemes. Made by ``TransportSpec.factory`` once per endpoint and scheme.

    ``options`` is an instance of ``TransportSpec.options``, validated.
    """

    @abstractmethod
    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Bind ``url`` (port 0: any free one) and hand each connection to ``accept``.

        Raises ConnectFailed (a TransportError) when the address cannot be bound, ConfigError for bad options.
        """

    @abstractmethod
    async def dial(self, url: Url, options: msgspec.Struct) -> Connection | Pipe:
        """Connect to ``url``; returns when the handshake is complete and the peer verified.

        Cancelling it leaves nothing behind: the caller sets the timeout. Raises ConnectFailed with the cause chained.
        """

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        """What is left of ``capabilities`` (the spec's upper bound) with ``options``. Default: all of it."""
        return capabilities


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a transport, codec or middleware that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSpec:
    """What the hook ``echostream_transports`` hands over: one per URL scheme."""

    scheme: str
    """The URL scheme, lower case; also the name of the section ``[transport.SCHEME]``."""
    factory: Callable[[], Transport]
    """Makes the transport. Cheap, no I/O."""
    capabilities: Capabilities
    """The upper bound of what its connections can do."""
    options: type[msgspec.Struct] = NoOptions
    """The schema of ``[transport.SCHEME]``; with a field ``tls: TlsOptions`` it takes the common TLS settings."""
    summary: str = ""
    """One line for listings."""
    notes: dict[str, str] = field(default_factory=dict)
    """Known gaps, capability name → reason."""
