"""TLS over the stream pipe, by OpenSSL's memory BIOs.

Not ``ssl=`` of the event loop, because asyncio's SSLProtocol (3.11-3.13) and uvloop's (0.22, 0.23)

* reserve 256 KiB per connection (asyncio clears it, too); here buffers are shared, and a silent connection has no SSL
  object yet;
* deliver data within ``close()``, which the transport contract forbids, and read on after it;
* report a failed handshake to the loop's exception handler or not at all, and never with the peer's address;
* hide whether the session ended by TLS's goodbye or the connection was cut off.

The same code runs on every loop. Speed was compared: see README.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Literal, cast
from weakref import WeakKeyDictionary

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConnectFailed, ConnectionLost, EndOfStream
from echostream_core.types import Buffer
from echostream_tcp._tls_errors import ALPN, handshake_refusal, sent_http, session_failed
from echostream_tcp.pipe import CLOSING, LINGER_S, OPEN, RECEIVE_BUFFER_BYTES, StreamPipe

__all__ = ["TlsPipe"]

FIRST_BYTES: Final = 48
"""How much of what a peer sent first is kept until the handshake is over: to say what it speaks instead of TLS."""

HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 48\r\n"
    b"Connection: close\r\n\r\nThis port speaks EchoStream over TLS, not HTTP.\n"
)
"""For the person with a browser."""

_HANDSHAKE: Final = b"\x16"
_ALERT: Final = b"\x15"

SLICE_BYTES: Final = 24_576
"""How much goes through a BIO at once. A BIO never shrinks, so an idle connection keeps what its largest slices needed:
about 33 KiB for each direction. 40 KiB were 7 % faster and 16 KiB 10 % slower per byte (CPU of both ends, loopback)."""

_plain_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def plain_buffer() -> memoryview:
    """Where the running event loop's connections decrypt to."""
    loop = asyncio.get_running_loop()
    buffer = _plain_buffers.get(loop)
    if buffer is None:
        buffer = _plain_buffers[loop] = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
    return buffer


