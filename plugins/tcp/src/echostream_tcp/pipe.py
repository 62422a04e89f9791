"""The pipe over one stream socket: asyncio's transport below, the kernel's mux above.

One object is both the protocol that the event loop calls and the pipe that the mux calls, and it has no buffer of its
own, so an idle connection costs little more than its socket.

The receive buffer is shared by all connections of an event loop. That is sound because ``get_buffer`` and
``buffer_updated`` (or an error, or nothing) come back to back, no other connection's in between. Read in the sources:

* asyncio 3.11.7, 3.12.1, 3.13.0, selector loop: ``_read_ready__get_buffer`` calls both, around one ``recv_into``;
* the same on the proactor loop: ``_feed_data_to_buffered_proto`` copies in between, nothing else;
* uvloop 0.22.1 (tests on 0.23.0): libuv's ``uv__read`` calls ``alloc_cb``, ``read``, ``read_cb`` in turn, per stream;
* the two ``SSLProtocol`` classes, asyncio's and uvloop's, would do as well, but are not used: see ``tls_pipe.py``.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Final, cast
from weakref import WeakKeyDictionary

from echostream_core.capabilities import Capabilities
from echostream_core.errors import EchoStreamError, EndOfStream
from echostream_core.transport import Pipe, PipeReceiver
from echostream_core.types import Buffer
from echostream_tcp._errors import connection_lost
from echostream_tcp._log import logger

__all__ = ["StreamPipe", "receive_buffer"]

RECEIVE_BUFFER_BYTES: Final = 262_144
"""As much as one read takes. Measured on loopback: 64 KiB costs twice the CPU per byte, 1 MiB saves nothing more."""

HIGH_WATER_BYTES: Final = 65_536
"""What may wait here before ``write`` answers False: it can no longer be overtaken by something urgent."""
LOW_WATER_BYTES: Final = 16_384

GATHER_BYTES: Final = 16_384
"""From this size on uvloop gets the buffers of one write as they are; below, one ``join`` is cheaper. asyncio always
gets them joined: its ``writelines`` joins too (3.11) or costs 3-8 µs more than it saves (3.12, 3.13; up to 64 KiB), and
there it forgets ``pause_writing`` (CVE-2024-12254), or spins on an empty last buffer."""

LINGER_S: Final = 2.0
"""How long after our own end the peer's is awaited, see ``StreamPipe.close``."""

OPEN: Final = 0
CLOSING: Final = 1
"""Closed or aborted by us; nothing more is delivered but ``on_closed``."""
ENDED: Final = 2

_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_receive_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def receive_buffer() -> memoryview:
    """The receive buffer of the running event loop."""
    loop = asyncio.get_running_loop()
    buffer = _receive_buffers.get(loop)
    if buffer is None:
        buffer = _receive_buffers[loop] = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
    return buffer


