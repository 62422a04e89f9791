"""What becomes of a substream that the peer opened, and the receivers of the substreams that the session itself
uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echostream_core.engine.call_substreams import IncomingCall, IncomingResponse
from echostream_core.engine.stream_calls import IncomingStream
from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.transport import Substream, SubstreamReceiver
from echostream_core.types import Buffer
from echostream_core.wire.frames import SUBSTREAM_HEAD, SubstreamKind

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["Arriving", "ControlSubstream", "WriteOnly"]


class ControlSubstream:
    """Receives the control substream: always read, consumed on arrival."""

    __slots__ = ("_consume", "_receive", "_session")

    def __init__(self, session: Session, substream: Substream) -> None:
        self._session = session
        self._receive = session.on_control_data
        self._consume = substream.consume

    def on_data(self, data: Buffer) -> None:
        self._receive(data)
        self._consume(len(data))

    def on_end(self) -> None:
        self._session.control_ended()

    def on_reset(self, code: int) -> None:
        self._session.control_ended()

    def on_stop(self, code: int) -> None:
        self._session.control_ended()

    def on_writable(self) -> None:
        self._session.control_writable()


class WriteOnly:
    """Receives nothing: the other direction of a response's substream is ended by the peer at once."""

    __slots__ = ("_session", "_substream", "waiting")

    def __init__(self, session: Session, substream: Substream) -> None:
        self._session = session
        self._substream = substream
        self.waiting = False
        """The answer waits for credit, and its call holds a slot."""

    def on_data(self, data: Buffer) -> None:
        self._substream.consume(len(data))

    def on_end(self) -> None:
        pass

    def on_reset(self, code: int) -> None:
        self._release()

    def on_stop(self, code: int) -> None:
        self._substream.reset(CloseCode.CANCELLED)
        self._release()

    def on_writable(self) -> None:
        self._release()

    def _release(self) -> None:
        if self.waiting:
            self.waiting = False
            self._session.incoming.released()


class Arriving:
    """A substream of the peer until its first eight bytes, and the peer's SETUP, are here. Nothing is consumed
    before.
    """

    __slots__ = ("_buffer", "_ended", "_given_up", "_session", "_substream", "_waits")

    def __init__(self, session: Session, substream: Substream) -> None:
        self._session = session
        self._substream = substream
        self._buffer: list[bytes] = []
        self._ended = False
        self._given_up = False
        self._waits = False

    def on_data(self, data: Buffer) -> None:
        self._buffer.append(bytes(data))
        if not self._waits and sum(map(len, self._buffer)) >= 8:
            self.proceed()

    def proceed(self) -> None:
        """Hand over to the receiver that the head asks for."""
        session = self._session
        if self._given_up:
            return
        data = b"".join(self._buffer)
        kind, _level, reserved, number = SUBSTREAM_HEAD.unpack_from(data)
        if kind != SubstreamKind.CONTROL and not session.accepted:
            self._waits = True
            session.wait_for_setup(self)
            return
        self._buffer.clear()
        try:
            if reserved:
                raise RemoteProtocolError("a substream's reserved bytes are not zero")
            receiver = self._receiver(kind, number)
        except RemoteProtocolError as error:
            session.on_violation(error)
            return
        self._substream.start(receiver)
        self._substream.consume(8)
        if len(data) > 8:
            receiver.on_data(data[8:])
        if self._ended:
            receiver.on_end()

    def _receiver(self, kind: int, number: int) -> SubstreamReceiver:
        session = self._session
        peer_parity = 1 if session.dialer else 0
        if kind == SubstreamKind.CONTROL:
            session.accept_control(self._substream)
            return ControlSubstream(session, self._substream)
        if kind == SubstreamKind.RESPONSE:
            return IncomingResponse(session, self._substream, number)
        if kind in (SubstreamKind.CALL, SubstreamKind.STREAM) and number & 1 != peer_parity:
            raise RemoteProtocolError(f"call number {number} has the wrong parity")
        if kind == SubstreamKind.CALL:
            return IncomingCall(session, self._substream, number)
        if kind == SubstreamKind.STREAM:
            if session.has_stream(number):
                raise RemoteProtocolError(f"stream number {number} is in use")
            return IncomingStream(session, self._substream, number).stream
        if kind == SubstreamKind.EVENTS:
            return session.events.accept(self._substream)
        raise RemoteProtocolError(f"unknown kind of substream {kind}")

    def on_end(self) -> None:
        self._ended = True
        if sum(map(len, self._buffer)) < 8:
            self._session.on_violation(RemoteProtocolError("a substream ended before its head was complete"))

    def on_reset(self, code: int) -> None:
        self._given_up = True
        self._session.count_reset()
        self._buffer.clear()
        self._substream.reset(CloseCode.CANCELLED)

    def on_stop(self, code: int) -> None:
        self._substream.reset(CloseCode.CANCELLED)

    def on_writable(self) -> None:
        pass
