"""One substream as the transport contract wants it, over a bidirectional QUIC stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from echostream_core.errors import LocalProtocolError, ResourceClosed
from echostream_core.transport import Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority
from echostream_quic.outgoing import HIGH_WATER_BYTES, Outgoing

if TYPE_CHECKING:
    from echostream_quic.connection import QuicConnection
    from echostream_quic.substreams import SubstreamState

__all__ = ["QuicSubstream"]


class QuicSubstream(Substream):
    """A substream of a :class:`QuicConnection`.

    ``stream`` is its place in the engine. One that we open gets it with its first bytes, so a substream that
    is given up before costs the peer nothing, and one beyond the peer's limit waits.
    """

    __slots__ = (
        "_connection",
        "_receiver",
        "_stop_code",
        "_told_end",
        "_told_stop",
        "_writing_over",
        "outgoing",
        "stream",
        "waiting",
    )

    def __init__(self, connection: QuicConnection, outgoing: Outgoing, stream: SubstreamState | None) -> None:
        self._connection = connection
        self._receiver: SubstreamReceiver | None = None
        self._stop_code: int | None = None  # ours, given before there was a stream
        self._told_end = False
        self._told_stop = False
        self._writing_over = False  # reset, stopped, or the connection is gone: writes are dropped
        self.outgoing = outgoing
        self.stream = stream
        self.waiting = False
        """Stands in the connection's line of those that the peer does not let us open yet."""
        if stream is not None:
            stream.substream = self

    def start(self, receiver: SubstreamReceiver) -> None:
        """Deliver to ``receiver`` from now on. What was written before the first start waits for it."""
        first = self._receiver is None
        self._receiver = receiver
        if first and not self._writing_over:
            if self.outgoing.queued_bytes or self.outgoing.ended:
                self._connection.written(self)
            if self.stream is not None and self.stream.changed is False and self.stream.incoming:
                self._connection.redeliver(self.stream)

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        """Queue ``buffers``, then the end of our direction if ``end``; False: wait for ``on_writable``."""
        if self._writing_over:
            return True
        outgoing = self.outgoing
        if outgoing.ended:
            raise ResourceClosed("this direction of the substream is ended: write() after end=True")
        outgoing.push(buffers, end=end)
        if self._receiver is not None and not outgoing.scheduled:
            self._connection.written(self)
        if outgoing.queued_bytes > HIGH_WATER_BYTES:
            outgoing.wants_room = True
            return False
        return True

    def consume(self, size: int) -> None:
        """Give the peer credit for ``size`` delivered bytes. Without effect on the control substream."""
        stream = self.stream
        window = None if stream is None else stream.window
        if window is not None and (window.fixed or window.closed):
            return
        if stream is None or window is None or not 0 <= size <= window.unconsumed:
            raise LocalProtocolError(f"consume({size}): so many bytes are not delivered and not yet consumed")
        self._connection.consumed(stream, size)

    def reset(self, code: int) -> None:
        """Give up our direction: what is queued is dropped. Idempotent."""
        if self._writing_over:
            return
        self._writing_over = True
        self._connection.reset(self, code)

    def stop(self, code: int) -> None:
        """Read no more: after this comes ``on_end`` or ``on_reset``, but no ``on_data``. Idempotent."""
        if self.stream is None:
            if self._stop_code is None:
                self._stop_code = code
        else:
            self._connection.stop(self.stream, code)

    @property
    def known_to_peer(self) -> bool:
        """Always False: a QUIC stack answers a stop by itself, so what follows says nothing of the peer's handler."""
        return False

    def set_priority(self, priority: Priority) -> None:
        """Change the class of what is written here. The control substream keeps its own."""
        if self.outgoing.priority is Priority.CONTROL or priority is self.outgoing.priority:
            return
        if priority is Priority.CONTROL:
            raise LocalProtocolError("a substream cannot become the control substream: open it as that")
        self._connection.reclass(self.outgoing, priority)

    # The connection's half

    def opened(self, stream: SubstreamState) -> None:
        """The engine has a stream for us; what waits is sent next."""
        self.stream = stream
        stream.substream = self
        if self._stop_code is not None:
            self._connection.stop(stream, self._stop_code)

    def deliver(self) -> None:
        """Tell the receiver what has arrived. The connection has taken us off its list."""
        receiver = self._receiver
        stream = self.stream
        if receiver is None or stream is None:
            return
        if stream.incoming and not stream.stopped:
            incoming, stream.incoming = stream.incoming, []
            if stream.window.fixed:
                self._connection.consumed(stream, sum(map(len, incoming)))
            receiver.on_data(incoming[0] if len(incoming) == 1 else b"".join(incoming))
            receiver = self._receiver or receiver  # it may have handed over to another one
        if stream.reset_code is not None:
            if not self._told_end:
                self._told_end = True
                receiver.on_reset(self._connection.dialect.code_in(stream.reset_code))
        elif stream.ended and not self._told_end:
            self._told_end = True
            receiver.on_end()
        if stream.stop_code is not None and not self._told_stop:
            self._told_stop = True
            if not self._writing_over:
                code = self._connection.dialect.code_in(stream.stop_code)
                receiver.on_stop(code)
                # RFC 9000 section 3.5 wants an answer; the receiver has had its chance to name another code.
                self.reset(code)

    def relieved(self) -> None:
        """The queue has room again."""
        if self._receiver is not None and not self._writing_over:
            self._receiver.on_writable()

    def lost(self) -> None:
        """The connection is gone, and this with it."""
        self._writing_over = True
        self.outgoing.drop()
