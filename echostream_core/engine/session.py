"""The live peer on top of one connection: the same verbs on both sides.

The session joins a connection, the wire readers and the two sides of calling. It owns what belongs to the whole: SETUP,
keep-alive, GOAWAY and the end. Nothing here is on the path of a call but ``ControlSubstream.on_data``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from echostream_core.capabilities import Capabilities
from echostream_core.components import PeerInfo
from echostream_core.engine import forks
from echostream_core.engine.assembly import AssemblyBudget
from echostream_core.engine.codecs import SessionCodecs
from echostream_core.engine.datagrams import DatagramVerbs, SessionDatagrams
from echostream_core.engine.departure import Departure
from echostream_core.engine.early import Early
from echostream_core.engine.incoming import Incoming
from echostream_core.engine.link import ControlLink
from echostream_core.engine.liveness import Liveness
from echostream_core.engine.outgoing import DEFAULT_TIMEOUT, MetadataLike, Outgoing, _Default
from echostream_core.engine.pipeline import Pipeline
from echostream_core.engine.rates import Rate
from echostream_core.engine.session_events import SessionEvents, Subscribing, make_subscription
from echostream_core.engine.stream_calls import ItemStream, StreamOpening
from echostream_core.engine.streams import Stream
from echostream_core.engine.subscriptions import DEFAULT_MAX_QUEUE, Key, Overflow
from echostream_core.engine.substreams import Arriving, ControlSubstream, WriteOnly
from echostream_core.engine.timer import EarliestTimer
from echostream_core.errors import (
    CloseCode,
    ConnectionLost,
    DeadlineExceeded,
    Disconnected,
    EchoStreamError,
    EndOfStream,
    RemoteProtocolError,
    RpcError,
)
from echostream_core.transport import Connection, Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority, not_before
from echostream_core.wire.control import INLINE_ALWAYS_BYTES, ControlReader
from echostream_core.wire.events import POLICIES
from echostream_core.wire.frames import (
    SubstreamKind,
    encode_pong,
    encode_substream_head,
    grease_frame,
)
from echostream_core.wire.limits import INITIAL_MAX_CALLS
from echostream_core.wire.message import encode_response_head
from echostream_core.wire.setup import Setup, encode_setup
from echostream_core.wire.states import NEXT, Move, State

__all__ = ["Session"]

AGENT: Final = "echostream-python"
_MAX_HELD: Final = INITIAL_MAX_CALLS * (INLINE_ALWAYS_BYTES + 1024)
_logger = logging.getLogger("echostream.session")


class Session(DatagramVerbs):
    """The live peer: call it, open streams to it, close it."""

    # 1.5 KiB less per session than a __dict__.
    __slots__ = (
        "__weakref__",
        "_accepted",
        "_alarm",
        "_authenticating",
        "_closing_tasks",
        "_control",
        "_control_frames",
        "_error",
        "_link",
        "_liveness",
        "_native",
        "_on_closed",
        "_on_ready",
        "_peer_known",
        "_pong_due",
        "_reader",
        "_resets",
        "_streams",
        "_waiting",
        "budget",
        "closed",
        "codecs",
        "connection",
        "datagrams",
        "departure",
        "dialer",
        "incoming",
        "events",
        "inline_max",
        "last_received",
        "loop",
        "on_call",
        "on_response",
        "outgoing",
        "peer",
        "peer_identity",
        "peer_setup",
        "pipeline",
        "state",
        "timer",
    )

    def __init__(
        self,
        connection: Connection,
        pipeline: Pipeline,
        *,
        dialer: bool,
        on_ready: Callable[[Session], None] | None = None,
        on_closed: Callable[[Session, EchoStreamError | None], None] | None = None,
    ) -> None:
        """Made by servers and clients. ``on_ready`` runs when the peer's SETUP is accepted, ``on_closed`` once at the
        end.
        """
        self.loop = asyncio.get_running_loop()
        self.connection = connection
        self.pipeline = pipeline
        self.peer = connection.peer_address
        """The peer's end as a URL; for logs, not an identity."""
        self.peer_identity = connection.peer_identity
        """Who the peer is, proved by the transport or the authenticator; None when nobody has."""
        self.state = State.OPENING
        """Where the session is in its life."""
        self.peer_setup: Setup | None = None
        self.dialer = dialer
        self.codecs = SessionCodecs(pipeline.codecs, pipeline.compression, pipeline.limits.max_message_bytes)
        limits = pipeline.limits
        self.budget = AssemblyBudget(max(limits.assembly_bytes, limits.max_message_bytes + 65_536))
        self._native = connection.capabilities.streams == "native"
        self.inline_max = limits.inline_max_native_bytes if self._native else limits.inline_max_bytes
        self.timer = EarliestTimer(self.loop, self._expire)
        self._link = ControlLink(self.loop, connection, self._on_flushed)
        self.incoming = Incoming(self, self._link, parity=1 if dialer else 0)
        self.outgoing = Outgoing(self, self._link, parity=0 if dialer else 1, inline_max=self.inline_max)
        # The reader calls the two sides directly: no hop through the session per call.
        self.on_call = self.incoming.on_call
        self.on_response = self.outgoing.on_response
        self._reader = ControlReader(self, limits)
        self._liveness = Liveness(self)
        self.departure = Departure(self)
        self.events = SessionEvents(self)
        self.datagrams = SessionDatagrams(self)
        self._on_ready = on_ready
        self._on_closed = on_closed
        self._control: Substream | None = None
        self._accepted = False
        self._waiting: list[Arriving | Early] = []
        self._streams: dict[int, tuple[Stream, float]] = {}
        self._pong_due: int | None = None
        self._control_frames = Rate("max_control_frames_per_s", limits.max_control_frames_per_s, "control frames")
        self._resets = Rate("max_resets_per_s", limits.max_resets_per_s, "resets")
        self._alarm: asyncio.TimerHandle | None = None
        self._authenticating: asyncio.Task[Any] | None = None
        self._peer_known: asyncio.Future[None] | None = None
        self.last_received = self.loop.time()
        self._error: EchoStreamError | None = None
        self._closing_tasks: set[asyncio.Task[Any]] = set()
        forks.track(self)
        self.closed = self.loop.create_future()
        """Done when the session has ended; its result is the error that ended it, or None."""

    # -- the public verbs

    def request(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | _Default | None = DEFAULT_TIMEOUT,
        metadata: MetadataLike | None = None,
        returns: Any = None,
        priority: Priority | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call the peer's ``method`` with ``payload``; await it for the answer.

        ``timeout`` in seconds covers waiting for a slot too; None: no limit; left out: the endpoint's default (30 s).
        It never outlives the call that this one is made in. ``returns`` converts and checks the answer.
        Raises RemoteError (the peer's status), DeadlineExceeded, Disconnected, LimitExceeded,
        RpcError(INVALID_ARGUMENT).
        """
        return self.outgoing.request(method, payload, timeout, metadata, returns, priority)

    def stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        returns: Any = None,
        priority: Priority | None = None,
    ) -> ItemStream:
        """The items that the peer's ``method`` yields: ``async for item in session.stream(...)``."""
        return ItemStream(self, method, payload, timeout, metadata, returns, priority)

    def open_stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        priority: Priority | None = None,
    ) -> StreamOpening:
        """Open a stream to the peer's stream handler: await it, or ``async with session.open_stream(...) as
        stream``.
        """
        return StreamOpening(self, method, payload, timeout, metadata, priority)

    async def emit(self, topic: str, payload: object = None) -> bool:
        """Send an event, if the peer has subscribed to ``topic``; False when it has not.

        Returns when the event is written, or held within what the peer's subscriptions allow; waits while one with the
        policy ``block`` holds too much. Raises Disconnected, ConfigError for a name that is no topic, CallError for a
        payload that cannot be carried, LimitExceeded for one over the peer's ``max_message_bytes``.
        """
        return await self.events.emit(topic, payload)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the peer's listeners have handled all events emitted so far, and its iterators have them.

        TimeoutError after ``timeout`` seconds, Disconnected when the session ends.
        """
        await self.events.flush(timeout)

    def subscribe(
        self,
        pattern: str,
        *,
        overflow: Overflow = "block",
        max_queue: int = DEFAULT_MAX_QUEUE,
        key: Key = None,
        returns: Any = None,
    ) -> Subscribing:
        """The peer's events that match ``pattern``: ``async with session.subscribe("chat.*") as events``, then iterate.

        ``overflow`` says what becomes of events when more than ``max_queue`` wait, at either end; ``key`` is for
        ``conflate``. ``returns`` converts and checks payloads.
        """
        made = make_subscription(pattern, overflow=overflow, max_queue=max_queue, key=key, returns=returns)
        made.call_at_end(self.events.detach)
        return Subscribing(made, self.events.attach)

    def on(
        self,
        pattern: str,
        callback: Callable[..., Any],
        *,
        overflow: Overflow = "block",
        max_queue: int = DEFAULT_MAX_QUEUE,
        key: Key = None,
        concurrency: int = 1,
        returns: Any = None,
    ) -> Subscribing:
        """Have ``callback`` called for the peer's events that match ``pattern``; await it: then the peer knows.

        As ``@listener``, from now on. The other arguments are those of ``subscribe``.
        """
        made = make_subscription(
            pattern,
            callback=callback,
            overflow=overflow,
            max_queue=max_queue,
            key=key,
            concurrency=concurrency,
            returns=returns,
        )
        made.call_at_end(self.events.detach)
        return Subscribing(made, self.events.attach)

    @property
    def capabilities(self) -> Capabilities:
        """What this connection can do."""
        return self.connection.capabilities

    async def close(self, code: int = CloseCode.OK, reason: str = "") -> None:
        """End the session at once: pending calls fail on both sides. Returns when it is over. Idempotent."""
        self.close_now(code, reason)
        await asyncio.shield(self.closed)
        current = asyncio.current_task()  # a listener may close the session that it listens to
        if others := [task for task in self._closing_tasks if task is not current]:
            await asyncio.wait(others, timeout=self.pipeline.limits.cancel_grace_s)

    async def ping(self) -> float:
        """Seconds for one round trip to the peer's session and back. Disconnected when the session ends meanwhile."""
        return await self._liveness.ping()

    async def drain(self, timeout: float, reason: str = "shutting down") -> None:
        """Refuse new calls, let the running ones finish for at most ``timeout`` seconds, then close."""
        if self.state is State.CLOSED:
            return
        self._move(Move.GOAWAY_SENT)
        await self.departure.drain(timeout, reason)

    # -- the beginning

    def start(self) -> None:
        """Begin: a dialer opens the control substream and sends SETUP, a listener waits for it."""
        self.connection.start(self.datagrams)
        limits = self.pipeline.limits
        self.after(limits.setup_timeout_s, self._check_setup)
        if self.dialer:
            control = self.connection.open_substream(Priority.CONTROL)
            control.start(ControlSubstream(self, control))
            self._attach_control(control, encode_substream_head(SubstreamKind.CONTROL, 0, 0))
            self._link.flush()

    def _attach_control(self, control: Substream, head: bytes) -> None:
        self._control = control
        limits = self.pipeline.limits
        draw = self.pipeline.randomness.getrandbits(32)
        setup = Setup(
            codecs=self.codecs.names,
            capabilities=self.datagrams.capabilities,
            max_message_bytes=limits.max_message_bytes,
            max_concurrent_calls=limits.max_concurrent_calls,
            idle_limit_ms=int((limits.keepalive_interval_s + limits.keepalive_timeout_s) * 1000),
            inline_max_bytes=self.inline_max,
            credentials=dict(self.pipeline.credentials),
            agent=AGENT,
            name=self.pipeline.name,
            listeners=tuple(
                (one.pattern, POLICIES.index(one.overflow), one.max_queue) for one in self.pipeline.listeners
            ),
            compression=self.codecs.compression_names,
        )
        self._link.attach(control, head + encode_setup(setup, limits, draw) + grease_frame(draw))

    def accept_control(self, substream: Substream) -> None:
        """The dialer opened the control substream: answer with our SETUP."""
        if self.dialer or self._control is not None:
            raise RemoteProtocolError("a second control substream, or one from the listener")
        self._attach_control(substream, b"")
        self._link.flush()  # what else this turn writes must not overtake it: answers are read by its codecs

    @property
    def accepted(self) -> bool:
        """True once the peer's SETUP, and with it its credentials, are accepted."""
        return self.peer_setup is not None and self._accepted

    def wait_for_setup(self, arriving: Arriving | Early) -> None:
        """``arriving`` came, or may come, before SETUP was accepted: it waits unread."""
        self._waiting.append(arriving)

    def on_setup(self, setup: Setup) -> None:
        """The peer's SETUP: settle codecs, then accept it, or ask the authenticator first."""
        self.peer_setup = setup
        self.codecs.settle(setup.codecs, setup.compression)
        inline = min(self.inline_max, setup.inline_max_bytes)
        self.outgoing.settle(inline, setup.max_message_bytes, setup.max_concurrent_calls)
        self.incoming.settle(inline, setup.max_message_bytes)
        self.datagrams.on_setup(setup)
        if self._peer_known is not None and not self._peer_known.done():
            self._peer_known.set_result(None)
        authenticator = self.pipeline.authenticator
        if authenticator is None or self.dialer:
            self._accept()
            return
        self._reader.hold()
        peer = PeerInfo(
            address=self.peer,
            transport_identity=self.connection.peer_identity,
            encrypted=self.connection.capabilities.encrypted,
        )

        async def authenticate() -> None:
            try:
                identity = await authenticator(setup.credentials, peer)
            except RpcError as error:
                _logger.warning("%s: refused: %s", self.peer, error)
                self.close_now(CloseCode.UNAUTHENTICATED, error.message or error.code.name)
            except Exception:
                _logger.exception("%s: the authenticator failed", self.peer)
                self.close_now(CloseCode.INTERNAL, "the authenticator failed")
            else:
                if self.state is not State.CLOSED:
                    self.peer_identity = identity if identity is not None else self.peer_identity
                    self._accept()
                    self._guard(self._reader.release)

        self._authenticating = self.run_handler(authenticate())

    def _accept(self) -> None:
        assert self.peer_setup is not None
        self._accepted = True
        self._move(Move.SETUP_ACCEPTED)
        self.events.on_accepted(self.peer_setup)
        waiting, self._waiting = self._waiting, []
        for arriving in waiting:
            if self.state is not State.CLOSED:  # by one that broke the rules
                arriving.proceed()
        self._liveness.begin()
        if self._on_ready is not None:
            self._on_ready(self)

    def _check_setup(self) -> None:
        if self.state is State.OPENING:
            limit = self.pipeline.limits.setup_timeout_s
            what = "no SETUP" if self.peer_setup is None else "no answer of the authenticator"
            error = RemoteProtocolError(f"{what} within setup_timeout_s ({limit} s)", close_code=CloseCode.TIMEOUT)
            self.on_violation(error)

    # -- what the connection calls

    def on_substream(self, substream: Substream) -> SubstreamReceiver:
        """The peer opened a substream; what it is stands in its first eight bytes."""
        return Arriving(self, substream)

    def on_closed(self, error: EchoStreamError | None) -> None:
        """The connection is gone."""
        if self.state is State.CLOSED:
            if not self.closed.done():
                self._ended(self._error)
            return
        if isinstance(error, RemoteProtocolError):
            _logger.warning("%s: %s", self.peer, error)
        self._fail(error)
        self._ended(error)

    # -- what the control reader calls, on_call and on_response aside

    def on_cancel(self, number: int) -> None:
        """The peer gave up a call. One that runs is bounded by its slot; one already answered counts."""
        if not self.incoming.cancel(number):
            self.count_control()

    def on_ping(self, value: int) -> None:
        """Answer with PONG, within the limit of control frames."""
        self.count_control()
        if self._link.blocked:
            self._pong_due = value  # the newest answers all before it: a peer that reads none makes only one wait
        else:
            self._link.send(encode_pong(value))

    def on_pong(self, value: int) -> None:
        """The answer to a PING of ours, and to all before it."""
        if not self._liveness.on_pong(value):
            self.count_control()

    def on_goaway(self, number: int | None, code: int, reason: str) -> None:
        """The peer takes no new calls."""
        self.count_control()
        self._move(Move.GOAWAY_RECEIVED)
        self.outgoing.refuse()
        if number is not None:
            self.outgoing.on_goaway(number)
            for opened, (stream, _) in list(self._streams.items()):
                ours = opened & 1 == (0 if self.dialer else 1)
                if ours and not_before(opened, number):
                    text = f"{stream.method}: the peer is shutting down and did not process it"
                    stream.refused(Disconnected(text, not_processed=True))
        self.departure.on_goaway(reason, final=number is not None)

    def on_flow(self, subscription: int, paused: bool) -> None:
        """The peer has no room for events of one of its subscriptions, or room again."""
        self.count_control()
        self.events.flow(subscription, paused=paused)

    def on_synced(self, number: int) -> None:
        """The peer has handled the events before our SYNC."""
        if not self.events.on_synced(number):
            self.count_control()

    def on_ignored(self, kind: int) -> None:
        """An unknown ignorable frame."""
        self.count_control()

    def count_reset(self) -> None:
        """The peer reset a substream."""
        self._guard(lambda: self._resets.count(self.loop.time()))

    def count_control(self) -> None:
        """The peer did something that costs it nothing."""
        self._control_frames.count(self.loop.time())

    def on_control_data(self, data: Buffer) -> None:
        """Bytes on the control substream."""
        self.last_received = self.loop.time()
        try:
            self._reader.receive(data)
        except RemoteProtocolError as error:
            self.on_violation(error)
        else:
            if self.departure.final:
                self.departure.close_if_done()
            if self._reader.held_bytes > _MAX_HELD:
                self.on_violation(
                    RemoteProtocolError("too much behind a SETUP not yet accepted", close_code=CloseCode.LIMIT)
                )
            # Tasks that this data made ready run in this loop turn; what they send goes out at its end.
            self._link.schedule()

    def control_ended(self) -> None:
        """The peer ended the control substream without closing the connection."""
        self.on_violation(RemoteProtocolError("the control substream ended while the session was open"))

    def on_violation(self, error: RemoteProtocolError) -> None:
        """The peer broke the rules: say so, log it, end the session."""
        if self.state is State.CLOSED:
            return
        _logger.warning("%s: %s", self.peer, error)
        self.fail(error, error.close_code, str(error)[:500])

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except RemoteProtocolError as error:
            self.on_violation(error)

    # -- the end

    @property
    def disconnected(self) -> bool:
        """The session has ended, or is ending at once."""
        return self.state is State.CLOSED

    def fail(self, error: EchoStreamError, code: int, reason: str) -> None:
        """End the session because of ``error``, and tell the peer ``code``."""
        self._fail(error)
        self.connection.close(code, reason)

    def send_control(self, frame: bytes) -> None:
        """Queue a frame on the control substream; a no-op after the end."""
        if self.state is not State.CLOSED:
            self._link.send(frame)

    def close_now(self, code: int = CloseCode.OK, reason: str = "") -> None:
        """Begin to end the session; ``closed`` says when it is over. Idempotent."""
        if self.state is State.CLOSED:
            return
        self._link.flush()
        self._fail(None)
        self.connection.close(code, reason)

    def abort(self) -> None:
        """End at once, without a word to the peer. Idempotent."""
        if self.state is not State.CLOSED:
            self._fail(None)
        self.connection.abort()

    def disown(self) -> None:
        """This process was forked while the session lived: it is the parent's, here every call is refused."""
        self.state = State.CLOSED
        self._error = ConnectionLost("this process was forked from a connected one: connect after the fork")
        self.outgoing.close(self.closed_error())

    @property
    def busy(self) -> int:
        """Calls and streams that run, or whose message is still on its way."""
        return self.incoming.running + self.incoming.assembling + len(self._streams)

    def closed_error(self, *, not_processed: bool = False) -> Disconnected:
        """The error for a call that meets the end of the session."""
        error = self._error
        if error is None:
            problem = Disconnected(f"the session with {self.peer} is closed", not_processed=not_processed)
        else:
            code = error.close_code if isinstance(error, (ConnectionLost, RemoteProtocolError)) else None
            text = f"the session with {self.peer} has ended: {error}"
            if isinstance(error, EndOfStream):
                text = f"the peer {self.peer} has closed the session"
            problem = Disconnected(text, not_processed=not_processed, close_code=code)
        problem.__cause__ = error
        return problem

    def _fail(self, error: EchoStreamError | None) -> None:
        self._error = error
        self._move(Move.CLOSED)
        self.timer.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._authenticating is not None and self._authenticating is not asyncio.current_task():
            self._authenticating.cancel()
        problem = self.closed_error()
        if self._peer_known is not None and not self._peer_known.done():
            self._peer_known.set_exception(problem)
            self._peer_known.exception()
        self.outgoing.close(problem)
        self.events.close(problem)
        for task in self.incoming.close():
            self._closing_tasks.add(task)
            task.add_done_callback(self._closing_tasks.discard)
        for stream, _ in list(self._streams.values()):
            stream.on_session_closed(problem)
        self._liveness.close()
        self._waiting.clear()
        self.departure.on_idle()

    def _ended(self, error: EchoStreamError | None) -> None:
        if not self.closed.done():
            self.closed.set_result(error)
        callback, self._on_closed = self._on_closed, None
        if callback is not None:
            callback(self, error)

    def _move(self, move: Move) -> None:
        following = NEXT.get((self.state, move))
        if following is not None:
            self.state = following

    # -- time

    def _expire(self, now: float) -> float | None:
        deadlines = [at for at in (self.incoming.expire(now), self.outgoing.expire(now)) if at is not None]
        for number, (stream, deadline) in list(self._streams.items()):
            if deadline <= now:
                stream.expire(number)
            elif deadline != float("inf"):
                deadlines.append(deadline)
        return min(deadlines, default=None)

    # -- substreams

    def respond_on_substream(self, number: int, level: int, flags: int, codec: int, body: bytes) -> bool:
        """Answer an in-line call with a response too large for the control substream. False: it waits for credit."""
        self.departure.large_answers = True
        substream = self.connection.open_substream(Priority(level))
        answer = WriteOnly(self, substream)
        substream.start(answer)
        head = encode_substream_head(SubstreamKind.RESPONSE, level & 3, number)
        answer.waiting = not substream.write(
            (head + encode_response_head(number, flags, codec, len(body)), body), end=True
        )
        return not answer.waiting

    def keep_stream(self, number: int, stream: Stream, deadline: float) -> None:
        """Remember a live stream and its deadline."""
        self._streams[number] = (stream, deadline)
        if deadline != float("inf"):
            self.timer.need(deadline)

    def forget_stream(self, number: int) -> None:
        """A stream has ended."""
        self._streams.pop(number, None)
        self.departure.large_answers = True
        if not self._streams:
            self.departure.on_idle()

    def replace_pipeline(self, pipeline: Pipeline) -> None:
        """Serve other handlers from now on; codecs and limits stay those of the beginning."""
        self.pipeline = replace(self.pipeline, routes=pipeline.routes)
        self.incoming.replace_routes()
        self.datagrams.add(pipeline.datagram_handlers)

    def has_stream(self, number: int) -> bool:
        """True while stream ``number`` lives."""
        return number in self._streams

    def _on_flushed(self) -> None:
        if self._pong_due is not None:
            value, self._pong_due = self._pong_due, None
            self._link.send(encode_pong(value))
        self.events.on_flushed()
        self._guard(self.incoming.on_flushed)

    def control_writable(self) -> None:
        """The control substream has room again."""
        self._link.on_writable()

    def run_handler(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``coroutine`` in a task that ``close`` waits for, with a copy of the session's own context."""
        task = self.loop.create_task(coroutine, context=self.incoming.variables())
        self._closing_tasks.add(task)
        task.add_done_callback(self._closing_tasks.discard)
        return task

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Call ``action`` in ``delay`` seconds; in place of what was to be called before."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.loop.call_later(delay, action)

    async def wait_for_peer(self, deadline: float) -> None:
        """Wait until the peer's SETUP is here; DeadlineExceeded or Disconnected when it does not come."""
        if self.peer_setup is not None or self.state is State.CLOSED:
            return
        if self._peer_known is None:
            self._peer_known = self.loop.create_future()
        left = None if deadline == float("inf") else max(0.0, deadline - self.loop.time())
        done, _ = await asyncio.wait({self._peer_known}, timeout=left)
        if not done:
            raise DeadlineExceeded("the peer's SETUP did not come in time", not_processed=True)
        self._peer_known.result()