class StreamPipe(Pipe, asyncio.BufferedProtocol):
    """A pipe over a TCP or Unix socket. ``on_ready`` is called once, from the event loop, when it can be used."""

    __slots__ = (
        "_buffer",
        "_early",
        "_error",
        "_full",
        "_gather_from",
        "_on_ready",
        "_paused",
        "_receiver",
        "_state",
        "_timer",
        "_transport",
        "_waiting",
        "capabilities",
        "local_address",
        "peer_address",
        "peer_identity",
    )

    def __init__(
        self,
        *,
        capabilities: Capabilities,
        local_address: str,
        peer_address: str,
        peer_identity: str | None = None,
        on_ready: Callable[[StreamPipe], None] | None = None,
    ) -> None:
        self.capabilities = capabilities
        self.local_address = local_address
        self.peer_address = peer_address
        self.peer_identity = peer_identity
        self._on_ready = on_ready
        self._buffer = receive_buffer()
        self._gather_from = GATHER_BYTES
        self._transport: asyncio.Transport | None = None
        self._receiver: PipeReceiver | None = None
        self._early: bytes | None = None
        self._error: EchoStreamError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._state = OPEN
        self._paused = False
        self._full = False
        self._waiting = False

    # --- the pipe, called by the mux ---------------------------------------------------------------------------------

    def start(self, receiver: PipeReceiver) -> None:
        """Begin delivery to ``receiver``. Calling it again replaces the receiver."""
        first = self._receiver is None
        self._receiver = receiver
        if not first:
            return
        if self._state == ENDED or self._undelivered() or (self._waiting and not self._full):
            asyncio.get_running_loop().call_soon(self._catch_up)
        elif self._transport is not None and not self._paused:
            self._transport.resume_reading()

    def write(self, buffers: Sequence[Buffer]) -> bool:
        """Queue ``buffers`` in order; False: wait for ``on_writable`` before more. A no-op after the end."""
        transport = self._transport
        if self._state or transport is None or transport.is_closing():
            return True
        if len(buffers) == 1:
            transport.write(buffers[0])
        elif sum(map(len, buffers)) < self._gather_from:
            transport.write(b"".join(buffers))
        else:
            transport.writelines(buffers)
        if self._full:
            self._waiting = True
            return False
        return True

    def pause(self) -> None:
        """Stop delivering data. Idempotent."""
        self._paused = True
        if self._transport is not None and self._state == OPEN:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Deliver data again. Idempotent."""
        if not self._paused:
            return
        self._paused = False
        if self._receiver is None or self._state != OPEN:
            return
        if self._undelivered():
            asyncio.get_running_loop().call_soon(self._catch_up)
        elif self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what is queued, then our end, and wait a moment for the peer's. Idempotent.

        A socket that is closed while data is on its way to it answers with a reset, and a reset makes the peer's
        system throw away what it has not read yet: perhaps the very reason for which we close. So what still arrives
        is read and dropped until the peer has ended as well, for at most ``LINGER_S``.
        """
        if self._state:
            return
        self._state = CLOSING
        self._early = None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.set_write_buffer_limits(0)  # resume_writing now means: all is sent
        if not transport.get_write_buffer_size():
            self._end_our_side()

    def abort(self) -> None:
        """End at once, dropping what is queued; the peer sees a reset, not an orderly end. Idempotent."""
        if self._state == ENDED:
            return
        self._state = CLOSING
        self._early = None
        if self._transport is not None:
            self._reset(self._transport)

    # --- the protocol, called by the event loop ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast("asyncio.Transport", transport)
        if self._state:  # aborted before
            self._reset(self._transport)
            return
        if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # asyncio's own: see GATHER_BYTES
            self._gather_from = sys.maxsize
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        self._ready()

    def _ready(self) -> None:
        """The pipe can be used: give it to who waits for it."""
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            try:
                on_ready(self)
            except Exception:
                logger.exception("%s: the acceptor failed on a connection; it is dropped", self.local_address)
                self.abort()
        if (self._receiver is None or self._paused) and self._transport is not None:
            # On asyncio this holds from the first byte; uvloop begins to read after ``connection_made`` whatever we
            # say, and is stopped by the first read in ``buffer_updated``.
            self._transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what arrives."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` have arrived in the shared buffer."""
        if self._state:
            return
        if self._receiver is not None and not self._paused:
            self._receiver.on_data(self._buffer[:nbytes])
            return
        self._early = (self._early or b"") + bytes(self._buffer[:nbytes])
        if self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The peer has finished, and so have we: what is queued is worth nothing to it any more."""
        if self._state == OPEN:
            self._error = EndOfStream(f"{self.peer_address} has closed the connection")
            if self._transport is not None and self._transport.get_write_buffer_size():
                self._transport.abort()  # it may never read again, and closing would wait for that
        return False

    def pause_writing(self) -> None:
        """More than ``HIGH_WATER_BYTES`` wait. Called within ``write``."""
        self._full = True

    def resume_writing(self) -> None:
        """No more than ``LOW_WATER_BYTES`` wait, or nothing when we are closing. Never called within ``write``."""
        self._full = False
        if self._state == CLOSING:
            if self._transport is not None and not self._transport.is_closing():
                self._end_our_side()
        elif self._waiting and self._receiver is not None:
            self._waiting = False
            self._receiver.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._state == OPEN and self._error is None:
            self._error = connection_lost(self.peer_address, exc)
        self._state = ENDED
        self._transport = None
        self._on_ready = None
        self._early = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._receiver is not None:
            self._tell_closed()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _undelivered(self) -> bool:
        """Whether data has arrived that the receiver has not seen."""
        return self._early is not None

    def _deliver(self) -> None:
        """Give the receiver what it has not seen."""
        early, self._early = self._early, None
        if early is not None and self._receiver is not None:
            self._receiver.on_data(early)

    def _catch_up(self) -> None:
        """On a turn of its own: do what ``start`` and ``resume`` must not do within the caller's call."""
        receiver = self._receiver
        if receiver is None:
            return
        if self._state == ENDED:
            self._tell_closed()
            return
        if self._state == OPEN and not self._paused and self._undelivered():
            self._deliver()
        if self._state == OPEN and self._waiting and not self._full:
            self._waiting = False
            receiver.on_writable()
        if self._state == OPEN and not self._paused and self._transport is not None:
            self._transport.resume_reading()

    def _tell_closed(self) -> None:
        receiver, self._receiver = self._receiver, None
        error, self._error = self._error, None
        if receiver is not None:
            receiver.on_closed(error)

    def _end_our_side(self) -> None:
        """All is sent: finish our direction, and await the end of the peer's."""
        transport = self._transport
        if transport is None:
            return
        try:
            transport.write_eof()
        except OSError:  # the peer was faster with a reset
            transport.abort()
            return
        transport.resume_reading()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def _reset(self, transport: asyncio.Transport) -> None:
        try:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except (OSError, AttributeError):
            pass  # closed already
        transport.abort()
