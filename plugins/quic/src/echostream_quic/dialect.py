"""What is spoken over a QUIC connection: EchoStream itself, or EchoStream as a guest in another protocol.

:class:`Dialect` is ``echostream/1``: every bidirectional stream is a substream, the dialer's first is the control
substream, codes and datagrams are sent as they are. A guest (WebTransport is one: HTTP/3 with EchoStream inside) is a
subclass that changes what is different and leaves the rest, above all the engine, to this plugin. It may

* keep streams for itself, of both kinds: ``accept`` puts a :class:`StreamOwner` in the place of a substream;
* have a handshake of its own before the connection is handed over: ``handshaken`` is called when QUIC's is complete,
  and the guest calls ``connection.ready()`` when its own is;
* put bytes before each substream and each datagram, and map codes;
* say good-bye in its own words before QUIC's.

One dialect object serves one connection. Nothing here is called for each packet or message, but for ``datagram``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from echostream_core.errors import ConnectFailed, EchoStreamError
from echostream_quic import _errors
from echostream_quic._errors import ALPN, Ending, printable

if TYPE_CHECKING:
    from echostream_quic.connection import QuicConnection
    from echostream_quic.substreams import SubstreamState
    from echostream_quic.tenants import Tenant

__all__ = ["Dialect", "Ending", "StreamOwner", "printable"]


class StreamOwner(Protocol):
    """Who takes what arrives on a stream: a substream, or a guest's own object. It stands in ``stream.substream``."""

    def deliver(self) -> None:
        """Something has changed: ``incoming``, ``ended``, ``reset_code`` or ``stop_code`` of the stream."""

    def relieved(self) -> None:
        """The queue has room again."""

    def lost(self) -> None:
        """The connection has ended."""


class Dialect:
    """``echostream/1``: plain EchoStream over QUIC."""

    alpn: ClassVar[str] = ALPN
    """The name of the protocol in the handshake."""
    uni_streams: ClassVar[int] = 0
    """Unidirectional streams that the peer may have open at once."""
    first_is_control: ClassVar[bool] = True
    """The dialer's first stream is the control substream; otherwise ``accept`` says which is."""
    is_guest: ClassVar[bool] = False
    """Some streams and datagrams are not the session's, and the peer is served before there is a session."""

    route_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that may differ between listeners that share a port and this protocol."""

    def __init__(self) -> None:
        self.path = ""
        """What stands behind the port in the addresses of its connections."""
        self.prefix = b""
        """What stands before the bytes of each substream that we open."""
        self.datagram_prefix = b""
        """What stands before each datagram that we send."""
        self.routes: Callable[[], Mapping[str, Tenant]] = dict
        """At a listener: who listens for this protocol at the port now, by route."""

    # The beginning

    def handshaken(self, connection: QuicConnection) -> None:
        """The handshake is complete, the peer verified. Call ``connection.ready()``, now or later."""
        connection.ready()

    def started(self, connection: QuicConnection) -> None:
        """The session listens: substreams that waited for it may be delivered."""

    def accept(self, connection: QuicConnection, stream: SubstreamState) -> bool:
        """A new stream of the peer has something to deliver; False: it stays without an owner for now."""
        connection.hand_over(stream, control=stream.stream_id == 0)
        return True

    def owns(self, stream: SubstreamState) -> bool:
        """Whether ``stream`` is not the session's, and is served even while the connection closes."""
        return False

    def datagram(self, data: bytes) -> bytes | None:
        """What the session gets of a datagram that arrived, for guests; None: it is not for the session."""
        return data

    # Codes

    def code_out(self, code: int) -> int:
        """A code of ours for RESET_STREAM and STOP_SENDING."""
        return code & 0xFFFF_FFFF

    def code_in(self, code: int) -> int:
        """What the peer's code in one of them means."""
        return _errors.code_of(code)

    # The end

    def may_close(self, connection: QuicConnection, code: int, reason: str, *, late: bool) -> bool:
        """All that was queued is sent, or waited for long enough (``late``): whether QUIC's farewell may follow now."""
        return True

    def farewell(self, code: int, reason: str) -> tuple[int, str]:
        """Code and reason of CONNECTION_CLOSE."""
        return code, reason

    def ended(self, peer: str, ending: Ending, *, idle_s: float) -> EchoStreamError:
        """Why an established connection that we did not close has ended."""
        return _errors.connection_ended(peer, ending, idle_s=idle_s)

    def connect_failed(self, url: str, ending: Ending, *, patience_s: float) -> ConnectFailed:
        """Why a connection that we began was not established."""
        return _errors.connect_failed(url, ending, patience_s=patience_s, alpn=self.alpn)

    def never_ready(self, ending: Ending) -> str:
        """For a listener's log: why a connection whose QUIC handshake was complete came to nothing; "": no matter."""
        return str(ending)