class TlsPipe(StreamPipe):
    """A pipe over TLS on a TCP socket, usable once the handshake has succeeded.

    A dialer's ``server_name`` must be one that OpenSSL takes: nothing may fail while uvloop calls ``connection_made``
    for a socket of ours, or it loses track of who closes it (0.23.0, ``_attach_fileobj`` after the end).

    Exactly one of ``on_ready(pipe)`` and ``on_failed(pipe, what, cause)`` is called, from the event loop, unless the
    pipe is aborted first; ``what`` follows "the peer …" in a sentence. ``check_peer`` answers who the peer is after the
    handshake, or raises ConnectFailed.
    """

    __slots__ = (
        "_alpns",
        "_check_peer",
        "_context",
        "_failure",
        "_first_bytes",
        "_incoming",
        "_on_failed",
        "_outgoing",
        "_plain",
        "_server_name",
        "_shaking_hands",
        "_timeout_s",
        "_tls",
        "manner",
    )

    negotiated = True

    def __init__(
        self,
        *,
        capabilities: Capabilities,
        local_address: str,
        peer_address: str,
        context: ssl.SSLContext,
        server_name: str | None,
        handshake_timeout_s: float,
        check_peer: Callable[[ssl.SSLObject], str | None],
        on_ready: Callable[[StreamPipe], None],
        on_failed: Callable[[TlsPipe, str, Exception | None], None],
        alpns: Sequence[str | None] = (ALPN,),
    ) -> None:
        """``server_name`` is None on the listener's side. ``alpns`` are the good outcomes of ALPN (None: no choice)."""
        super().__init__(
            capabilities=capabilities, local_address=local_address, peer_address=peer_address, on_ready=on_ready
        )
        self._context: ssl.SSLContext | None = context
        self._server_name = server_name
        self._timeout_s = handshake_timeout_s
        self._alpns = alpns
        self._check_peer: Callable[[ssl.SSLObject], str | None] | None = check_peer
        self._on_failed: Callable[[TlsPipe, str, Exception | None], None] | None = on_failed
        self._plain = plain_buffer()
        self._first_bytes = b""
        self._shaking_hands = True
        self._failure: tuple[str, Exception | None] | None = None
        self.manner: Literal["silent", "left", "tls", "other"] = "silent"
        """What the peer did in the handshake: said nothing, left without a word, spoke TLS (good or bad), or else."""
        self._tls: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None

    # --- the pipe, called by the mux ---------------------------------------------------------------------------------

    def write(self, buffers: Sequence[Buffer]) -> bool:
        """Encrypt and queue ``buffers``; False: wait for ``on_writable`` before more. A no-op after the end."""
        transport, tls = self._transport, self._tls
        if self._state or transport is None or tls is None or transport.is_closing():
            return True
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        try:
            if len(data) <= SLICE_BYTES:
                transport.write(self._encrypt(tls, data))
            else:
                view = memoryview(data)
                for begin in range(0, len(view), SLICE_BYTES):
                    transport.write(self._encrypt(tls, view[begin : begin + SLICE_BYTES]))
        except ssl.SSLError as error:
            self._broken(error)
            return True
        if self._full:
            self._waiting = True
            return False
        return True

    def close(self) -> None:
        """Send what is queued, then TLS's goodbye and our end, and wait a moment for the peer's. Idempotent."""
        if self._state == OPEN:
            self._say_goodbye()
        super().close()

    # --- the protocol, called by the event loop ----------------------------------------------------------------------

    def _ready(self) -> None:
        """The TCP connection is there: shake hands."""
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._too_late)
        if self._server_name is not None:
            self._shake_hands()

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` of TLS have arrived in the shared buffer."""
        if self._state:
            return
        if self._shaking_hands:
            self._note_first_bytes(nbytes)
            if self._tls is None:
                self._make_tls()
        incoming = self._incoming
        assert incoming is not None
        for begin in range(0, nbytes, SLICE_BYTES):
            incoming.write(self._buffer[begin : min(begin + SLICE_BYTES, nbytes)])
            if self._shaking_hands:
                self._shake_hands()
            if self._receiver is not None and not self._shaking_hands:
                self._drain()
        if (self._receiver is None or self._paused) and not self._shaking_hands and self._transport is not None:
            self._transport.pause_reading()  # the rest waits in the BIO for start or resume

    def eof_received(self) -> bool:
        """The TCP connection has ended. Without TLS's goodbye before it, it was cut off: something may be missing."""
        if self._shaking_hands:
            self._gone_in_handshake("closed", None)
        elif self._state == OPEN:
            self._error = ConnectionLost(f"the connection to {self.peer_address} is lost: it was cut off")
            self._finish_transport()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._shaking_hands and self._state == OPEN:
            self._transport = None
            self._gone_in_handshake("broke", exc)
        super().connection_lost(exc)
        if self._failure is not None and self._on_failed is not None:
            on_failed, self._on_failed = self._on_failed, None
            on_failed(self, *self._failure)
        self._tls = self._incoming = self._outgoing = None

    # --- the handshake -----------------------------------------------------------------------------------------------

    def _note_first_bytes(self, nbytes: int) -> None:
        missing = FIRST_BYTES - len(self._first_bytes)
        if missing > 0:
            self._first_bytes += bytes(self._buffer[: min(nbytes, missing)])

    def _make_tls(self) -> None:
        """Make the SSL object: for an accepted connection not before its first byte."""
        context, self._context = self._context, None
        assert context is not None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self._server_name is None,
            server_hostname=self._server_name,
        )

    def _shake_hands(self) -> None:
        try:
            if self._tls is None:
                self._make_tls()
            tls = self._tls
            assert tls is not None
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush_tls()
            return
        except ssl.SSLError as error:
            if self._server_name is None and sent_http(self._first_bytes) and self._transport is not None:
                self._transport.write(HTTP_ANSWER)
            else:
                self._flush_tls()  # the alert that tells the peer
            self._fail(handshake_refusal(error, self._first_bytes, self._alpns[0] or ALPN), error)
            return
        self._flush_tls()
        if tls.selected_alpn_protocol() not in self._alpns:
            if self._server_name is None:
                self._fail(f"speaks TLS but did not offer {self._alpns[0]} (ALPN): no EchoStream client", None)
            else:
                self._fail(f"speaks TLS but not {self._alpns[0]}", None)
            return
        check_peer, self._check_peer = self._check_peer, None
        try:
            self.peer_identity = check_peer(tls) if check_peer is not None else None
        except ConnectFailed as error:
            self._fail(str(error), error)
            return
        self._end_handshake()
        super()._ready()

    def _gone_in_handshake(self, how: str, cause: Exception | None) -> None:
        if not self._first_bytes:
            self.manner = "left"
        self._fail(f"{how} the connection during the TLS handshake", cause)

    def _end_handshake(self) -> None:
        self._shaking_hands = False
        if self._first_bytes:
            self.manner = "tls" if self._first_bytes[:1] in (_HANDSHAKE, _ALERT) else "other"
        self._first_bytes = b""
        self._check_peer = None
        self._on_failed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._first_bytes:
            self._fail(f"did not finish the TLS handshake within {self._timeout_s:g} s", None)
        else:
            self._fail(f"said nothing for {self._timeout_s:g} s", None)

    def _fail(self, what: str, cause: Exception | None) -> None:
        """Give up the handshake: tell who waits for it, and close."""
        on_failed = self._on_failed
        self._end_handshake()
        self._on_ready = None
        if self._server_name is None or self._transport is None:
            if self._transport is not None:  # from now, not when all is sent: a stranger may never read
                self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)
            super().close()  # lingers, so that the alert is not lost to what the peer has sent behind its handshake
            if on_failed is not None:
                on_failed(self, what, cause)
            return
        # A dialer tells when the connection is gone, so that a failed dial leaves nothing behind.
        self._state = CLOSING
        self._on_failed, self._failure = on_failed, (what, cause)
        self._finish_transport()

    # --- the session -------------------------------------------------------------------------------------------------

    def _undelivered(self) -> bool:
        tls, incoming = self._tls, self._incoming
        return tls is not None and incoming is not None and bool(incoming.pending or tls.pending())

    def _deliver(self) -> None:
        self._drain()

    def _drain(self) -> None:
        """Decrypt and deliver what is in the BIO, until it is empty or the receiver wants no more."""
        tls, incoming, plain = self._tls, self._incoming, self._plain
        if tls is None or incoming is None:
            return
        more = True
        while more and self._state == OPEN and self._error is None and not self._paused and self._receiver is not None:
            size, ended, failure = 0, False, None
            try:
                while more and size < len(plain):  # records have 16 KiB at most: gather them
                    count = cast("int", tls.read(len(plain) - size, plain[size:] if size else plain))
                    ended = not count
                    size += count
                    # Asked first, for to be told by SSLWantReadError costs more than to decrypt a small record.
                    more = bool(count and (incoming.pending or tls.pending()))
            except ssl.SSLWantReadError:
                more = False
            except ssl.SSLError as error:
                failure = error
            if size:
                self._receiver.on_data(plain[:size])
            if ended:
                self._ended_by_peer()
            elif failure is not None:
                self._broken(failure)
        self._flush_tls()  # what TLS itself has to say, such as the answer to a change of keys

    def _ended_by_peer(self) -> None:
        """The peer said TLS's goodbye."""
        if self._state != OPEN:
            return
        self._error = EndOfStream(f"{self.peer_address} has closed the connection")
        self._say_goodbye()
        self._finish_transport()

    def _broken(self, error: ssl.SSLError) -> None:
        """TLS has failed: tell the peer and end."""
        if self._state != OPEN or self._transport is None:
            return
        self._error = session_failed(self.peer_address, error)
        self._flush_tls()
        self._finish_transport()

    def _finish_transport(self) -> None:
        """Close without waiting for a peer that does not read."""
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def _encrypt(self, tls: ssl.SSLObject, data: Buffer) -> bytes:
        assert self._outgoing is not None
        if data:
            tls.write(data)  # takes all of it: a memory BIO has no end
        return self._outgoing.read()

    def _say_goodbye(self) -> None:
        if self._tls is None or self._shaking_hands:
            return
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the answer is missing, of course, or data came in its place: ours is written all the same
        self._flush_tls()

    def _flush_tls(self) -> None:
        """Send what OpenSSL has written."""
        transport, outgoing = self._transport, self._outgoing
        if transport is not None and outgoing is not None and outgoing.pending and not transport.is_closing():
            transport.write(outgoing.read())
