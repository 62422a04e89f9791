"""Our calls to the peer: numbers, slots, deadlines, interned names, and the futures that wait for final frames.

A pending call keeps its slot until its final frame comes, also when the caller has long given up: resets and cancels
buy no extra concurrency.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, Final

from echostream_core.compression import carries_credentials
from echostream_core.engine.binding import convert
from echostream_core.engine.call_substreams import OutgoingCall
from echostream_core.engine.codecs import status_of
from echostream_core.engine.context import CURRENT, inherited
from echostream_core.engine.handlers import check_method
from echostream_core.engine.link import BIG_BODY_BYTES, ControlLink
from echostream_core.engine.slots import Slots
from echostream_core.errors import (
    CallError,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    Disconnected,
    EncodeError,
    LimitExceeded,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    StatusCode,
)
from echostream_core.middleware import Call, Handler, Reply, compile_chain
from echostream_core.types import Buffer, Priority, not_before
from echostream_core.wire.control import INLINE_ALWAYS_BYTES
from echostream_core.wire.frames import CALL, CALL_HEAD, COMPRESSED, ERROR, FULL_NAME, PACKED, encode_cancel
from echostream_core.wire.limits import DEFAULT_MAX_MESSAGE_BYTES, INITIAL_MAX_CALLS, MAX_INTERNED
from echostream_core.wire.message import encode_call_head
from echostream_core.wire.metadata import check_metadata, decode_error, encode_metadata

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["DEFAULT_TIMEOUT", "Action", "Again", "MetadataLike", "Outgoing", "asking", "timeout_ms"]

MetadataLike = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


class _Default:
    """The type of ``DEFAULT_TIMEOUT``."""

    def __repr__(self) -> str:
        return "DEFAULT_TIMEOUT"


DEFAULT_TIMEOUT: Final = _Default()
"""Stands for the endpoint's ``default_timeout_s``."""

Action = Callable[["Session", float | None], Awaitable[Any]]
"""Something to do with a session, within so many seconds; None: without limit."""
Again = Callable[["Session", Disconnected, Action, float | None], Awaitable[Any]]
"""Does in another session what the peer of this one has not processed: the session, its error, what, and the seconds
that are left for it."""

_FOREVER: Final = float("inf")
_Pending = tuple["asyncio.Future[Any]", float, OutgoingCall | None, str]


def asking(
    method: str, payload: object, metadata: MetadataLike | None, returns: Any, priority: Priority | None
) -> Action:
    """The request as something to do with a session.

    Not within ``request``: what an inner function refers to becomes a cell, which costs each call 0.1 us.
    """
    return lambda session, left: session.outgoing.request(method, payload, left, metadata, returns, priority)


def _deadline(now: float, timeout: float | _Default | None) -> float:
    if timeout is None:
        return _FOREVER
    if not isinstance(timeout, int | float) or isnan(timeout):
        raise ConfigError(f"timeout must be a number of seconds, or None for no limit, not {timeout!r}")
    if timeout <= 0:
        raise DeadlineExceeded("the timeout is over before the call began", not_processed=True)
    return now + timeout


def _codec_is_unknown(error: RemoteError) -> bool:
    return error.not_processed and bool(error.details) and error.details[0][0] == "echostream.UnknownCodec"


def timeout_ms(remaining: float) -> int:
    """Seconds as they travel: milliseconds rounded up, 1 at the least; 0 stands for none."""
    return 0 if remaining == _FOREVER else min(max(int(remaining * 1000 + 0.999), 1), 0xFFFF_FFFF)


