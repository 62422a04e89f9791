"""A connection with substreams, made of one pipe and the mux.

One pump per turn of the loop hands what is queued to the pipe, so that many small writes become one; what
was written while bytes were being received goes out as soon as they are handled; large writes go at once.
The pipe is given little ahead: what waits there can no longer be overtaken.

The dialer speaks first: the listener is silent until it has seen the preamble, so that it can answer
strangers in words that they understand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import lru_cache
from logging import getLogger
from typing import Final

from echostream_core.capabilities import Capabilities
from echostream_core.errors import (
    CapabilityError,
    CloseCode,
    ConnectionLost,
    EchoStreamError,
    EndOfStream,
    LimitExceeded,
    RemoteProtocolError,
)
from echostream_core.transport import Connection, ConnectionReceiver, Pipe, Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority
from echostream_core.wire.closing import closed_by_peer
from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue
from echostream_core.wire.limits import MAX_MUX_DATAGRAM_BYTES, Limits
from echostream_core.wire.mux import Mux
from echostream_core.wire.mux_frames import PREAMBLE, Role, encode_datagram
from echostream_core.wire.substream import CarriedSubstream

__all__ = ["LINGER_S", "MuxedConnection", "MuxedSubstream"]

LINGER_S: Final = 5.0
"""What a pipe has to send its last bytes after ``close``; then it is aborted."""

_HTTP_TEXT: Final = b"This port speaks EchoStream, not HTTP.\n"
_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_HTTP_TEXT), _HTTP_TEXT)
)
_HTTP_METHODS: Final = tuple(b"GET ,POST,HEAD,PUT ,DELE,OPTI,PATC,CONN,TRAC,PRI ".split(b","))
_STRANGERS: Final = (
    (_HTTP_METHODS, "that looks like an HTTP request, and this port does not speak HTTP"),
    (b"HTTP/1.", "that looks like an HTTP server: is the port right?"),
    (b"\x16\x03", "that looks like a TLS client hello, and this side is not configured for TLS"),
    (b"\x15\x03", "that looks like a TLS alert: the other side expects TLS"),
    (b"\x00" * 8, "these are zeros"),
    (b"SSH-", "that looks like an SSH server: is the port right?"),
    (PREAMBLE[:-1], "that is another major version of the protocol"),
)
_SHOWN_BYTES: Final = 24

_log = getLogger("echostream.transport")


class MuxedSubstream(CarriedSubstream, Substream):
    """A substream of a :class:`MuxedConnection`: the mux's own object, there is nothing in between."""

    __slots__ = ()


