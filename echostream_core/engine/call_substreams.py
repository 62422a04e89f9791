"""Calls and responses that are too large for the control substream: a substream of their own for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echostream_core.engine.assembly import Reservation
from echostream_core.engine.early import start_substream
from echostream_core.errors import (
    CloseCode,
    Disconnected,
    LimitExceeded,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    StatusCode,
)
from echostream_core.transport import Substream
from echostream_core.types import Buffer, Priority, priority_of
from echostream_core.wire.frames import ERROR, FULL_NAME, SubstreamKind, encode_substream_head
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.message import (
    MessageReader,
    encode_call_head,
    encode_response_head,
    parse_call,
    parse_response,
)
from echostream_core.wire.metadata import encode_error
from echostream_core.wire.states import LEGAL, By

if TYPE_CHECKING:
    from echostream_core.engine.context import Context
    from echostream_core.engine.session import Session

__all__ = ["IncomingCall", "IncomingResponse", "MessageReceiver", "OutgoingCall"]


class MessageReceiver:
    """Assembles one message from a substream within the session's budget; the base of the classes below."""

    __slots__ = ("_reader", "_reservation", "_unconsumed", "done", "session", "substream")

    def __init__(self, session: Session, substream: Substream, legal: frozenset[int]) -> None:
        self.session = session
        self.substream = substream
        self._reader = MessageReader(self, legal)
        self._reservation: Reservation | None = None
        self._unconsumed = 0
        self.done = False

    @property
    def max_bytes(self) -> int:
        """The longest frame that may come here."""
        limits = self.session.pipeline.limits
        return limits.max_message_bytes + limits.max_metadata_bytes + limits.max_error_bytes + 512

    def on_data(self, data: Buffer) -> None:
        """Assemble; credit is given as the budget allows."""
        self._unconsumed += len(data)
        if self.done:
            self._consume()
            return
        try:
            self._reader.receive(data)
        except RemoteProtocolError as error:
            self.session.on_violation(error)
            return
        if self._reservation is not None and self._reservation.granted:
            self._consume()

    def on_frame_begin(self, kind: int, length: int) -> None:
        """Reserve what does not fit into the first window."""
        if length > self.max_bytes:
            self.refuse(length)
        elif length + 32 > INITIAL_WINDOW_BYTES:
            self._reservation = self.session.budget.reserve(length, self._consume)

    def on_skipped(self, size: int) -> None:
        """An ignorable frame went by."""
        self._unconsumed -= size
        self.substream.consume(size)

    def on_frame(self, kind: int, flags: int, aux: int, body: bytes) -> None:
        """The message is here."""
        if self.done:
            return
        self.done = True
        self._consume()
        try:
            self.on_message(flags, aux, body)
        finally:
            self.release()

    def on_message(self, flags: int, aux: int, body: bytes) -> None:
        """Act on the message."""
        raise NotImplementedError

    def refuse(self, length: int) -> None:
        """A message of ``length`` bytes is announced, which is too long."""
        raise NotImplementedError

    def _deliver(self, number: int, flags: int, codec: int, payload: Buffer) -> None:
        if not flags & ERROR and len(payload) > self.session.pipeline.limits.max_message_bytes:
            self.refuse_answer(number, len(payload))
        else:
            self.session.outgoing.on_response(number, flags, codec, payload)
            self.session.departure.close_if_done()

    def refuse_answer(self, number: int, length: int) -> None:
        """The answer to call ``number`` is longer than we take."""
        self.done = True
        self.substream.stop(CloseCode.LIMIT)
        limit = self.session.pipeline.limits.max_message_bytes
        error = LimitExceeded(
            f"the answer has {length} bytes, max_message_bytes is {limit}",
            limit="max_message_bytes",
            value=length,
            maximum=limit,
            not_processed=False,
        )
        self.session.outgoing.on_refused(number, error)
        self.session.departure.close_if_done()

    def release(self) -> None:
        """Give reserved memory back. Idempotent."""
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    def _consume(self) -> None:
        size, self._unconsumed = self._unconsumed, 0
        if size:
            self.substream.consume(size)

    def on_end(self) -> None:
        """The peer has finished writing: the message must be complete."""
        if not self.done:
            self.session.on_violation(RemoteProtocolError("a call's substream ended before its message was complete"))

    def on_writable(self) -> None:
        """Nothing waits: one message is written whole."""

    def on_stop(self, code: int) -> None:
        """The peer does not read what we write."""
        self.substream.reset(CloseCode.CANCELLED)


