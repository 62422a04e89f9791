"""Events of one session: emitting, subscribing, flushing. Both halves are made when they are first needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from echostream_core.engine.context import Context
from echostream_core.engine.event_receiver import EventReceiver
from echostream_core.engine.event_sender import EventSender, Interest, OutgoingEvent
from echostream_core.engine.listeners import compile_callback
from echostream_core.engine.subscriptions import DEFAULT_MAX_QUEUE, Key, Overflow, Subscription
from echostream_core.errors import (
    ConfigError,
    Disconnected,
    EchoStreamError,
    RemoteError,
    ResourceBusy,
    RpcError,
    StatusCode,
)
from echostream_core.middleware import Call, Reply, compile_chain
from echostream_core.transport import Substream
from echostream_core.types import Priority
from echostream_core.wire.events import POLICIES
from echostream_core.wire.topics import check_pattern

if TYPE_CHECKING:
    from types import TracebackType

    from echostream_core.engine.session import Session
    from echostream_core.wire.setup import Setup

__all__ = [
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "Emitted",
    "SessionEvents",
    "Subscribing",
    "emit_to",
    "make_subscription",
    "send_to_all",
]

SUBSCRIBE: Final = "echostream.events.subscribe"
"""The method by which a subscription is made: a call like any other, so middleware sees it and may refuse it."""
UNSUBSCRIBE: Final = "echostream.events.unsubscribe"
_logger = logging.getLogger("echostream.events")
_MAX_BURST: Final = 32
"""Events that ``emit`` takes without letting the loop run: an emitter that awaits nothing else must not starve it."""


class SessionEvents:
    """What a session knows of events, in both directions."""

    __slots__ = ("_acknowledged", "_burst", "_next_sync", "_receiver", "_session", "_syncs", "sender")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.sender: EventSender | None = None
        """Made when the peer first subscribes."""
        self._receiver: EventReceiver | None = None
        self._syncs: dict[int, asyncio.Future[None]] = {}
        self._next_sync = 0
        self._burst = 0
        self._acknowledged = 0

    @property
    def receiver(self) -> EventReceiver:
        """The receiving half."""
        if self._receiver is None:
            self._receiver = EventReceiver(self._session)
        return self._receiver

    # -- our events

    async def emit(self, topic: str, payload: object) -> bool:
        """See ``Session.emit``."""
        session = self._session
        if session.peer_setup is None:
            await session.wait_for_peer(float("inf"))
        if session.disconnected:
            raise session.closed_error()
        event = OutgoingEvent(topic, payload)
        sender = self.sender
        wanted = sender is not None and sender.offer(event)
        for full_sender, interest in event.full:
            await full_sender.wait_for(interest)
        self._burst += 1
        if self._burst >= _MAX_BURST:
            self._burst = 0
            await asyncio.sleep(0)
        return wanted

    async def flush(self, timeout: float | None) -> None:
        """See ``Session.flush``."""
        session = self._session
        if session.disconnected:
            raise session.closed_error()
        sender = self.sender
        if sender is None:
            return
        if sender.ended:
            raise Disconnected(f"{session.peer}: its events substream is over, there is nothing to flush any more")
        async with asyncio.timeout(timeout):
            number = self._next_sync
            self._next_sync = (number + 1) & 0xFFFF_FFFF
            future = self._syncs[number] = session.loop.create_future()
            try:
                await sender.sync(number)
                written = sender.written
                await future
                self._acknowledged = max(self._acknowledged, written)
            finally:
                self._syncs.pop(number, None)

    def on_synced(self, number: int) -> bool:
        """The peer has handled what we flushed; False when we did not ask."""
        future = self._syncs.get(number)
        if future is not None and not future.done():
            future.set_result(None)
        return future is not None

    # -- what the peer wants

    def on_accepted(self, setup: Setup) -> None:
        """The peer's listeners are subscriptions from the beginning, if no middleware has anything against it."""
        wanted: list[dict[str, Any]] = [
            {"number": number, "pattern": pattern, "policy": POLICIES[policy], "max_queue": queue}
            for number, (pattern, policy, queue) in enumerate(setup.listeners)
        ]
        if self._session.pipeline.server_middleware:
            if wanted:
                self._session.run_handler(self._ask_for(wanted))
            return
        for arguments in wanted:
            try:
                self.subscribe(**arguments)
            except RpcError as error:
                self._refused(arguments, error)

    async def _ask_for(self, wanted: list[dict[str, Any]]) -> None:
        """Take each listener through the chain as the call that it stands for."""

        async def innermost(call: Call) -> Reply:
            arguments: Any = call.payload
            return Reply({"max_queue": self.subscribe(**arguments)})

        chain = compile_chain(self._session.pipeline.server_middleware, innermost)
        for arguments in wanted:
            context = Context(self._session, 0, SUBSCRIBE, None, Priority.NORMAL, None)
            try:
                await chain(Call(SUBSCRIBE, arguments, "server", context=context, state=context.state))
            except RpcError as error:
                self._refused(arguments, error)
            except Exception:
                _logger.exception("%s: a middleware failed on the listener %r", self._session.peer, arguments)

    def _refused(self, arguments: dict[str, Any], error: RpcError) -> None:
        _logger.warning("%s: its listener of %r is refused: %s", self._session.peer, arguments["pattern"], error)

    def subscribe(self, number: int, pattern: str, policy: str, max_queue: int, key: str | None = None) -> int:
        """The peer subscribes; the queue that it gets. RpcError says what is wrong with it."""
        try:
            check_pattern(pattern)
        except ConfigError as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error
        if policy not in POLICIES:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"there is no overflow policy {policy[:40]!r}")
        if not 0 <= number < 1 << 32:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"{number} is no number of a subscription")
        return self._wanted().add(number, pattern, policy, max_queue, key)

    def unsubscribe(self, number: int) -> None:
        """The peer has had enough. One that is not there is no error: it may have crossed our end."""
        if self.sender is not None:
            self.sender.remove(number)

    def flow(self, number: int, *, paused: bool) -> None:
        """The peer's subscription has no room, or room again."""
        if self.sender is not None:
            self.sender.flow(number, paused=paused)

    def _wanted(self) -> EventSender:
        if self.sender is None:
            self.sender = EventSender(self._session)
        return self.sender

    # -- what we want

    def has(self, subscription: Subscription) -> bool:
        """Whether the peer's events go to ``subscription``, or will as soon as it has answered."""
        return subscription.number_at(self._receiver) >= 0

    async def attach(self, subscription: Subscription) -> None:
        """Tell the peer of ``subscription`` and deliver its events; raises what the peer answers."""
        receiver = self.receiver
        number = receiver.register(subscription)
        try:
            await self._session.request(SUBSCRIBE, subscription.request(number))
        except BaseException as error:
            receiver.unregister(subscription)
            if not isinstance(error, (RemoteError, Disconnected)):  # it may have been done all the same
                self._session.run_handler(self._forget(number))
            raise
        subscription.confirmed(receiver)

    async def detach(self, subscription: Subscription) -> None:
        """Take no more of its events, and tell the peer if it still listens."""
        telling = self.drop(subscription)
        if telling is not None and (problem := await asyncio.shield(telling)) is not None:
            raise problem

    def drop(self, subscription: Subscription) -> asyncio.Task[RpcError | None] | None:
        """Take no more of its events. The task tells the peer, and what that has against it; None: it need not know."""
        receiver = self._receiver
        number = subscription.number_at(receiver)
        if receiver is None or number < 0:
            return None
        receiver.unregister(subscription)
        # In a task of its own: the peer must hear of it also when nobody waits here any more.
        return self._session.run_handler(self._forget(number))

    async def _forget(self, number: int) -> RpcError | None:
        """Have the peer forget subscription ``number``; what it has against it."""
        try:
            await self._session.request(UNSUBSCRIBE, number)
        except Disconnected:
            pass  # then it has forgotten it anyway
        except RpcError as error:
            _logger.warning("%s: subscription %d could not be ended: %s", self._session.peer, number, error)
            return error
        return None

    # -- the end

    @property
    def unacknowledged(self) -> bool:
        """Whether the peer may not have handled all our events yet."""
        sender = self.sender
        if sender is None or sender.ended:
            return False
        return sender.pending or sender.written > self._acknowledged

    @property
    def arrived(self) -> bool:
        """Whether all events are here that a peer that goes away still has for us."""
        return self._receiver is None or self._receiver.finished

    async def finish(self) -> bool:
        """We go away: end our events behind the last one; whether the peer may still have some to read."""
        setup = self._session.peer_setup
        if self.sender is None and (setup is None or not setup.listeners):
            return False
        sender = self._wanted()
        await sender.settled()
        sender.finish()
        return sender.written > self._acknowledged

    def on_flushed(self) -> None:
        """The control substream has room."""
        if self._receiver is not None:
            self._receiver.on_flushed()

    def accept(self, substream: Substream) -> EventReceiver:
        """The peer opened its events substream."""
        return self.receiver.accept(substream)

    def close(self, error: Disconnected) -> None:
        """The session has ended."""
        if self.sender is not None:
            self.sender.close(error)
        if self._receiver is not None:
            self._receiver.close(error)
        for future in self._syncs.values():
            if not future.done():
                future.set_exception(error)
                future.exception()


