"""Calls of the peer: slots, handlers in tasks of their own, exactly one final frame each.

The path of an in-line call is written plainly: ``on_call`` decodes and starts the handler, the handler's task encodes
and queues the answer. A slot is held until its final frame has left our queues, so a peer that does not read its
answers cannot make us hold more than ``max_concurrent_calls`` of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections import deque
from collections.abc import Callable
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Any, Final

from echostream_core.compression import carries_credentials
from echostream_core.engine.codecs import status_of
from echostream_core.engine.context import CURRENT, Context, Responder
from echostream_core.engine.handlers import Route, closest_method
from echostream_core.engine.link import BIG_BODY_BYTES, ControlLink
from echostream_core.errors import (
    CallError,
    CloseCode,
    DeadlineExceeded,
    DecodeError,
    Disconnected,
    EncodeError,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    StatusCode,
)
from echostream_core.middleware import Call, Handler, Reply, compile_chain
from echostream_core.types import Buffer, Priority, not_before
from echostream_core.wire.frames import ERROR, PACKED, RESPONSE, RESPONSE_HEAD
from echostream_core.wire.metadata import decode_metadata, encode_error

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["Incoming", "answer_error", "unknown_codec"]

MAX_STARTS_PER_TURN: Final = 256
"""Handlers started in one loop turn: reading and timers get their turn between them."""

_EAGER: Final = sys.version_info >= (3, 12)
_EagerTask: Any = asyncio.Task  # eager_start is unknown to the type stubs of 3.11
_FOREVER: Final = float("inf")
_logger = logging.getLogger("echostream.handler")


class Incoming:
    """The callee's side of one session."""

    __slots__ = (
        "_active",
        "_answered",
        "_answers",
        "_backlog",
        "_chained",
        "_codecs",
        "_decoders",
        "_encoders",
        "_compress_from",
        "_inline_max",
        "_joined",
        "_link",
        "_loop",
        "_max_calls",
        "_max_message",
        "_open",
        "_parity",
        "_routes",
        "_session",
        "_small",
        "_started_now",
        "_stopping",
        "_time",
        "_timer",
        "_variables",
        "draining",
        "assembling",
        "goaway",
        "highest",
        "peer_max_message",
    )

    def __init__(self, session: Session, link: ControlLink, *, parity: int) -> None:
        """``parity``: of the peer's call numbers."""
        pipeline = session.pipeline
        self._session = session
        self._loop = session.loop
        self._time = session.loop.time
        self._timer = session.timer
        self._link = link
        self._codecs = session.codecs
        self._answers = session.codecs.answers
        self._decoders = session.codecs.decoders
        self._encoders = session.codecs.encoders
        self._routes = pipeline.routes
        self._chained = bool(pipeline.server_middleware)
        self._max_calls = pipeline.limits.max_concurrent_calls
        self._max_message = pipeline.limits.max_message_bytes
        self._parity = parity
        self._active: dict[int, Context] = {}
        self._stopping: dict[int, tuple[Context, Callable[[], None]]] = {}
        self._open = 0
        self._answered = 0
        self._started_now = 0
        self._backlog: deque[tuple[Route, Context, object]] | None = None
        self._variables = contextvars.copy_context()
        self.draining = False
        """The session waits for the last running call."""
        self.goaway: int | None = None
        """Calls numbered from here on are refused; None: none are."""
        self.highest = -1
        """The highest number that the peer has used."""
        self._inline_max = 0
        self._joined = 0
        self._small = 0
        self._compress_from = session.codecs.compress_from
        self.peer_max_message = pipeline.limits.max_message_bytes
        self.assembling = 0
        """Calls whose message is still coming in on a substream."""

    @property
    def running(self) -> int:
        """Calls whose handlers have not finished."""
        return len(self._active)

    def variables(self) -> contextvars.Context:
        """A copy of the session's context for one handler."""
        return self._variables.copy()

    def settle(self, inline_max: int, peer_max_message: int) -> None:
        """The peer's SETUP is here: what it takes in-line, and at all."""
        self._inline_max = inline_max
        self._joined = min(inline_max, BIG_BODY_BYTES - 1)
        self._compress_from = self._codecs.compress_from
        # What is not small is looked at more closely: so compression costs the small answers nothing.
        self._small = min(self._joined, peer_max_message, self._compress_from - 1)
        self.peer_max_message = peer_max_message

    def saw(self, number: int) -> None:
        """A substream of call or stream ``number`` has begun."""
        if self.highest < 0 or not_before(number, self.highest):
            self.highest = number

    def stream_ended(self, number: int) -> None:
        """The handler of stream ``number`` has ended, or is given up: its slot is free."""
        self._open -= 1
        self._stopping.pop(number, None)

    def admit(self) -> bool:
        """A stream of the peer takes a slot, until ``released`` when its handler has ended; False: it has to be
        refused.

        An honest opener's slot can be free a little before ours, so too many streams do not end the session.
        """
        self._open += 1
        return self._open <= self._max_calls

    def replace_routes(self) -> None:
        """The session's pipeline has new handlers (a client that adds some while it is connected)."""
        self._routes = self._session.pipeline.routes

    # -- the path of a call, in its order

    def on_call(
        self,
        number: int,
        method: str,
        codec: int,
        timeout_ms: int,
        priority: int,
        metadata: Buffer | None,
        payload: Buffer,
        responder: Responder | None = None,
    ) -> None:
        """A call is complete; ``responder`` None: it came in-line and is answered in-line."""
        active = self._active
        if number in active or number & 1 != self._parity:
            if self._parity > 1:
                return  # the session was closed by what came before in the same data
            raise RemoteProtocolError(f"call number {number} is in use or has the wrong parity")
        ahead = number - self.highest
        if 0 < ahead < 0x8000_0000 or ahead < -0x8000_0000:  # numbers start again at 0
            self.highest = number
        if responder is not None:
            self.assembling -= 1
        self._open += 1
        deadline = None
        if timeout_ms:
            deadline = self._time() + timeout_ms / 1000
            if deadline < self._timer.at:
                self._timer.need(deadline)
        answers = self._answers
        pairs = refusal = None
        if metadata is not None:
            try:
                pairs = decode_metadata(metadata, self._session.pipeline.limits)
            except RpcError as error:
                refusal = error
        context = Context(
            self._session,
            number,
            method,
            deadline,
            priority if 0 < priority < 4 else Priority.NORMAL,
            pairs,
            answers[codec] if codec < len(answers) else self._codecs.answer_id(codec),
            responder,
        )
        active[number] = context
        route = self._routes.get(method)
        if route is None or route.kind != "call" or self._open > self._max_calls or self.goaway is not None or refusal:
            refusal = refusal or self._refusal(number, method, route)
            if refusal is not None:
                self._finish_with(context, refusal)
                return
            assert route is not None
        if len(payload) > self._max_message:
            text = f"{len(payload)} bytes, max_message_bytes is {self._max_message}"
            self._finish_with(context, RpcError(StatusCode.RESOURCE_EXHAUSTED, text, not_processed=True))
            return
        decoders = self._decoders
        decode = decoders[codec] if codec < len(decoders) else self._codecs.decoder(codec)
        if decode is None:
            self._finish_with(context, unknown_codec(codec & ~PACKED))
            return
        try:
            value = decode(payload)
        except DecodeError as error:
            text = f"the payload cannot be decoded: {error}"
            self._finish_with(context, RpcError(status_of(error), text, not_processed=True))
            return
        if self._started_now >= MAX_STARTS_PER_TURN:
            if self._backlog is None:
                self._backlog = deque()
            self._backlog.append((route, context, value))
            self._link.schedule()
        else:
            self._start(route, context, value)

    def _start(self, route: Route, context: Context, value: object) -> None:
        self._started_now += 1
        variables = self._variables.copy()
        if route.in_place and not self._chained:
            variables.run(self._run_in_place, route, context, value)
        elif _EAGER:
            task = _EagerTask(self._run(route, context, value), loop=self._loop, context=variables, eager_start=True)
            if not task.done():
                context._task = task
        else:
            # Its first step is taken in this loop turn, and the flush that on_control_data scheduled comes after it.
            context._task = asyncio.Task(self._run(route, context, value), loop=self._loop, context=variables)

    def _run_in_place(self, route: Route, context: Context, value: object) -> None:
        CURRENT.set(context)
        try:
            result: Any = route.function(*route.bind(value, context, None))
            if isawaitable(result):
                if iscoroutine(result):
                    result.close()
                raise TypeError(f"{route.name} is a plain def but returned an awaitable: make it an async def")
        except asyncio.CancelledError:
            self._finish_with(context, RpcError(StatusCode.CANCELLED, "the handler was cancelled"))
        except Exception as error:
            self._fail(context, error)
        except BaseException:
            self._finish_with(context, RpcError(StatusCode.INTERNAL, "the server is being stopped"))
            raise
        else:
            self._finish(context, result)

    async def _run(self, route: Route, context: Context, value: object) -> None:
        context._begun = True
        CURRENT.set(context)
        try:
            if self._chained:
                result = await self._run_chain(route, context, value)
            else:
                result = await (
                    route.function(value) if route.direct else route.function(*route.bind(value, context, None))
                )
        except asyncio.CancelledError:
            self._finish_with(context, self._cancelled(context))
            raise
        except Exception as error:
            self._fail(context, error)
        except BaseException:
            self._finish_with(context, RpcError(StatusCode.INTERNAL, "the server is being stopped"))
            raise
        else:
            self._finish(context, result)

    async def _run_chain(self, route: Route, context: Context, value: object) -> object:
        async def innermost(call: Call) -> Reply:
            result: Any = route.function(*route.bind(call.payload, context, None))
            return Reply(result if route.in_place else await result)

        chain: Handler = compile_chain(self._session.pipeline.server_middleware, innermost)
        call = Call(
            method=context.method,
            payload=value,
            side="server",
            metadata=context.metadata_pairs,
            timeout=context.remaining(),
            context=context,
            state=context.state,
        )
        return (await chain(call)).value

    def _finish(self, context: Context, result: object) -> None:
        if context._ended:
            return
        codec = context._codec
        try:
            body = self._encoders[codec](result)
        except EncodeError:
            try:
                body = self._codecs.encode_rich(codec, result)
            except CallError as error:
                _logger.error("%s: the answer cannot be sent: %s", context.method, error)
                self._finish_with(context, RpcError(StatusCode.INTERNAL, f"the answer {error.message}"))
                return
        except Exception as error:  # a codec that breaks its contract
            self._finish_with(context, answer_error(context, error))
            return
        size = len(body)
        if size <= self._small and context._responder is None:
            # The common case, all of it here.
            number = context.number
            context._ended = True
            del self._active[number]
            self._answered += 1
            self._link.send(RESPONSE_HEAD.pack(RESPONSE, 0, 0, 8 + size, number, codec) + body)
            if self.draining and not self._active:
                self._session.departure.on_idle()
        elif size > self.peer_max_message:
            text = f"the answer has {size} bytes, the caller's max_message_bytes is {self.peer_max_message}"
            _logger.error("%s: %s", context.method, text)
            self._finish_with(context, RpcError(StatusCode.RESOURCE_EXHAUSTED, text))
        else:
            flags = 0
            if size >= self._compress_from and not carries_credentials(context._metadata):
                flags, body = self._codecs.pack(body)
            self._respond(context, flags, body)

    def _fail(self, context: Context, error: Exception) -> None:
        try:
            self._finish_with(context, answer_error(context, error))
        except Exception as problem:  # an RpcError with nonsense inside
            self._finish_with(context, answer_error(context, problem))

    def _finish_with(self, context: Context, error: RpcError) -> None:
        if context._ended:
            return
        details = []
        for name, value in error.details:
            try:
                details.append((name, self._codecs.encode_with(context._codec, value)))
            except RpcError as problem:
                _logger.error("%s: error detail %r left out: %s", context.method, name, problem)
        self._respond(context, ERROR, encode_error(error, details, self._session.pipeline.limits))

    def _respond(self, context: Context, flags: int, body: bytes) -> None:
        number = context.number
        codec = context._codec
        context._ended = True
        del self._active[number]
        size = len(body)
        gone = True
        if context._responder is not None:
            gone = context._responder.respond(context, flags, codec, body)
            self._link.schedule()
        elif size <= self._joined:
            self._link.send(RESPONSE_HEAD.pack(RESPONSE, flags, 0, 8 + size, number, codec) + body)
        elif size <= self._inline_max:
            self._link.send_big(RESPONSE_HEAD.pack(RESPONSE, flags, 0, 8 + size, number, codec), body)
            self._link.schedule()
        else:
            gone = self._session.respond_on_substream(number, context.priority, flags, codec, body)
            self._link.schedule()
        if gone:
            self._answered += 1
        if self.draining and not self._active:
            self._session.departure.on_idle()

    # -- what can go wrong

    def _refusal(self, number: int, method: str, route: Route | None) -> RpcError | None:
        if self.goaway is not None and not_before(number, self.goaway):
            return RpcError(StatusCode.UNAVAILABLE, "the peer is shutting down", retryable=True, not_processed=True)
        if self._open > self._max_calls:
            if self._open > 2 * self._max_calls:
                raise RemoteProtocolError(
                    f"more than {2 * self._max_calls} calls open, max_concurrent_calls is {self._max_calls}",
                    close_code=CloseCode.LIMIT,
                )
            text = f"max_concurrent_calls is {self._max_calls}"
            return RpcError(StatusCode.RESOURCE_EXHAUSTED, text, retryable=True, not_processed=True)
        if route is None:
            hint = closest_method(method, self._routes)
            return RpcError(StatusCode.UNIMPLEMENTED, f"no method {method[:255]!r}{hint}", not_processed=True)
        if route.kind != "call":
            text = f"{method!r} is a stream: use stream() or open_stream()"
            return RpcError(StatusCode.UNIMPLEMENTED, text, not_processed=True)
        return None

    def _cancelled(self, context: Context) -> RpcError:
        deadline = context.deadline
        if deadline is not None and self._loop.time() >= deadline:
            return DeadlineExceeded("the handler did not finish in time")
        return RpcError(StatusCode.CANCELLED, "the call was cancelled")

    def cancel(self, number: int) -> bool:
        """The peer gave up call ``number``: stop its handler. False when there is none (any more)."""
        context = self._active.get(number)
        if context is None:
            return False
        self._cancel(context)
        return True

    def _cancel(self, context: Context) -> None:
        task = context._task
        if task is None:
            self._finish_with(context, RpcError(StatusCode.CANCELLED, "cancelled before it began", not_processed=True))
        elif not context._begun:  # a task that is cancelled before its first step never runs our code
            task.cancel()
            self._finish_with(context, RpcError(StatusCode.CANCELLED, "cancelled before it began", not_processed=True))
        elif not context._cancelled:
            context._cancelled = True
            context._patience = self._time() + self._session.pipeline.limits.cancel_grace_s
            self._timer.need(context._patience)
            task.cancel()

    def cancel_stream(self, context: Context, task: asyncio.Task[None], give_up: Callable[[], None]) -> None:
        """Stop the handler of a stream; one that goes on is reported, as those of calls are, and ``give_up`` is
        called.
        """
        if not context._cancelled:
            context._cancelled = True
            context._task = task
            context._patience = self._time() + self._session.pipeline.limits.cancel_grace_s
            self._stopping[context.number] = (context, give_up)
            self._timer.need(context._patience)
            task.cancel()

    def _log_stuck(self, context: Context) -> None:
        _logger.error(
            "%s: the handler of call %d still runs %.1f s after it was cancelled; its answer is given up",
            context.method,
            context.number,
            self._session.pipeline.limits.cancel_grace_s,
        )

    def _report_stuck(self, context: Context) -> None:
        self._log_stuck(context)
        self._finish_with(context, self._cancelled(context))

    def expire(self, now: float) -> float | None:
        """Cancel handlers whose deadline has passed, report those that do not stop; the next deadline, or None."""
        following = _FOREVER
        for number, (context, give_up) in list(self._stopping.items()):
            if context._task is None or context._task.done():
                del self._stopping[number]
            elif context._patience <= now:
                self._log_stuck(context)
                give_up()
            else:
                following = min(following, context._patience)
        for context in list(self._active.values()):
            deadline = context._patience if context._cancelled else context.deadline
            if deadline is None:
                continue
            if deadline <= now:
                if context._cancelled:
                    self._report_stuck(context)
                else:
                    self._cancel(context)
                    following = min(following, context._patience)
            elif deadline < following:
                following = deadline
        return None if following == _FOREVER else following

    def released(self) -> None:
        """An answer on a substream that waited for credit has gone, or is not wanted any more: its slot is free."""
        self._open -= 1

    def on_flushed(self) -> None:
        """All answers so far have left our queues: their slots are free, and a new loop turn's starts may begin."""
        self._open -= self._answered
        self._answered = 0
        self._started_now = 0
        while self._backlog and self._started_now < MAX_STARTS_PER_TURN:
            route, context, value = self._backlog.popleft()
            if not context._ended:
                self._start(route, context, value)
        if self._backlog:
            self._link.schedule()
        else:
            self._backlog = None

    def close(self) -> list[asyncio.Task[None]]:
        """The session has ended: cancel all handlers; the tasks that still run."""
        tasks = []
        for context in self._active.values():
            context._ended = True
            if context._task is not None:
                tasks.append(context._task)
        self._active.clear()
        self._stopping.clear()
        self._parity = 2  # no number has it: nothing starts any more
        self.assembling = 0
        self._backlog = None
        for task in tasks:
            task.cancel()
        return tasks


def unknown_codec(codec: int) -> RpcError:
    """What a call in a codec that we lack is answered; the caller encodes it again by itself."""
    return RpcError(
        StatusCode.UNIMPLEMENTED,
        f"codec {codec} of your SETUP is not installed here",
        details=[("echostream.UnknownCodec", codec)],
        not_processed=True,
    )


def answer_error(context: Context, error: Exception) -> RpcError:
    """The status that a caller sees when a handler raised ``error``; what is not meant for it is logged here."""
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded(error.message or "a nested call did not finish in time")
    if isinstance(error, RpcError) and not isinstance(error, (RemoteError, Disconnected, CallError)):
        return error
    mark = f"{context.session.pipeline.randomness.getrandbits(32):08x}"
    _logger.error(
        "%s: call %d from %s failed [%s]",
        context.method,
        context.number,
        context.session.peer,
        mark,
        exc_info=error,
    )
    return RpcError(StatusCode.INTERNAL, f"internal error {mark}")
