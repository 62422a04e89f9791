"""One WebSocket after its handshake: frames over a pipe of bytes, control frames, and the closing handshake.

Below is a pipe of TCP or TLS (``echostream_tcp``) that has been started with somebody else, who did the handshake;
above is a subclass: ``pipe.WebSocketPipe`` for the kernel's mux, ``messages.MessageSocket`` for whole messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from echostream_core.errors import ConnectionLost, EchoStreamError, EndOfStream, RemoteProtocolError
from echostream_core.transport import Pipe
from echostream_core.types import Buffer
from echostream_tcp._errors import caused_by
from echostream_websocket.closing import closed_by_peer
from echostream_websocket.frames import (
    CLOSE,
    NORMAL,
    PING,
    PONG,
    FrameError,
    FrameReader,
    close_payload,
    masked_frame,
    plain_frame,
)

__all__ = ["WebSocketProtocol"]

CLOSE_WAIT_S: Final = 2.0
"""How long each step of the closing handshake may take the peer: to answer our close frame, then to hang up."""

OPEN: Final = 0
CLOSING: Final = 1
"""We have sent a close frame and await the peer's; nothing more is delivered."""
FINISHING: Final = 2
"""Both are done, or the peer broke the rules, or we gave up: the connection below is about to go."""
ENDED: Final = 3