class OutgoingCall(MessageReceiver):
    """A call of ours on a substream of its own."""

    __slots__ = ("_level", "_method", "_number")

    def __init__(self, session: Session, number: int, method: str, level: int) -> None:
        substream = session.connection.open_substream(Priority(level))
        self._level = level
        super().__init__(session, substream, LEGAL[(SubstreamKind.CALL, By.ACCEPTOR)])
        self._number = number
        self._method = method

    def start(self, method: bytes, timeout_ms: int, codec: int, metadata: bytes, body: bytes, flags: int = 0) -> None:
        """Write the call, whole."""
        level = self._level
        head = encode_substream_head(SubstreamKind.CALL, level, self._number)
        call = encode_call_head(self._number, timeout_ms, method, FULL_NAME, codec, level, metadata, len(body), flags)
        start_substream(self.session, self.substream, self)
        self.substream.write((head + call, body), end=True)

    def cancel(self) -> None:
        """Give the call up: its slot is free when the peer's direction is over too."""
        if not self.done:
            self.done = True
            self.substream.reset(CloseCode.CANCELLED)
            self.substream.stop(CloseCode.CANCELLED)
            self.release()
            if not self.substream.known_to_peer:
                self.session.outgoing.on_refused(self._number, RpcError(StatusCode.CANCELLED, "given up"))

    def on_message(self, flags: int, aux: int, body: bytes) -> None:
        """The response."""
        number, codec, payload = parse_response(body)
        if number != self._number:
            raise RemoteProtocolError(f"the response on the substream of call {self._number} names call {number}")
        self._deliver(number, flags, codec, payload)

    def refuse(self, length: int) -> None:
        """The response is longer than we take."""
        self.refuse_answer(self._number, length)

    def on_end(self) -> None:
        """The peer ended the substream: without a response the call has failed."""
        self._fail(RemoteError(StatusCode.INTERNAL, f"{self._method}: the peer ended the call without an answer"))

    def on_reset(self, code: int) -> None:
        """The peer gave the call up, or answers our giving it up."""
        if code == CloseCode.REFUSED:
            text = f"{self._method}: the peer refused another substream"
            error = RemoteError(StatusCode.RESOURCE_EXHAUSTED, text, retryable=True, not_processed=True)
            self._fail(error)
        else:
            self._fail(RemoteError(StatusCode.CANCELLED, f"{self._method}: the peer gave the call up (code {code})"))

    def _fail(self, error: RpcError) -> None:
        self.done = True
        self.release()
        self.session.outgoing.on_refused(self._number, error)
        self.session.departure.close_if_done()


class IncomingCall(MessageReceiver):
    """A call of the peer on a substream of its own; it is answered there."""

    __slots__ = ("_answered", "_given_up", "_number", "_waiting")

    def __init__(self, session: Session, substream: Substream, number: int) -> None:
        super().__init__(session, substream, LEGAL[(SubstreamKind.CALL, By.OPENER)])
        self._number = number
        self._answered = False
        self._given_up = False
        self._waiting = False
        session.incoming.saw(number)
        session.incoming.assembling += 1

    def on_message(self, flags: int, aux: int, body: bytes) -> None:
        """The call."""
        number, timeout, method, codec, level, metadata, payload = parse_call(flags, aux, body)
        if number != self._number:
            raise RemoteProtocolError(f"the substream of call {self._number} carries call {number}")
        self.substream.set_priority(priority_of(level))
        self.session.incoming.on_call(number, method, codec, timeout, level, metadata, payload, self)

    def refuse(self, length: int) -> None:
        """The call is longer than we take: say so, and read no more of it."""
        self.done = True
        self._answered = True
        self.session.incoming.assembling -= 1
        limits = self.session.pipeline.limits
        text = f"about {length} bytes, max_message_bytes is {limits.max_message_bytes}"
        body = encode_error(RpcError(StatusCode.RESOURCE_EXHAUSTED, text, not_processed=True), [], limits)
        self.substream.write((encode_response_head(self._number, ERROR, 0, len(body)) + body,), end=True)
        self.substream.stop(CloseCode.LIMIT)

    def respond(self, context: Context, flags: int, codec: int, body: bytes) -> bool:
        """Write the answer, whole. False: it waits for credit."""
        if self._given_up:
            self.substream.reset(CloseCode.CANCELLED)
        elif not self._answered:
            self._answered = True
            head = encode_response_head(self._number, flags, codec, len(body))
            self._waiting = not self.substream.write((head, body), end=True)
        return not self._waiting

    def on_writable(self) -> None:
        """What waited of the answer has gone."""
        if self._waiting:
            self._waiting = False
            self.session.incoming.released()

    def on_reset(self, code: int) -> None:
        """The caller gave up."""
        self.release()
        self._give_up()

    def on_stop(self, code: int) -> None:
        """The caller does not read the answer."""
        self._give_up()

    def _give_up(self) -> None:
        if self._waiting:  # the answer is not wanted any more
            self.substream.reset(CloseCode.CANCELLED)
            self.on_writable()
        if not self._answered and not self._given_up:
            self._given_up = True
            self.session.count_reset()
            if self.done:  # the reset follows when the handler has finished: until then the caller's slot is held
                self.session.incoming.cancel(self._number)
            else:
                self.session.incoming.assembling -= 1
                self.substream.reset(CloseCode.CANCELLED)
        self.done = True


class IncomingResponse(MessageReceiver):
    """The answer to an in-line call of ours, too large to come in-line."""

    __slots__ = ("_number",)

    def __init__(self, session: Session, substream: Substream, number: int) -> None:
        super().__init__(session, substream, LEGAL[(SubstreamKind.RESPONSE, By.OPENER)])
        self._number = number
        substream.write((), end=True)

    def on_message(self, flags: int, aux: int, body: bytes) -> None:
        """The response."""
        number, codec, payload = parse_response(body)
        if number != self._number:
            raise RemoteProtocolError(f"the substream of response {self._number} carries response {number}")
        self._deliver(number, flags, codec, payload)

    def refuse(self, length: int) -> None:
        """The response is longer than we take."""
        self.refuse_answer(self._number, length)

    def on_reset(self, code: int) -> None:
        """The peer gave up its answer."""
        self.release()
        if not self.done:
            self.done = True
            text = f"the peer gave up its answer (code {code})"
            self.session.outgoing.on_refused(self._number, Disconnected(text))
