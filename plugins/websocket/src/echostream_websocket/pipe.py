"""The pipe over one WebSocket: what the kernel's mux writes goes out as binary messages, what comes in is streamed.

Message boundaries mean nothing to the mux, so a message is handed on piece by piece as it arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from echostream_core.capabilities import Capabilities
from echostream_core.errors import EchoStreamError
from echostream_core.transport import Pipe, PipeReceiver
from echostream_core.types import Buffer
from echostream_websocket.frames import BINARY
from echostream_websocket.protocol import ENDED, OPEN, WebSocketProtocol

__all__ = ["MESSAGE_BYTES", "WebSocketPipe"]

MESSAGE_BYTES: Final = 65_536
"""One write becomes one message up to this size, and several beyond: proxies and peers have limits."""


class WebSocketPipe(WebSocketProtocol, Pipe):
    """A pipe over a WebSocket that both ends have agreed on."""

    __slots__ = (
        "_held_back",
        "_largest",
        "_receiver",
        "_waiting",
        "capabilities",
        "local_address",
        "peer_address",
        "peer_identity",
    )

    negotiated = True

    def __init__(
        self,
        lower: Pipe,
        *,
        client: bool,
        capabilities: Capabilities,
        peer_address: str,
        local_address: str,
        max_message_bytes: int,
        early: Buffer = b"",
        ping_interval_s: float = 0.0,
    ) -> None:
        """``lower`` is a started pipe of bytes; ``early`` is what arrived on it behind the handshake."""
        self.capabilities = capabilities
        self.local_address = local_address
        self.peer_address = peer_address
        self.peer_identity = lower.peer_identity
        self._receiver: PipeReceiver | None = None
        self._held_back = False
        self._largest = min(MESSAGE_BYTES, max_message_bytes)  # a peer with the same settings takes no more
        self._waiting = False
        super().__init__(
            lower,
            client=client,
            max_message_bytes=max_message_bytes,
            accepts_text=False,
            peer=peer_address,
            early=early,
            ping_interval_s=ping_interval_s,
        )

    def start(self, receiver: PipeReceiver) -> None:
        """Begin delivery to ``receiver``. Calling it again replaces the receiver."""
        first = self._receiver is None
        self._receiver = receiver
        if not first:
            return
        if self._state == ENDED or self._waiting:
            self._loop.call_soon(self._tell)
        if self._state == OPEN and not self._held_back:
            self._begin_reading()

    def write(self, buffers: Sequence[Buffer]) -> bool:
        """Queue ``buffers`` in order; False: wait for ``on_writable`` before more. A no-op after the end."""
        if self._state:
            return True
        size = sum(map(len, buffers))
        if size > self._largest:
            room = self._write_large(buffers)
        elif size:
            room = self._lower.write(self._frame(BINARY, buffers, size))
        else:
            return True
        if not room:
            self._full = self._waiting = True
        return room

    def pause(self) -> None:
        """Stop delivering data. Idempotent."""
        self._held_back = True
        if self._state == OPEN:
            self._stop_reading()

    def resume(self) -> None:
        """Deliver data again. Idempotent."""
        if self._held_back:
            self._held_back = False
            if self._receiver is not None and self._state == OPEN:
                self._begin_reading()

    def close(self) -> None:
        """Send what is queued and a close frame, then end when the peer has answered. Idempotent."""
        self._close()

    def abort(self) -> None:
        """End at once, dropping what is queued; the peer sees a reset. Idempotent."""
        self._abort()

    def on_payload(self, opcode: int, data: Buffer, last: bool) -> None:
        """A piece of a binary message."""
        if data and self._state == OPEN and self._receiver is not None:
            self._receiver.on_data(data)

    def _writable(self) -> None:
        if self._waiting and self._receiver is not None:
            self._waiting = False
            self._receiver.on_writable()

    def _ended(self, error: EchoStreamError | None) -> None:
        self._error = error
        if self._receiver is not None:
            self._tell()

    def _tell(self) -> None:
        """Tell a new receiver what has happened already; or any receiver of the end."""
        if self._state == ENDED:
            receiver, self._receiver = self._receiver, None
            error, self._error = self._error, None
            if receiver is not None:
                receiver.on_closed(error)
        elif self._state == OPEN and not self._full:
            self._writable()

    def _write_large(self, buffers: Sequence[Buffer]) -> bool:
        """Write as messages of the largest size, the last one smaller."""
        largest = self._largest
        room = True
        message: list[Buffer] = []
        size = 0
        for buffer in buffers:
            view = memoryview(buffer)
            begin = 0
            while begin < len(view):
                piece = view[begin : begin + largest - size]
                message.append(piece)
                size += len(piece)
                begin += len(piece)
                if size == largest:
                    room = self._lower.write(self._frame(BINARY, message, size))
                    message, size = [], 0
        if size:
            room = self._lower.write(self._frame(BINARY, message, size))
        return room