class WebSocketProtocol:
    """Frames over the pipe ``lower``. Subclasses implement ``on_payload`` and ``_ended``."""

    __slots__ = (
        "_client",
        "_error",
        "_frame",
        "_full",
        "_gone",
        "_loop",
        "_lower",
        "_paused",
        "_peer",
        "_ping_interval_s",
        "_ping_timer",
        "_pong",
        "_reader",
        "_rest",
        "_state",
        "_timer",
    )

    def __init__(
        self,
        lower: Pipe,
        *,
        client: bool,
        max_message_bytes: int,
        accepts_text: bool,
        peer: str = "",
        early: Buffer = b"",
        ping_interval_s: float = 0.0,
    ) -> None:
        """``early`` is what arrived behind the handshake, ``peer`` the peer's address for errors.

        Nothing is read before ``_begin_reading``.
        """
        self._lower = lower
        self._peer = peer or lower.peer_address
        self._client = client
        self._frame = masked_frame if client else plain_frame
        self._reader = FrameReader(
            self, masked=not client, max_message_bytes=max_message_bytes, accepts_text=accepts_text
        )
        self._loop = asyncio.get_running_loop()
        self._rest = bytes(early)
        self._state = OPEN
        self._error: EchoStreamError | None = None
        self._paused = True
        self._full = False
        self._gone = False  # the pipe below has ended while something waited here to be read
        self._pong: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ping_interval_s = ping_interval_s
        self._ping_timer: asyncio.TimerHandle | None = None
        self._reader.stopped = True
        lower.pause()
        lower.start(self)
        if ping_interval_s:
            self._ping_timer = self._loop.call_later(ping_interval_s, self._ping)

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def on_payload(self, opcode: int, data: Buffer, last: bool) -> None:
        """A piece of a message; see FrameReceiver. Not called after our own close."""
        raise NotImplementedError

    def _writable(self) -> None:
        """There is room again after a send answered False."""

    def _ended(self, error: EchoStreamError | None) -> None:
        """The connection is gone; None: closed by us. Called once."""
        raise NotImplementedError

    def _begin_reading(self) -> None:
        """Deliver, on a later turn, what is there and what comes. Idempotent."""
        self._paused = False
        if self._rest:
            self._loop.call_soon(self._catch_up)
        else:
            self._reader.stopped = False
            self._lower.resume()

    def _stop_reading(self) -> None:
        """Deliver nothing until ``_begin_reading``; not a frame more. Idempotent."""
        self._paused = True
        self._reader.stopped = True
        self._lower.pause()

    def _send(self, opcode: int, buffers: Sequence[Buffer], size: int) -> bool:
        """Send one message or control frame; False: wait for ``_writable``."""
        if self._lower.write(self._frame(opcode, buffers, size)):
            return True
        self._full = True
        return False

    def _close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send what is queued and our close frame; the peer's is awaited for ``CLOSE_WAIT_S``. Idempotent."""
        if self._state:
            return
        self._state = CLOSING
        self._error = None
        self._send_close(code, reason)
        self._timer = self._loop.call_later(CLOSE_WAIT_S, self._unanswered)
        self._begin_reading()  # for the peer's close frame; data is dropped

    def _abort(self) -> None:
        """End at once. Idempotent."""
        if self._state == ENDED:
            return
        self._state = FINISHING
        self._reader.stopped = True
        if self._gone:
            self._error = None
            self._loop.call_soon(self._end)
        else:
            self._lower.abort()

    # --- called by the pipe below ------------------------------------------------------------------------------------

    def on_data(self, data: Buffer) -> None:
        """Bytes arrived."""
        if self._state >= FINISHING:
            return
        try:
            used = self._reader.feed(data)
        except FrameError as error:
            self._fail(error)
            return
        if used < len(data) and self._state < FINISHING:
            self._rest = bytes(data[used:])
            self._lower.pause()

    def on_writable(self) -> None:
        """There is room below."""
        self._full = False
        pong, self._pong = self._pong, None
        if self._state == OPEN:
            if pong is not None:
                self._send(PONG, (pong,), len(pong))
            if not self._full:
                self._writable()

    def on_closed(self, error: EchoStreamError | None) -> None:
        """The pipe below is gone. What it delivered before is read first: perhaps the peer's close frame is in it.

        TLS may tell its end in the same breath as the data before it, even if it was paused in the midst of them.
        """
        if self._state == OPEN:
            if isinstance(error, EndOfStream):
                lost = ConnectionLost(f"the connection to {self._peer} is lost: it ended without a close frame")
                error = caused_by(lost, error)
            self._error = error
            if self._rest:
                self._gone = True
                return
        self._end()

    def _end(self) -> None:
        if self._state == ENDED:
            return
        self._state = ENDED
        self._reader.stopped = True
        self._rest = b""
        for timer in (self._timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._ping_timer = None
        error, self._error = self._error, None
        self._ended(error)

    # --- called by the reader ----------------------------------------------------------------------------------------

    def on_ping(self, payload: bytes) -> None:
        """Answer; while nothing can be sent, only the latest (RFC 6455 section 5.5.3), so a flood costs no memory."""
        if self._state != OPEN:
            return
        if self._full:
            self._pong = payload
        else:
            self._send(PONG, (payload,), len(payload))

    def on_pong(self, payload: bytes) -> None:
        """A life sign: traffic, nothing more."""

    def on_close(self, code: int, reason: str) -> None:
        """The peer's close frame: answer it, unless it is the answer to ours."""
        if self._state == OPEN:
            self._error = closed_by_peer(self._peer, code, reason)
            self._send_close(code, "")
        self._finish(hang_up=not self._client)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """On a turn of its own: read what waited."""
        if self._paused or self._state >= FINISHING:
            return
        rest, self._rest = self._rest, b""
        self._reader.stopped = False
        self.on_data(rest)
        if self._gone:
            if not self._rest:
                self._end()
        elif not self._rest and not self._paused and self._state < FINISHING:
            self._lower.resume()

    def _send_close(self, code: int, reason: str) -> None:
        payload = close_payload(code, reason)
        self._send(CLOSE, (payload,), len(payload))

    def _fail(self, cause: FrameError) -> None:
        """The peer broke the rules: tell it, and end."""
        if self._state == OPEN:
            text = f"{self._peer} broke the WebSocket protocol: {cause}"
            self._error = caused_by(RemoteProtocolError(text, close_code=cause.close_code), cause)
            self._send_close(cause.code, str(cause))
        self._finish(hang_up=True)

    def _finish(self, *, hang_up: bool) -> None:
        """Nothing more is read. End the connection below: the server hangs up first, a client waits for that."""
        self._state = FINISHING
        self._reader.stopped = True
        self._rest = b""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(CLOSE_WAIT_S, self._lower.abort)
        if hang_up:
            self._lower.close()
        else:
            self._lower.resume()  # to see it end

    def _unanswered(self) -> None:
        """The peer did not answer our close frame. What is queued is still sent, however long the peer takes for it."""
        self._timer = None
        self._state = FINISHING
        self._reader.stopped = True
        self._lower.close()

    def _ping(self) -> None:
        self._ping_timer = self._loop.call_later(self._ping_interval_s, self._ping)
        if self._state == OPEN and not self._full:  # else there is traffic enough
            self._send(PING, (b"",), 0)