class MuxedConnection(Connection):
    """Joins ``pipe`` and a mux. ``role`` says which end of the connection this is.

    With ``emulate_datagrams`` it takes datagrams, and sends them once ``settle_datagrams`` says that the peer does too;
    until then they wait in their queue, and ``capabilities`` has none.
    """

    def __init__(self, pipe: Pipe, role: Role, *, limits: Limits, emulate_datagrams: bool = False) -> None:
        self.pipe = pipe
        self.mux: Mux[MuxedSubstream] = Mux(role, limits=limits, sink=self, stream_class=MuxedSubstream)
        self.local_address = pipe.local_address
        self.peer_address = pipe.peer_address
        self.peer_identity = pipe.peer_identity
        self.capabilities = _muxed(pipe.capabilities)
        self._loop = asyncio.get_running_loop()
        self.datagrams_open = emulate_datagrams
        """We take datagrams, and it is not yet known whether the peer does."""
        if emulate_datagrams:
            self.datagram_drops = DatagramDrops()
            self.mux.datagrams = DatagramQueue(limits.max_queued_datagrams, self._loop.time, self.datagram_drops)
        self._context = copy_context()  # not that of whoever happens to write first in a turn
        self._receiver: ConnectionReceiver | None = None
        self._greeting = b"" if pipe.negotiated else PREAMBLE  # still to be sent
        self._first = None if pipe.negotiated else bytearray()  # the peer's preamble so far; None: complete
        self._silent = role == "listener" and not pipe.negotiated
        self._stray = False  # the peer does not speak EchoStream
        self._room = False  # the pipe takes more
        self._scheduled = False
        self._receiving = False
        self._ended = False  # closed by either side, lost or failed: nothing more is delivered but on_closed
        self._linger: asyncio.TimerHandle | None = None
        self.gone = False
        """The pipe has ended too, which may be later than the connection: a closing handshake takes the peer's time."""
        self.on_gone: Callable[[MuxedConnection], object] | None = None
        """Called when that is so."""

    # The contract's Connection.

    def start(self, receiver: ConnectionReceiver) -> None:
        """Begin: the preamble goes out, unless we listen and the peer has not spoken yet."""
        self._receiver = receiver
        self._room = True
        self.pipe.start(self)
        self._schedule()

    def open_substream(self, priority: Priority = Priority.NORMAL) -> MuxedSubstream:
        """A new substream; its number comes with its first frame."""
        return self.mux.open(priority)

    def close(self, code: int, reason: str) -> None:
        """Send the control substream's queue and CLOSE, then end the pipe."""
        if not self._ended:
            self._finish(code, reason)

    def abort(self) -> None:
        """End the pipe at once."""
        self._ended = True
        self.mux.shut()
        self.pipe.abort()

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Queue one datagram as a frame among the substreams'; False when an older one was dropped for it."""
        mux = self.mux
        if mux.datagrams is None:
            raise CapabilityError(
                f"{self.peer_address}: no datagrams on this connection, which is one ordered pipe: set "
                "emulate_datagrams = true at both ends, or use a transport that has them",
                capability="datagrams",
            )
        size = sum(map(len, data))
        if size > MAX_MUX_DATAGRAM_BYTES:
            raise LimitExceeded(
                f"a datagram of {size} bytes: at most {MAX_MUX_DATAGRAM_BYTES} are possible here",
                limit="max_datagram_size",
                value=size,
                maximum=MAX_MUX_DATAGRAM_BYTES,
            )
        if self._ended:
            mux.datagrams.drops.closed += 1
            return True
        return mux.send_datagram(encode_datagram(data, size), expires_at)

    def max_datagram_size(self) -> int:
        """Always the same where datagrams are emulated."""
        return 0 if self.mux.datagrams is None else MAX_MUX_DATAGRAM_BYTES

    def settle_datagrams(self, *, peer_takes_them: bool) -> None:
        """The peer has said whether it takes emulated datagrams: what waits goes out, or is dropped."""
        mux = self.mux
        if mux.datagrams is None:
            return
        self.datagrams_open = False
        if peer_takes_them:
            self.capabilities = self.capabilities.with_emulated_datagrams()
            mux.begin_datagrams()
        else:
            mux.datagrams.refuse()
            mux.datagrams = None  # one that comes all the same is against the rules

    # What the pipe calls.

    def on_data(self, data: Buffer) -> None:
        """Bytes of the pipe; whatever the mux or its user makes of them, the connection stays in order."""
        if self._ended:
            return
        self._receiving = True
        try:
            if self._first is not None:
                data = self._greet(data, self._first)
            self.mux.receive(data)
        except RemoteProtocolError as error:
            self._fail(error, error.close_code, str(error))
        except Exception as error:
            _log.exception("%s: a callback of the session failed", self.peer_address)
            failure = ConnectionLost(f"{self.peer_address}: closed because a callback failed: {error!r}")
            failure.__cause__ = error
            self._fail(failure, CloseCode.INTERNAL, "internal error")
        finally:
            self._receiving = False
        if self.mux.pending:
            self._pump()

    def on_writable(self) -> None:
        """The pipe has room again."""
        self._room = True
        self._pump()

    def on_closed(self, error: EchoStreamError | None) -> None:
        """The pipe is gone; without CLOSE from the peer that is a loss, however orderly the pipe ended."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self.gone = True
        if self.on_gone is not None:
            self.on_gone(self)
        if self._ended:
            self._report(None)
            return
        self._ended = True
        self.mux.shut()
        if error is None or isinstance(error, EndOfStream):
            what = "without a closing frame"
            if self._first is not None:
                what = "before its first eight bytes: is it EchoStream, and does its URL begin as this one?"
            lost = ConnectionLost(f"{self.peer_address}: the connection ended {what}")
            lost.__cause__ = error
            error = lost
        self._report(error)

    # What the mux calls.

    def on_output(self) -> None:
        """Something may be sent: at the end of this turn, or of what is being received."""
        if not self._receiving:
            self._schedule()

    def flush(self) -> None:
        """The session has written all that it has: send it in this turn. One turn of the loop less per message."""
        if self._room and not self._receiving and self.mux.pending:
            self._pump()

    def on_bulk_output(self) -> None:
        """Something large was written."""
        if self._room:
            self._pump()

    def on_open(self, stream: MuxedSubstream) -> SubstreamReceiver:
        """The peer opened a substream."""
        return self._receiver.on_substream(stream)  # type: ignore[union-attr]  # nothing comes before start

    def on_datagram(self, data: memoryview) -> None:
        """The peer sent a datagram."""
        self._receiver.on_datagram(data)  # type: ignore[union-attr]  # nothing comes before start

    def on_close(self, code: int, reason: str) -> None:
        """The peer closed the connection; nothing is left to say."""
        self._ended = True
        self._close_pipe()
        self._report(closed_by_peer(self.peer_address, code, reason))

    # Our own parts.

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._scheduled = False
        self._pump()
        if self.mux.writable:
            for stream in self.mux.take_writable():
                if self._ended:
                    break
                stream.receiver.on_writable()  # type: ignore[union-attr]  # it has sent, so it is started

    def _pump(self) -> None:
        if self._silent or self._ended:
            return
        mux = self.mux
        if self._greeting and self._room:
            self._room = self.pipe.write([self._greeting, *mux.next_buffers()])
            self._greeting = b""
        while self._room and mux.pending:
            buffers = mux.next_buffers()
            if buffers:
                self._room = self.pipe.write(buffers)
        if mux.writable:
            self._schedule()

    def _greet(self, data: Buffer, first: bytearray) -> Buffer:
        """Check the peer's preamble; what follows it."""
        missing = len(PREAMBLE) - len(first)
        first += data[:missing]
        if len(first) < len(PREAMBLE):
            return b""
        if first != PREAMBLE:
            raise self._stranger(bytes(first) + bytes(data[missing:_SHOWN_BYTES]))
        self._first = None
        self._silent = False
        return data[missing:]

    def _stranger(self, start: bytes) -> RemoteProtocolError:
        """The error for a peer that began with ``start``, which is told what it may understand."""
        if not start.startswith(PREAMBLE[:-1]):
            self._stray = True
            if self._silent and start.startswith(_HTTP_METHODS):
                self.pipe.write([_HTTP_ANSWER])
        return RemoteProtocolError(
            f"{self.peer_address} began with {repr(start)[1:]}, not {PREAMBLE.decode()}: {_guess(start)}",
            close_code=CloseCode.VERSION,
        )

    def _finish(self, code: int, reason: str) -> None:
        """Send the last things and close the pipe; what is not sent in time is dropped."""
        self._ended = True
        last = self.mux.close(code, reason)
        if self._greeting:
            last.insert(0, self._greeting)
        if not self._stray:
            self.pipe.write(last)
        self._close_pipe()

    def _close_pipe(self) -> None:
        self.pipe.close()
        self._linger = self._loop.call_later(LINGER_S, self.pipe.abort)

    def _fail(self, error: EchoStreamError, code: CloseCode, reason: str) -> None:
        if not self._ended:
            self._finish(code, reason)
            self._report(error)

    def _report(self, error: EchoStreamError | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_closed(error)


@lru_cache(maxsize=64)
def _muxed(pipe: Capabilities) -> Capabilities:
    return replace(pipe, streams="muxed", reset=True, half_close=True, flow_control=True, priorities=True)


def _guess(start: bytes) -> str:
    """What a peer seems to speak that began with ``start``."""
    for beginning, meaning in _STRANGERS:
        if start.startswith(beginning):
            return meaning
    return "this is not EchoStream"