class Subscribing:
    """What ``subscribe`` and ``on`` return: await it for the subscription, or use it in ``async with``."""

    __slots__ = ("_attach", "_done", "_subscription")

    def __init__(self, subscription: Subscription, attach: Callable[[Subscription], Any]) -> None:
        self._subscription = subscription
        self._attach = attach
        self._done = False

    def __await__(self) -> Generator[Any, None, Subscription]:
        """Subscribe; returns when the peer knows."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Subscription:
        """Subscribe; returns when the peer knows."""
        if self._done or self._subscription.ended or self._subscription.number >= 0:
            raise ResourceBusy(f"{self._subscription.pattern}: subscribe again for another subscription")
        await self._attach(self._subscription)
        self._done = True
        return self._subscription

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unsubscribe."""
        await self._subscription.unsubscribe()


def make_subscription(
    pattern: str,
    *,
    callback: Callable[..., Any] | None = None,
    overflow: Overflow = "block",
    max_queue: int = DEFAULT_MAX_QUEUE,
    key: Key = None,
    concurrency: int = 1,
    returns: Any = None,
) -> Subscription:
    """The subscription for the arguments of ``subscribe`` or ``on``."""
    function, in_place = (None, False) if callback is None else compile_callback(callback, pattern)
    return Subscription(
        pattern,
        overflow=overflow,
        max_queue=max_queue,
        key=key,
        function=function,
        in_place=in_place,
        concurrency=concurrency,
        returns=returns,
    )


