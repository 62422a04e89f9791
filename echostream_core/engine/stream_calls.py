"""Opening streams, accepting them, and running their handlers.

A stream's substream begins with a CALL frame of the opener (name, metadata, opening payload); DATA goes both ways; the
acceptor's last frame is RESPONSE, the stream's final status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from echostream_core.compression import carries_credentials
from echostream_core.engine.binding import convert
from echostream_core.engine.codecs import status_of
from echostream_core.engine.context import CURRENT, Context, inherited
from echostream_core.engine.early import start_substream
from echostream_core.engine.handlers import Route, check_method, closest_method
from echostream_core.engine.incoming import answer_error
from echostream_core.engine.outgoing import Action, MetadataLike, timeout_ms
from echostream_core.engine.streams import Stream
from echostream_core.errors import (
    CloseCode,
    DeadlineExceeded,
    DecodeError,
    Disconnected,
    EndOfStream,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    StatusCode,
    StreamReset,
)
from echostream_core.middleware import Call, Reply, compile_chain
from echostream_core.transport import Substream
from echostream_core.types import Priority, not_before, priority_of
from echostream_core.wire.frames import COMPRESSED, ERROR, FULL_NAME, PACKED, SubstreamKind, encode_substream_head
from echostream_core.wire.message import encode_call_head, encode_response_head, parse_call, parse_response
from echostream_core.wire.metadata import check_metadata, decode_metadata, encode_error, encode_metadata
from echostream_core.wire.states import LEGAL, By

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["IncomingStream", "ItemStream", "StreamOpening"]

_FOREVER = float("inf")
_STATUS_PATIENCE_S: Final = 2.0
"""How long a sender that was stopped waits for the final status that says why."""
Sessions = Callable[[Action, float | None], Awaitable[Any]]
"""Does something in the session that there is at that time, and in the next one if it came too late for that: a client
may be without one for a while. The second argument is the stream's timeout, which covers the waiting."""
_logger = logging.getLogger("echostream.handler")


class StreamOpening:
    """What ``open_stream`` returns: await it for the Stream, or use it in ``async with``.

    Leaving the block in order ends our direction, so what was sent arrives; leaving it by an exception resets the
    stream.
    """

    def __init__(
        self,
        session: Session | Sessions,
        method: str,
        payload: object,
        timeout: float | None,
        metadata: MetadataLike | None,
        priority: Priority | None,
    ) -> None:
        self._arguments = (session, method, payload, timeout, metadata, priority)
        self._stream: Stream | None = None

    def __await__(self) -> Generator[Any, None, Stream]:
        """Open the stream; does not wait for the peer, but for a free slot."""
        return self._open().__await__()

    async def __aenter__(self) -> Stream:
        """Open the stream."""
        self._stream = await self._open()
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End our direction, or reset the stream if the block failed."""
        assert self._stream is not None
        if error is not None:
            self._stream.reset(CloseCode.CANCELLED)
        else:
            self._stream.leave()

    async def _open(self) -> Stream:
        return await open_stream(*self._arguments)


def _opening(method: str, payload: object, metadata: MetadataLike | None, priority: Priority | None) -> Action:
    """``open_stream`` as something to do with a session; not within it, as with ``asking``."""
    return lambda session, left: open_stream(session, method, payload, left, metadata, priority)


async def open_stream(
    session: Session | Sessions,
    method: str,
    payload: object,
    timeout: float | None,
    metadata: MetadataLike | None,
    priority: Priority | None,
) -> Stream:
    """Open a stream to the peer's ``method``."""
    if callable(session):
        stream: Stream = await session(_opening(method, payload, metadata, priority), timeout)
        return stream
    outgoing = session.outgoing
    deadline = _FOREVER if timeout is None else session.loop.time() + timeout
    bound, level = inherited(CURRENT.get())
    if bound is not None and bound < deadline:
        deadline = bound
    if priority is not None:
        level = min(max(priority, Priority.URGENT), Priority.BULK)
    name = check_method(method)
    checked = check_metadata(metadata) if metadata else []
    pairs = encode_metadata(checked, session.pipeline.limits) if checked else b""
    codec = session.codecs.out_id
    body = session.codecs.encode_with(codec, payload)
    await outgoing.check_size(method, len(body), deadline)
    await outgoing.slots.wait(deadline)
    try:
        sealed = carries_credentials(checked)
        return _open(session, method, name, codec, body, pairs, level, deadline, sealed)
    except BaseException:
        outgoing.slots.release()
        raise


