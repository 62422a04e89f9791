"""One end of a stream: items both ways, with honest back-pressure.

What the peer sent is consumed, and its credit given back, when the application takes it with ``recv``. So a reader that
does not read holds one window of memory. An item larger than the window reserves its length from the session's assembly
budget, and does so only while a reader is waiting for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from echostream_core.engine.assembly import Reservation
from echostream_core.engine.codecs import status_of
from echostream_core.engine.gate import Gate
from echostream_core.errors import (
    CloseCode,
    DeadlineExceeded,
    DecodeError,
    EndOfStream,
    LimitExceeded,
    RemoteProtocolError,
    ResourceBusy,
    ResourceClosed,
    RpcError,
    StatusCode,
    StreamReset,
)
from echostream_core.transport import Substream
from echostream_core.types import Buffer, Priority
from echostream_core.wire.frames import COMPRESSED, DATA, PACKED, RAW
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.message import MessageReader, encode_data_head

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["Stream"]

_LARGE_BYTES: Final = INITIAL_WINDOW_BYTES // 2 - 8
"""An item up to here always fits into the credit that the peer has once all before it is consumed: credit is renewed by
half windows. A larger one needs a reservation to be sure to complete."""

_MAX_BURST_BYTES: Final = 131_072
"""What ``send`` takes without letting the loop run: a writer that awaits nothing else must not starve it, nor put a
small call behind megabytes."""

_ITEM_COST: Final = 4_096
"""What an item counts beside its bytes: 32 small ones are a burst too."""

_OtherFrame = Callable[[int, int, int, bytes], None]


class Stream:
    """One end of a stream. Handlers get it as a parameter, openers from ``open_stream``."""

    __slots__ = (
        "_burst",
        "_dead",
        "_early",
        "_ended_here",
        "_error",
        "_finished",
        "_gate",
        "_inbox",
        "_large",
        "_on_closed",
        "_on_other",
        "_reader",
        "_reservation",
        "_reset_here",
        "_sealed",
        "_substream",
        "_unconsumed",
        "_waiter",
        "_write_error",
        "_writable",
        "metadata",
        "method",
        "number",
        "session",
    )

    def __init__(
        self,
        session: Session,
        substream: Substream,
        number: int,
        *,
        legal: frozenset[int],
        on_other: _OtherFrame,
        on_closed: Callable[[], None],
    ) -> None:
        """Made by the engine. ``on_other`` gets the frames that are not DATA; ``on_closed`` runs once at the very
        end.
        """
        self.session = session
        """The peer at the other end."""
        self.number = number
        """The stream's number within the session; for logs."""
        self.method = ""
        """The name it was opened under."""
        self.metadata: dict[str, str | bytes] = {}
        """What the opener sent beside the opening payload."""
        self._substream = substream
        self._reader = MessageReader(self, legal)
        self._on_other = on_other
        self._on_closed: Callable[[], None] | None = on_closed
        self._inbox: deque[tuple[int, bytes, int, Reservation | None]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._gate = Gate(session.loop)
        self._writable = True
        self._write_error: Exception | None = None
        self._ended_here = False
        self._reset_here = False
        self._finished = False
        self._error: Exception | None = None
        self._large = 0
        self._reservation: Reservation | None = None
        self._unconsumed = 0
        self._early = 0
        self._burst = 0
        self._dead = False
        self._sealed = False  # credentials in its metadata: nothing is compressed

    # -- writing

    async def send(self, item: object) -> None:
        """Send one item; waits until there is credit, which is until the peer's reader has taken earlier ones.

        ``bytes``, ``bytearray`` and ``memoryview`` travel as they are, anything else through the codec. Raises what the
        peer's handler has raised, StreamReset when the peer no longer reads for another reason, ResourceClosed after
        ``end`` or ``reset``, LimitExceeded for an item over ``max_message_bytes``.
        """
        try:
            self._check_writable()
            while not self._writable:
                await self._gate.wait()
                self._check_writable()
            self._write(item)
            if self._burst >= _MAX_BURST_BYTES and self._writable:
                self._burst = 0
                await asyncio.sleep(0)
            while not self._writable:
                self._burst = 0
                await self._gate.wait()
                self._check_writable()
        except StreamReset as stopped:
            reason = await self._reason(stopped)
            raise reason from reason.__cause__  # not None: that would take it from who reads as well

    async def _reason(self, stopped: StreamReset) -> Exception:
        """Why the peer no longer reads."""
        return stopped

    def send_nowait(self, item: object) -> bool:
        """Send one item if that needs no waiting; False (and nothing sent) if it would."""
        self._check_writable()
        if not self._writable:
            return False
        self._write(item)
        return True

    async def end(self) -> None:
        """Finish our direction: the peer's reader sees the end after the last item. Idempotent; reading goes on."""
        if not self._ended_here and not self._reset_here:
            self._ended_here = True
            self._finish_writing()

    def _finish_writing(self) -> None:
        self._substream.write((), end=True)

    def leave(self) -> None:
        """The application wants nothing more: our direction ends in order, the peer's is stopped."""
        if not self._ended_here and not self._reset_here:
            self._ended_here = True
            self._finish_writing()
        if not self._finished:
            self._substream.stop(CloseCode.CANCELLED)
        self._fail(ResourceClosed(f"{self.method}: the stream was left"))
        self._close()

    def reset(self, code: int = CloseCode.CANCELLED) -> None:
        """Give the stream up in both directions at once, with a 32-bit reason for the peer. Idempotent."""
        if self._reset_here:
            return
        self._reset_here = True
        self._substream.reset(code)
        self._substream.stop(code)
        self._fail(ResourceClosed(f"{self.method}: the stream was reset here"))
        self._close()

    def _check_writable(self) -> None:
        if self._write_error is not None:
            raise self._write_error
        if self._reset_here:
            raise ResourceClosed(f"{self.method}: the stream was reset here")
        if self._ended_here:
            raise ResourceClosed(f"{self.method}: nothing can be sent after end()")

    def _write(self, item: object) -> None:
        codecs = self.session.codecs
        if isinstance(item, bytes):
            codec, body = RAW, item
        elif isinstance(item, (bytearray, memoryview)):
            codec, body = RAW, bytes(item)
        else:
            codec = codecs.out_id
            body = codecs.encode_with(codec, item)
        maximum = self.session.outgoing.peer_max_message
        if len(body) > maximum:
            raise LimitExceeded(
                f"{self.method}: an item of {len(body)} bytes, the peer's max_message_bytes is {maximum}",
                limit="max_message_bytes",
                value=len(body),
                maximum=maximum,
            )
        flags = 0
        if len(body) >= codecs.compress_from and not self._sealed:
            flags, body = codecs.pack(body)
        self._burst += len(body) + _ITEM_COST
        if not self._substream.write((encode_data_head(codec, len(body), flags), body)):
            self._writable = False

    def seal(self) -> None:
        """Compress nothing that we send here."""
        self._sealed = True

    def set_priority(self, level: int) -> None:
        """The class of what we send here."""
        self._substream.set_priority(Priority(level))

    def write_final(self, frame: bytes) -> None:
        """The engine ends our direction with a final status frame."""
        self._ended_here = True
        if not self._reset_here:
            self._substream.write((frame,), end=True)

    # -- reading

    async def recv(self) -> Any:
        """The next item; waits for it. EndOfStream after the peer's last one, RpcError or StreamReset when it failed.

        Raises ResourceBusy when another task is already waiting here.
        """
        while True:
            if self._inbox:
                return self._take()
            if self._error is not None:
                raise self._error
            if self._finished:
                raise EndOfStream(f"{self.method}: the peer has sent its last item")
            if self._waiter is not None:
                raise ResourceBusy(f"{self.method}: another task is already waiting in recv()")
            self._waiter = self.session.loop.create_future()
            if self._large and self._reservation is None:
                self._reserve()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def __aiter__(self) -> Stream:
        """Iterate over the items until the peer's end."""
        return self

    async def __anext__(self) -> Any:
        """The next item; see ``recv``."""
        try:
            return await self.recv()
        except EndOfStream:
            raise StopAsyncIteration from None

    def _take(self) -> Any:
        codec, body, cost, reservation = self._inbox.popleft()
        if cost:
            self._substream.consume(cost)
        if reservation is not None:
            reservation.release()
        value: object = body
        if codec != RAW:
            decode = self.session.codecs.decoder(codec)
            if decode is None:
                number = codec & ~PACKED
                text = f"{self.method}: an item in codec {number}, not installed here"
                raise RpcError(StatusCode.UNIMPLEMENTED, text)
            try:
                value = decode(body)
            except DecodeError as error:
                text = f"{self.method}: an item cannot be decoded: {error}"
                raise RpcError(status_of(error), text) from error
        return value

    # -- what the substream calls

    def on_data(self, data: Buffer) -> None:
        """Bytes of the peer."""
        if self._reset_here or self._error is not None or self._dead:
            self._substream.consume(len(data))
            return
        self._unconsumed += len(data)
        try:
            self._reader.receive(data)
        except RemoteProtocolError as error:
            self.session.on_violation(error)
            return
        if self._reservation is not None and self._reservation.granted:
            self._consume_arrived()

    def on_frame_begin(self, kind: int, length: int) -> None:
        """An item begins."""
        if self._dead:
            return
        limits = self.session.pipeline.limits
        if length > limits.max_message_bytes + limits.max_metadata_bytes + limits.max_error_bytes + 512:
            self._substream.stop(CloseCode.LIMIT)
            self._fail(
                LimitExceeded(
                    f"{self.method}: an item of {length} bytes, max_message_bytes is {limits.max_message_bytes}",
                    limit="max_message_bytes",
                    value=length,
                    maximum=limits.max_message_bytes,
                )
            )
        elif length > _LARGE_BYTES:
            self._large = length
            if self._waiter is not None and not self._inbox:
                # Its bytes are consumed at the end of on_data: what follows it in the same data is not part of it.
                self._reservation = self.session.budget.reserve(length, self._consume_arrived)

    def on_skipped(self, size: int) -> None:
        """An ignorable frame went by."""
        if self._dead:
            return
        self._unconsumed -= size
        self._substream.consume(size)

    def on_frame(self, kind: int, flags: int, aux: int, body: bytes) -> None:
        """An item, or the opening or final frame."""
        if self._dead:
            return
        reservation, self._reservation = self._reservation, None
        self._large = 0
        cost = 8 + len(body) - self._early
        self._early = 0
        self._unconsumed -= cost
        if kind != DATA or (reservation is not None and reservation.granted):
            self._substream.consume(cost)
            cost = 0
        elif reservation is not None:  # the window has grown meanwhile: it fits after all
            reservation.release()
            reservation = None
        if kind == DATA and not self._finished:
            if flags & COMPRESSED:
                aux |= PACKED
            if aux >= len(self.session.codecs.decoders):
                self.session.codecs.decoder(aux)  # raises, unless it is known and only compressed
            self._inbox.append((aux, body, cost, reservation))
            self._wake()
            return
        if cost:  # an item behind the final status: nobody will take it
            self._substream.consume(cost)
        if reservation is not None:
            reservation.release()
        if kind == DATA:
            return
        self._on_other(kind, flags, aux, body)

    def _reserve(self) -> None:
        self._reservation = self.session.budget.reserve(self._large, self._consume_arrived)
        if self._reservation.granted:
            self._consume_arrived()

    def _consume_arrived(self) -> None:
        """Give credit for what has arrived of the item that is reserved."""
        size, self._unconsumed = self._unconsumed, 0
        if size:
            self._early += size
            self._substream.consume(size)

    def on_end(self) -> None:
        """The peer has ended its direction."""
        if not self._reader.between_frames:
            self._fail(StreamReset(f"{self.method}: the peer ended the stream inside an item"))
        else:
            self.finish(None)

    def finish(self, error: Exception | None) -> None:
        """The peer's direction is over: after the queued items comes ``error``, or the end."""
        if self._error is None and not self._finished:
            self._finished = True
            self._error = error
            self._wake()

    def on_reset(self, code: int) -> None:
        """The peer gave its direction up: what is queued is dropped."""
        self._fail(StreamReset(f"{self.method}: the peer reset the stream (code {code})", code=code))

    def on_stop(self, code: int) -> None:
        """The peer reads no more."""
        self._write_error = StreamReset(f"{self.method}: the peer no longer reads (code {code})", code=code)
        self._substream.reset(code)
        self._writable = True
        self._gate.open_all()

    def on_writable(self) -> None:
        """There is credit again."""
        self._writable = True
        self._gate.open_all()

    def expire(self, number: int) -> None:
        """The stream's deadline has passed."""
        self._give_up(DeadlineExceeded(f"{self.method}: the stream did not finish in time"))

    def on_session_closed(self, error: Exception) -> None:
        """The session ended under the stream: what has arrived whole can still be read."""
        self._write_error = error
        self.finish(error)
        self._gate.open_all()
        self._close()

    def refused(self, error: Exception) -> None:
        """The peer will not process this stream."""
        self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._write_error = error
        self._fail(error)
        self._reset_here = True
        self._substream.reset(CloseCode.CANCELLED)
        self._substream.stop(CloseCode.CANCELLED)
        self._close()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._release()
        self._writable = True
        self._gate.open_all()
        self._wake()

    def _release(self) -> None:
        """Nobody takes what has arrived, or what else is in the data that is being read: all of it is consumed."""
        self._dead = True
        consumed = self._unconsumed
        self._unconsumed = 0
        while self._inbox:
            _, _, cost, reservation = self._inbox.popleft()
            consumed += cost
            if reservation is not None:
                reservation.release()
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        if consumed > 0:
            self._substream.consume(consumed)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _close(self) -> None:
        callback, self._on_closed = self._on_closed, None
        if callback is not None:
            callback()

    def closed(self) -> None:
        """The engine has seen both ends finish."""
        self._close()