async def send_to_all(senders: list[EventSender], topic: str, payload: object) -> int:
    """Offer one event to many sessions, then wait for those who block; how many wanted it."""
    event = OutgoingEvent(topic, payload)
    count = 0
    problem: EchoStreamError | None = None
    for sender in senders:
        try:
            count += sender.offer(event)
        except EchoStreamError as error:  # what one codec cannot carry, or one peer does not take
            problem = error
    for sender, interest in event.full:
        try:
            await sender.wait_for(interest)
        except Disconnected:
            pass  # its session ended meanwhile
    if problem is not None:
        raise problem
    return count


@dataclass(frozen=True, slots=True)
class Emitted:
    """What became of an event that ``emit_to`` gave to several sessions."""

    count: int
    """Sessions that had subscribed to it."""
    behind: dict[Session, Callable[[], Coroutine[Any, Any, None]]]
    """Those whose subscription has the policy ``block`` and holds too much: they have the event, but must get no more
    before the function, called and awaited, returns. It raises Disconnected when the session ends."""
    failed: dict[Session, EchoStreamError]
    """Those that could not get it, and why: what their codec cannot carry, or larger than they take."""


def emit_to(sessions: Iterable[Session], topic: str, payload: object = None) -> Emitted:
    """Send an event to those of ``sessions`` that have subscribed to ``topic``; it is encoded once per codec.

    It waits for nobody, so that one slow session does not delay the others: what to do about the slow ones is for the
    caller to say, see ``Emitted``. Sessions that have ended are passed over. ConfigError for a name that is no topic.
    """
    event = OutgoingEvent(topic, payload)
    full = event.full
    count = 0
    behind: dict[Session, Callable[[], Coroutine[Any, Any, None]]] = {}
    failed: dict[Session, EchoStreamError] = {}
    for session in sessions:
        sender = session.events.sender
        if sender is None:
            continue
        before = len(full)
        try:
            count += sender.offer(event)
        except EchoStreamError as error:
            failed[session] = error
        if len(full) > before:
            behind[session] = partial(_wait_for, full[before:])
    return Emitted(count, behind, failed)


async def _wait_for(full: list[tuple[EventSender, Interest]]) -> None:
    for sender, interest in full:
        await sender.wait_for(interest)