def _open(
    session: Session,
    method: str,
    name: bytes,
    codec: int,
    body: bytes,
    pairs: bytes,
    level: int,
    deadline: float,
    sealed: bool,
) -> Stream:
    outgoing = session.outgoing
    number = outgoing.take_number(method)
    remaining = 0
    if deadline != _FOREVER:
        left = deadline - session.loop.time()
        if left <= 0:
            raise DeadlineExceeded(f"{method}: no time was left to open the stream", not_processed=True)
        remaining = timeout_ms(left)
    substream = session.connection.open_substream(Priority(max(level, Priority.URGENT)))

    def on_closed() -> None:
        session.forget_stream(number)
        outgoing.slots.release()

    def on_other(kind: int, flags: int, aux: int, body: bytes) -> None:
        answered, codec, content = parse_response(body)
        if answered != number:
            raise RemoteProtocolError(f"the final status on stream {number} names {answered}")
        if flags & COMPRESSED:
            raise RemoteProtocolError(f"the final status of stream {number} is compressed")
        error: RpcError | None = outgoing.read_error(method, codec, content) if flags & ERROR else None
        if (
            error is not None
            and error.not_processed
            and error.code is StatusCode.UNAVAILABLE
            and session.departure.announced
        ):  # it has overtaken the GOAWAY that says so, which travels on another substream
            error = Disconnected(f"{method}: {error.message}", not_processed=True)
        stream.finish(error)
        stream.closed()

    legal = LEGAL[(SubstreamKind.STREAM, By.ACCEPTOR)]
    stream = _OpenedStream(session, substream, number, legal=legal, on_other=on_other, on_closed=on_closed)
    stream.method = method
    session.keep_stream(number, stream, deadline)
    head = encode_substream_head(SubstreamKind.STREAM, level, number)
    flags = 0
    if sealed:
        stream.seal()
    elif len(body) >= session.codecs.compress_from:
        flags, body = session.codecs.pack(body)
    call = encode_call_head(number, remaining, name, FULL_NAME, codec, level, pairs, len(body), flags)
    start_substream(session, substream, stream)
    substream.write((head + call, body))
    return stream


class _OpenedStream(Stream):
    """The opener's end: it is over with the final status, or when the peer's direction ends without one."""

    __slots__ = ()

    async def _reason(self, stopped: StreamReset) -> Exception:
        """The handler's error where it has one. A stop overtakes the final status, so that is waited for, unless it may
        stand behind items that nobody reads.
        """
        if not self._inbox:
            try:
                async with asyncio.timeout(_STATUS_PATIENCE_S):
                    while self._error is None and not self._finished:
                        await self._gate.wait()
            except TimeoutError:
                pass  # a peer that has only stopped to read
        return self._error if isinstance(self._error, RpcError) else stopped

    def finish(self, error: Exception | None) -> None:
        super().finish(error)
        self._gate.open_all()

    def on_end(self) -> None:
        if not self._finished:
            self._fail(StreamReset(f"{self.method}: the peer ended the stream without a final status"))
        self._close()

    def on_reset(self, code: int) -> None:
        if code == CloseCode.REFUSED:
            text = f"{self.method}: the peer refused another substream"
            self._fail(RemoteError(StatusCode.RESOURCE_EXHAUSTED, text, retryable=True, not_processed=True))
        else:
            super().on_reset(code)
        self._close()


class ItemStream(AsyncIterator[Any]):
    """What ``stream()`` returns: the items of a server stream. Leaving the loop early resets it at once."""

    def __init__(
        self,
        session: Session | Sessions,
        method: str,
        payload: object,
        timeout: float | None,
        metadata: MetadataLike | None,
        returns: Any,
        priority: Priority | None,
    ) -> None:
        self._arguments = (session, method, payload, timeout, metadata, priority)
        self._returns = returns
        self._stream: Stream | None = None
        self._over = False

    def __aiter__(self) -> ItemStream:
        """The iterator is its own."""
        return self

    async def __anext__(self) -> Any:
        """The next item; opens the stream at the first one."""
        if self._over:
            raise StopAsyncIteration
        try:
            item = await (self._first() if self._stream is None else self._stream.recv())
        except EndOfStream:
            self._over = True
            raise StopAsyncIteration from None
        except BaseException:
            await self.aclose()
            raise
        return item if self._returns is None else convert(item, self._returns)

    def _first(self) -> Awaitable[Any]:
        """The first item: before it comes, a server that goes away may refuse the stream as not processed."""
        session, timeout = self._arguments[0], self._arguments[3]
        return session(self._open_in, timeout) if callable(session) else self._open_in(session, timeout)

    async def _open_in(self, session: Session, left: float | None) -> Any:
        _, method, payload, _, metadata, priority = self._arguments
        stream = await open_stream(session, method, payload, left, metadata, priority)
        if self._over:  # given up meanwhile, by another task
            stream.reset(CloseCode.CANCELLED)
            raise EndOfStream(f"{method}: the stream was given up")
        self._stream = stream
        await self._stream.end()
        return await self._stream.recv()

    async def aclose(self) -> None:
        """Give the stream up. Idempotent."""
        self._abandon()

    async def __aenter__(self) -> ItemStream:
        """Use in ``async with`` to be sure that it is closed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the stream up."""
        self._abandon()

    def __del__(self) -> None:
        """A loop that was left early dropped us: tell the peer."""
        if not self._over and self._stream is not None:
            loop = self._stream.session.loop
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._stream.reset)

    def _abandon(self) -> None:
        if not self._over:
            self._over = True
            if self._stream is not None:
                self._stream.reset(CloseCode.CANCELLED)


