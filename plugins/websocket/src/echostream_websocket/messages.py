"""Whole messages over a WebSocket, texts among them: for conformance tests of the frame layer, not for the mux."""

from __future__ import annotations

from collections.abc import Callable

from echostream_core.errors import EchoStreamError
from echostream_core.transport import Pipe
from echostream_core.types import Buffer
from echostream_websocket.frames import BINARY, NORMAL, TEXT
from echostream_websocket.protocol import OPEN, WebSocketProtocol

__all__ = ["MessageSocket"]


class MessageSocket(WebSocketProtocol):
    """Assembles messages: ``on_message(socket, message)`` with ``str`` for a text, ``bytes`` for a binary message.

    ``on_ended(error)`` comes last, None after our own ``close``. Reading begins by itself, on the next loop turn.
    """

    __slots__ = ("_on_ended", "_on_message", "_pieces")

    def __init__(
        self,
        lower: Pipe,
        *,
        client: bool,
        on_message: Callable[[MessageSocket, str | bytes], None],
        on_ended: Callable[[EchoStreamError | None], None],
        max_message_bytes: int,
        early: Buffer = b"",
    ) -> None:
        self._on_message = on_message
        self._on_ended = on_ended
        self._pieces: list[bytes] = []
        super().__init__(lower, client=client, max_message_bytes=max_message_bytes, accepts_text=True, early=early)
        self._begin_reading()

    def send(self, message: str | bytes) -> bool:
        """Send ``message`` whole; False: much is waiting already. A no-op after the end."""
        if self._state != OPEN:
            return True
        data = message.encode("utf-8") if isinstance(message, str) else message
        return self._send(TEXT if isinstance(message, str) else BINARY, (data,), len(data))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake. Idempotent."""
        self._close(code, reason)

    def abort(self) -> None:
        """End at once. Idempotent."""
        self._abort()

    def on_payload(self, opcode: int, data: Buffer, last: bool) -> None:
        """A piece of a message."""
        if self._state != OPEN:
            return
        self._pieces.append(bytes(data))
        if last:
            whole = b"".join(self._pieces)
            self._pieces.clear()
            self._on_message(self, whole.decode("utf-8") if opcode == TEXT else whole)

    def _ended(self, error: EchoStreamError | None) -> None:
        self._on_ended(error)