class Outgoing:
    """The caller's side of one session."""

    __slots__ = (
        "_chained",
        "_codecs",
        "_compress_from",
        "_create_future",
        "_decoders",
        "_default_timeout",
        "_interned",
        "_link",
        "_loop",
        "_next",
        "_next_id",
        "_pending",
        "_refusal",
        "_session",
        "_time",
        "_timer",
        "inline_max",
        "peer_max_message",
        "slots",
    )

    def __init__(self, session: Session, link: ControlLink, *, parity: int, inline_max: int) -> None:
        """``parity``: of our call numbers."""
        self._session = session
        self._loop = session.loop
        self._link = link
        self._codecs = session.codecs
        self._compress_from = session.codecs.compress_from
        self._pending: dict[int, _Pending] = {}
        self._interned: dict[str, int] = {}
        self._next_id = 0
        self._next = parity
        self.slots = Slots(session.loop, INITIAL_MAX_CALLS)
        """Calls and streams without their final frame."""
        self._time = session.loop.time
        self._create_future = session.loop.create_future
        self._timer = session.timer
        self._decoders = session.codecs.decoders
        self._default_timeout = session.pipeline.limits.default_timeout_s
        self._chained = bool(session.pipeline.client_middleware)
        self._refusal: Callable[[str], Disconnected] | None = None
        self.inline_max = min(inline_max, INLINE_ALWAYS_BYTES)
        self.peer_max_message = DEFAULT_MAX_MESSAGE_BYTES

    # -- the path of a call, in its order

    async def request(
        self,
        method: str,
        payload: object = None,
        timeout: float | _Default | None = DEFAULT_TIMEOUT,
        metadata: MetadataLike | None = None,
        returns: Any = None,
        priority: Priority | None = None,
        again: Again | None = None,
    ) -> Any:
        """Call ``method`` and wait for its answer; see ``Session.request``. ``again`` takes over what the peer has not
        processed because the session was at its end.

        Written in one piece: each coroutine or method less on this path is 3 % of a small call.
        """
        now = self._time()
        deadline = now + self._default_timeout if timeout is DEFAULT_TIMEOUT else _deadline(now, timeout)
        level = 2
        context = CURRENT.get()
        if context is not None:
            bound, level = inherited(context)
            if bound is not None and bound < deadline:
                deadline = bound
        if priority is not None:
            level = min(max(priority, Priority.URGENT), Priority.BULK)
        try:
            if metadata or self._chained:
                pairs = check_metadata(metadata) if metadata else []
                value = await self._through_chain(method, payload, deadline, pairs, level)
                return value if returns is None else convert(value, returns)
            codecs = self._codecs
            codec = codecs.out_id  # with the body: the peer's SETUP may change it while we wait for a slot
            try:
                body = codecs.encode(payload)
            except EncodeError:
                body = codecs.encode_rich(codec, payload)
            if len(body) > self.inline_max or self.slots.waiters or self.slots.used >= self.slots.limit:
                if len(body) > self.inline_max:
                    await self.check_size(method, len(body), deadline)
                await self.slots.wait(deadline)
                now = self._time()
            else:
                self.slots.used += 1
            try:
                future = self._send(method, body, codec, deadline, now, b"", level)
            except BaseException:
                self.slots.release()
                raise
            try:
                value = await future
            except asyncio.CancelledError:
                self._abandon(future)
                raise
            except RemoteError as error:
                if not _codec_is_unknown(error):
                    raise
                value = await self._perform(method, payload, deadline, b"", level, False)
            return value if returns is None else convert(value, returns)
        except Disconnected as error:
            if again is None or not error.not_processed:
                raise
            refused = error
        left = None if deadline == _FOREVER else deadline - self._time()
        return await again(self._session, refused, asking(method, payload, metadata, returns, priority), left)

    async def _perform(
        self, method: str, payload: object, deadline: float, metadata: bytes, level: int, sealed: bool
    ) -> Any:
        """A call with metadata, in a chain, or sent again because the peer lacks the codec of the first try.

        ``sealed``: its metadata carries credentials, so it is not compressed.
        """
        while True:
            codec = self._codecs.out_id
            body = self._codecs.encode_with(codec, payload)
            await self.check_size(method, len(body), deadline)
            await self.slots.wait(deadline)
            try:
                future = self._send(method, body, codec, deadline, self._time(), metadata, level, sealed)
            except BaseException:
                self.slots.release()
                raise
            try:
                return await future
            except asyncio.CancelledError:
                self._abandon(future)
                raise
            except RemoteError as error:
                # What we encoded before the peer's SETUP was here it may not know; now we know what it does.
                if not _codec_is_unknown(error) or codec == self._codecs.out_id:
                    raise

    async def check_size(self, method: str, size: int, deadline: float) -> None:
        """Refuse what the peer does not take. Beyond the default limit only its SETUP can say: wait for it."""
        if size > self.peer_max_message and not self._codecs.settled:
            await self._session.wait_for_peer(deadline)
        if size > self.peer_max_message:
            raise LimitExceeded(
                f"{method}: the payload has {size} bytes, the peer's max_message_bytes is {self.peer_max_message}; "
                "send it as a stream, or raise the limit at both ends",
                limit="max_message_bytes",
                value=size,
                maximum=self.peer_max_message,
            )

    def _send(
        self,
        method: str,
        body: bytes,
        codec: int,
        deadline: float,
        now: float,
        metadata: bytes,
        level: int,
        sealed: bool = False,
    ) -> asyncio.Future[Any]:
        if self._refusal is not None:
            raise self._refusal(method)
        size = len(body)
        flags = 0
        if size >= self._compress_from and not sealed:
            flags, body = self._codecs.pack(body)
            size = len(body)
        if size > self.inline_max:
            return self._send_on_substream(method, body, codec, deadline, now, metadata, level, flags)
        number = self._next
        if number in self._pending:
            number = self.take_number(method)
        self._next = (number + 2) & 0xFFFF_FFFF
        remaining = 0
        if deadline != _FOREVER:
            remaining = int((deadline - now) * 1000 + 0.999)
            if remaining <= 0:
                raise DeadlineExceeded(f"{method}: no time was left to send it", not_processed=True)
            if deadline < self._timer.at:
                self._timer.need(deadline)
            if remaining > 0xFFFF_FFFF:
                remaining = 0
        method_id = self._interned.get(method)
        if method_id is not None and not metadata:
            head = CALL_HEAD.pack(CALL, flags, 0, 12 + size, number, remaining, method_id, codec, level)
        else:
            head = self._named_head(number, remaining, method, codec, level, metadata, size, flags)
        future: asyncio.Future[Any] = self._create_future()
        self._pending[number] = (future, deadline, None, method)
        if size < BIG_BODY_BYTES:
            self._link.send(head + body)
        else:
            self._link.send_big(head, body)
        return future

    def _send_on_substream(
        self, method: str, body: bytes, codec: int, deadline: float, now: float, metadata: bytes, level: int, flags: int
    ) -> asyncio.Future[Any]:
        name = check_method(method)
        remaining = timeout_ms(deadline - now)
        if deadline <= now:
            raise DeadlineExceeded(f"{method}: no time was left to send it", not_processed=True)
        if deadline != _FOREVER:
            self._timer.need(deadline)
        number = self.take_number(method)
        future: asyncio.Future[Any] = self._create_future()
        call = OutgoingCall(self._session, number, method, level)
        self._pending[number] = (future, deadline, call, method)
        call.start(name, remaining, codec, metadata, body, flags)
        return future

    def _named_head(
        self, number: int, remaining: int, method: str, codec: int, level: int, metadata: bytes, size: int, flags: int
    ) -> bytes:
        method_id = self._interned.get(method)
        if method_id is not None:
            length = 12 + len(metadata) + size
            aux = len(metadata)
            head = CALL_HEAD.pack(CALL, flags, aux, length, number, remaining, method_id, codec, level)
            return head + metadata
        name = check_method(method)
        method_id = FULL_NAME
        if self._next_id < MAX_INTERNED:
            method_id = self._interned[method] = self._next_id
            self._next_id += 1
        return encode_call_head(number, remaining, name, method_id, codec, level, metadata, size, flags)

    def take_number(self, method: str) -> int:
        """The next free call number; Disconnected when the peer takes no more calls."""
        if self._refusal is not None:
            raise self._refusal(method)
        number = self._next
        while number in self._pending or self._session.has_stream(number):
            number = (number + 2) & 0xFFFF_FFFF
        self._next = (number + 2) & 0xFFFF_FFFF
        return number

    def on_response(self, number: int, flags: int, codec: int, payload: Buffer) -> None:
        """The final frame of call ``number``."""
        entry = self._pending.get(number)
        if entry is None:
            raise RemoteProtocolError(f"a response to call {number}, which is not open")
        future = entry[0]
        if not future.done():  # else it was given up, and its slot is free now
            if flags & ERROR:
                if flags & COMPRESSED:
                    raise RemoteProtocolError(f"the error of call {number} is compressed")
                future.set_exception(self.read_error(entry[3], codec, payload))
            else:
                if flags & COMPRESSED:
                    codec |= PACKED
                decoders = self._decoders
                decode = decoders[codec] if codec < len(decoders) else self._codecs.decoder(codec)
                try:
                    if decode is None:
                        raise DecodeError(f"its codec {codec & ~PACKED} is not installed here")
                    value = decode(payload)
                except DecodeError as error:
                    damaged = status_of(error) is StatusCode.INVALID_ARGUMENT
                    status = StatusCode.INTERNAL if damaged else StatusCode.RESOURCE_EXHAUSTED
                    problem = CallError(status, f"{entry[3]}: the answer cannot be decoded: {error}")
                    problem.__cause__ = error
                    future.set_exception(problem)
                else:
                    future.set_result(value)
        # Only now: what raised above ends the session, which then fails this call with all others that are pending.
        del self._pending[number]
        if self.slots.waiters:
            self.slots.release()
        else:
            self.slots.used -= 1

    def read_error(self, method: str, codec: int, payload: Buffer) -> RpcError:
        """The error that an ERROR response carries."""
        code, message, details, not_processed, retryable, after = decode_error(payload, self._session.pipeline.limits)
        decode = self._codecs.decoder(codec)
        values: list[tuple[str, object]] = []
        for name, data in details:
            try:
                values.append((name, data if decode is None else decode(data)))
            except DecodeError:
                values.append((name, data))
        if code is StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{method}: {message}", details=values, not_processed=not_processed)
        return RemoteError(
            code, message, details=values, retryable=retryable, not_processed=not_processed, retry_after=after
        )

    # -- giving up

    def _abandon(self, future: asyncio.Future[Any]) -> None:
        for number, entry in self._pending.items():
            if entry[0] is future:
                self._give_up(number, entry)
                return

    def _give_up(self, number: int, entry: _Pending) -> None:
        if entry[2] is None:
            self._link.send(encode_cancel(number))
        else:
            entry[2].cancel()

    def expire(self, now: float) -> float | None:
        """Fail the calls whose deadline has passed; the next deadline, or None."""
        following = _FOREVER
        for number, entry in list(self._pending.items()):
            future, deadline, _, method = entry
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(DeadlineExceeded(f"{method}: no answer in time"))
                self._give_up(number, entry)
            elif deadline < following:
                following = deadline
        return None if following == _FOREVER else following

    def on_refused(self, number: int, error: RpcError) -> None:
        """Call ``number`` on a substream of its own ended without a RESPONSE."""
        entry = self._pending.pop(number, None)
        if entry is None:
            return
        self.slots.release()
        if not entry[0].done():
            entry[0].set_exception(error)

    def on_goaway(self, number: int) -> None:
        """The peer processes no call numbered ``number`` or above; their final frames still come and free their
        slots.
        """
        self.refuse()
        for pending, entry in list(self._pending.items()):
            if not_before(pending, number) and not entry[0].done():
                text = f"{entry[3]}: the peer is shutting down and did not process it"
                entry[0].set_exception(Disconnected(text, not_processed=True))
                if entry[2] is not None:
                    entry[2].cancel()

    @property
    def pending(self) -> int:
        """Calls whose final frame has not come, given up ones included."""
        return len(self._pending)

    def settle(self, inline_max: int, peer_max_message: int, max_calls: int) -> None:
        """The peer's SETUP is here: what it takes in-line, at all, and at once."""
        self.inline_max = inline_max
        self.peer_max_message = peer_max_message
        self._compress_from = self._codecs.compress_from
        self.slots.resize(max_calls)

    def close(self, error: Disconnected) -> None:
        """The session has ended: every pending call fails."""
        self._refusal = self._ended
        pending, self._pending = self._pending, {}
        for future, _, _, method in pending.values():
            if not future.done():
                problem = Disconnected(f"{method}: {error.message}", close_code=error.close_code)
                problem.__cause__ = error.__cause__
                future.set_exception(problem)
        self.slots.fail(self._ended(""))

    def refuse(self) -> None:
        """The peer is going away: no new calls."""
        self._refusal = self._going_away
        self.slots.fail(self._going_away("waiting for a slot"))

    def _going_away(self, method: str) -> Disconnected:
        return Disconnected(f"{method}: the peer is shutting down and takes no new calls", not_processed=True)

    def _ended(self, method: str) -> Disconnected:
        return self._session.closed_error(not_processed=True)

    async def _through_chain(
        self, method: str, payload: object, deadline: float, pairs: list[tuple[str, str | bytes]], level: int
    ) -> Any:
        taken = 0  # tries that the peer may have processed

        async def innermost(call: Call) -> Reply:
            nonlocal taken
            checked = check_metadata(call.metadata)  # again: middleware may have changed it
            encoded = encode_metadata(checked, self._session.pipeline.limits) if checked else b""
            sealed = carries_credentials(checked)
            taken += 1
            try:
                return Reply(await self._perform(call.method, call.payload, deadline, encoded, level, sealed))
            except RpcError as error:
                taken -= error.not_processed
                raise

        if not self._chained:
            return (await innermost(Call(method=method, payload=payload, side="client", metadata=pairs))).value

        chain: Handler = compile_chain(self._session.pipeline.client_middleware, innermost)
        left = None if deadline == _FOREVER else deadline - self._loop.time()
        first = Call(method=method, payload=payload, side="client", metadata=pairs, timeout=left)
        try:
            return (await chain(first)).value
        except Disconnected as error:
            if not taken or not error.not_processed:
                raise
            # Of something that a middleware has done behind it: that says nothing of this call, which was processed.
            raise Disconnected(f"{method}: {error.message}", close_code=error.close_code) from error