class IncomingStream:
    """A stream that the peer opened: reads its opening frame and runs the handler."""

    __slots__ = ("_context", "_ended", "_final_sent", "_session", "_slot_free", "_task", "number", "stream")

    def __init__(self, session: Session, substream: Substream, number: int) -> None:
        self._session = session
        self.number = number
        self._task: asyncio.Task[None] | None = None
        self._context: Context | None = None
        self._ended = False
        self._final_sent = False
        self._slot_free = False
        legal = LEGAL[(SubstreamKind.STREAM, By.OPENER)]
        self.stream = _HandledStream(
            session, substream, number, legal=legal, on_other=self._on_call, on_closed=self._on_closed
        )
        self.stream.owner = self
        session.keep_stream(number, self.stream, _FOREVER)
        session.incoming.saw(number)

    def _on_call(self, _kind: int, flags: int, aux: int, body: bytes) -> None:
        if self._context is not None:
            raise RemoteProtocolError(f"a second CALL on stream {self.number}")
        session = self._session
        number, timeout, method, codec, level, metadata, payload = parse_call(flags, aux, body)
        if number != self.number:
            raise RemoteProtocolError(f"the substream of stream {self.number} carries call {number}")
        self.stream.method = method
        deadline = session.loop.time() + timeout / 1000 if timeout else None
        pairs = refusal = None
        admitted = session.incoming.admit()
        if metadata is not None:
            try:
                pairs = decode_metadata(metadata, session.pipeline.limits)
            except RpcError as error:
                refusal = error
        level = priority_of(level)
        self.stream.set_priority(level)
        context = self._context = Context(session, number, method, deadline, level, pairs)
        self.stream.metadata = context.metadata
        if carries_credentials(pairs):
            self.stream.seal()
        if deadline is not None:
            session.keep_stream(number, self.stream, deadline)
        route = session.pipeline.routes.get(method)
        refusal = refusal or self._refusal(method, route, admitted=admitted)
        decode = session.codecs.decoder(codec)
        if refusal is None and decode is None:
            text = f"codec {codec & ~PACKED} is not installed here"
            refusal = RpcError(StatusCode.UNIMPLEMENTED, text, not_processed=True)
        if refusal is not None:
            self._end(refusal)
            self._release_slot()
            return
        assert route is not None and decode is not None
        try:
            value = decode(payload)
        except DecodeError as error:
            text = f"the opening payload cannot be decoded: {error}"
            self._end(RpcError(status_of(error), text, not_processed=True))
            self._release_slot()
            return
        self._task = session.run_handler(self._run(route, context, value))
        self._task.add_done_callback(self._release_slot)

    def _refusal(self, method: str, route: Route | None, *, admitted: bool) -> RpcError | None:
        session = self._session
        if not admitted:
            text = f"max_concurrent_calls is {session.pipeline.limits.max_concurrent_calls}"
            return RpcError(StatusCode.RESOURCE_EXHAUSTED, text, retryable=True, not_processed=True)
        if session.incoming.goaway is not None and not_before(self.number, session.incoming.goaway):
            return RpcError(StatusCode.UNAVAILABLE, "the peer is shutting down", retryable=True, not_processed=True)
        if route is None:
            hint = closest_method(method, session.pipeline.routes)
            return RpcError(StatusCode.UNIMPLEMENTED, f"no method {method[:255]!r}{hint}", not_processed=True)
        if route.kind == "call":
            return RpcError(StatusCode.UNIMPLEMENTED, f"{method!r} is a call: use request()", not_processed=True)
        return None

    async def _run(self, route: Route, context: Context, value: object) -> None:
        CURRENT.set(context)
        error: RpcError | None = None
        try:
            if self._session.pipeline.server_middleware:
                await self._handle_in_chain(route, context, value)
            else:
                await self._handle(route, context, value)
        except asyncio.CancelledError:
            late = context.deadline is not None and self._session.loop.time() >= context.deadline
            self._end(
                DeadlineExceeded("the stream's handler did not finish in time")
                if late
                else RpcError(StatusCode.CANCELLED, "the stream was cancelled")
            )
            raise
        except StreamReset as reset:
            error = RpcError(StatusCode.CANCELLED, str(reset))
        except Exception as failure:
            error = answer_error(context, failure)
        self._end(error)

    async def _handle(self, route: Route, context: Context, value: object) -> None:
        arguments = route.bind(value, context, self.stream)
        if route.kind == "generator":
            await self._generate(route.function(*arguments))
        else:
            result = await route.function(*arguments)
            if result is not None:
                await self.stream.send(result)

    async def _handle_in_chain(self, route: Route, context: Context, value: object) -> None:
        """Middleware sees the opening of a stream as it sees a call; its ``next`` returns when the stream is over."""

        async def innermost(call: Call) -> Reply:
            await self._handle(route, context, call.payload)
            return Reply(None)

        await compile_chain(self._session.pipeline.server_middleware, innermost)(
            Call(
                method=context.method,
                payload=value,
                side="server",
                metadata=context.metadata_pairs,
                timeout=context.remaining(),
                context=context,
                state=context.state,
            )
        )

    async def _generate(self, items: AsyncGenerator[Any, None]) -> None:
        try:
            async for item in items:
                await self.stream.send(item)
        finally:
            await items.aclose()

    def _end(self, error: RpcError | None) -> None:
        """The handler is done: the final status if it has not gone yet, and nothing more is read."""
        if self._ended:
            return
        self._ended = True
        if self._context is not None:
            self._context._ended = True
        try:
            self.send_final(error)
        except Exception as problem:  # an RpcError with nonsense inside
            assert self._context is not None
            self.send_final(answer_error(self._context, problem))
        if not self.stream._finished:
            self.stream._substream.stop(CloseCode.OK if error is None else CloseCode.CANCELLED)
        self.stream._release()
        self.stream.closed()

    def send_final(self, error: RpcError | None) -> None:
        """The final status: once. What fails after the handler has called ``end()`` is only logged."""
        if self._final_sent:
            if error is not None:
                _logger.error("%s: failed after it had ended the stream: %s", self.stream.method, error)
            return
        flags, body = 0, b""
        codec = self._session.codecs.out_id
        if error is not None:
            details = [(name, self._session.codecs.encode_with(codec, value)) for name, value in error.details]
            flags, body = ERROR, encode_error(error, details, self._session.pipeline.limits)
        self._final_sent = True
        self.stream.write_final(encode_response_head(self.number, flags, codec, len(body)) + body)

    def _on_closed(self) -> None:
        self._session.forget_stream(self.number)
        if not self._ended:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            assert self._context is not None
            self._session.incoming.cancel_stream(self._context, self._task, self._give_up)

    def _give_up(self) -> None:
        """The handler does not stop: it is reported, its stream is over all the same."""
        self._end(RpcError(StatusCode.CANCELLED, "the stream was cancelled"))
        self._release_slot()

    def _release_slot(self, _task: asyncio.Task[None] | None = None) -> None:
        self._end(RpcError(StatusCode.CANCELLED, "cancelled before it began"))  # else it has ended already
        if not self._slot_free:
            self._slot_free = True
            self._session.incoming.stream_ended(self.number)

    def given_up(self, *, by_reset: bool) -> None:
        """The opener reset its direction, or stopped reading ours: a generator has nobody left to yield to."""
        route = self._session.pipeline.routes.get(self.stream.method)
        if by_reset:
            self._session.count_reset()
        if self._task is None:
            self._ended = True
            self.stream._substream.reset(CloseCode.CANCELLED)
            self.stream.closed()
        elif by_reset or (route is not None and route.kind == "generator"):
            self._cancel()


class _HandledStream(Stream):
    """The acceptor's end: resets and stops of the opener reach the handler."""

    __slots__ = ("owner",)
    owner: IncomingStream

    def _finish_writing(self) -> None:
        self.owner.send_final(None)

    def expire(self, number: int) -> None:
        self.owner.given_up(by_reset=True)
        self.session.keep_stream(number, self, _FOREVER)

    def on_reset(self, code: int) -> None:
        super().on_reset(code)
        self.owner.given_up(by_reset=True)

    def on_stop(self, code: int) -> None:
        super().on_stop(code)
        self.owner.given_up(by_reset=False)
