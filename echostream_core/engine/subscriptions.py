"""A subscription as its owner sees it: events that wait for a callback or for ``async for``, never more than it allows.

What arrives is read at once, and what the application does not take waits here. When that is too much, the overflow
policy decides. ``block`` asks the sender to hold the rest until half is taken; what was on its way still comes, at most
one window of bytes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from echostream_core.engine.binding import convert, plain
from echostream_core.engine.latest_queue import LatestQueue
from echostream_core.errors import (
    CallError,
    CloseCode,
    ConfigError,
    EchoStreamError,
    EndOfStream,
    LimitExceeded,
    RemoteProtocolError,
    ResourceBusy,
    RpcError,
)
from echostream_core.wire.events import EVENT_HEAD, POLICIES
from echostream_core.wire.topics import check_pattern, compile_pattern

if TYPE_CHECKING:
    from types import TracebackType

    from echostream_core.engine.event_receiver import EventReceiver
    from echostream_core.engine.session import Session

__all__ = ["DEFAULT_MAX_QUEUE", "Event", "Key", "Overflow", "Subscription", "conflation_key"]

Overflow = Literal["block", "drop_oldest", "drop_newest", "conflate", "disconnect"]
Key = str | Callable[["Event"], object] | None
"""By what a newer event replaces an older one with the policy ``conflate``: a field of the payload, a function, or None
for the topic. A function is known here only, so the sender of the events drops its oldest instead."""

DEFAULT_MAX_QUEUE: Final = 1_024
_logger = logging.getLogger("echostream.events")


class Event(msgspec.Struct, frozen=True, eq=False):  # a Struct is made in a third of the time of a plain class
    """One event as a listener gets it. Several listeners of one event share its payload: do not change it."""

    topic: str
    payload: Any
    session: Session
    """The peer that sent it."""
    size: int = 0
    """Bytes of the payload as it travelled."""

    def __repr__(self) -> str:
        return f"Event({self.topic!r}, {self.payload!r})"


class Subscription:
    """Events that match a pattern: iterate over them, or have a callback called, one at a time and in order."""

    __slots__ = (
        "_active",
        "_bytes",
        "_concurrency",
        "_error",
        "_function",
        "_in_place",
        "_key",
        "_late_bytes",
        "_matches",
        "_max_bytes",
        "_on_end",
        "_paused",
        "_popped",
        "_queue",
        "_returns",
        "_running",
        "_settled",
        "_sources",
        "_waiter",
        "deliver",
        "dropped",
        "failures",
        "lasting",
        "max_queue",
        "overflow",
        "pattern",
    )

    def __init__(
        self,
        pattern: str,
        *,
        overflow: Overflow = "block",
        max_queue: int = DEFAULT_MAX_QUEUE,
        key: Key = None,
        function: Callable[[Event], Any] | None = None,
        in_place: bool = False,
        concurrency: int = 1,
        returns: Any = None,
    ) -> None:
        """Made by ``subscribe`` and ``on``. ConfigError names the argument that is wrong."""
        check_pattern(pattern)
        if overflow not in POLICIES:
            raise ConfigError(f"overflow: there is no policy {overflow!r}; known are {', '.join(POLICIES)}")
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            raise ConfigError(f"max_queue must be a whole number from 1, not {max_queue!r}")
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigError(f"concurrency must be a whole number from 1, not {concurrency!r}")
        if key is not None and overflow != "conflate":
            raise ConfigError(f"key= is for overflow='conflate', not for {overflow!r}")
        if key is not None and not isinstance(key, str) and not callable(key):
            raise ConfigError(f"key must be the name of a field or a function of the event, not {key!r}")
        self.pattern = pattern
        self.overflow = overflow
        self.max_queue = max_queue
        self.dropped: dict[str, int] = {}
        """Events that were not delivered, by reason: the policy that dropped them, here or at the sender;
        ``undecodable`` and ``invalid`` for payloads that could not be read, or not as the callback's type;
        ``unsubscribed`` for those that waited for the callback when ``unsubscribe`` was called."""
        self.failures = 0
        """Events whose callback raised; each is logged."""
        self._matches = compile_pattern(pattern)
        self._key = key
        self._function = function
        self._in_place = in_place
        self._concurrency = concurrency
        self._returns = returns
        self._queue: deque[Event] | LatestQueue[Event] = LatestQueue() if overflow == "conflate" else deque()
        self._bytes = 0  # of what waits
        self._max_bytes = sys.maxsize  # until a session says
        self._paused = False
        self._late_bytes = 0  # came after we had asked for a pause
        self._sources: tuple[tuple[EventReceiver, int], ...] = ()
        self._error: EchoStreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._running = 0
        self._popped = 0
        self._active: set[int] = set()  # what callbacks are at, by the number in which it was taken
        self._settled: list[tuple[int, asyncio.Future[None]]] = []
        self.deliver: Callable[[Event], None] = (
            self._call_in_place if in_place and function is not None and returns is None else self._deliver
        )
        """Takes one event of the peer; one frame less for the plain function that most callbacks are."""
        self.lasting = False
        """It belongs to a client, and goes on with the client's next session."""
        self._on_end: Callable[[Subscription], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        state = "ended" if self._error is not None else f"{len(self._queue)} waiting"
        return f"<Subscription {self.pattern!r} {self.overflow} {state}>"

    # -- the owner's side

    async def recv(self) -> Event:
        """The next event; waits for it. EndOfStream after ``unsubscribe``, Disconnected when the session ended,
        LimitExceeded when the policy ``disconnect`` did. ResourceBusy when another task waits here.
        """
        if self._function is not None:
            raise ResourceBusy(f"{self.pattern}: its callback takes the events")
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._waiter is not None:
                raise ResourceBusy(f"{self.pattern}: another task is already waiting here")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._pop()

    def __aiter__(self) -> Subscription:
        """Iterate over the events until ``unsubscribe``."""
        return self

    async def __anext__(self) -> Event:
        """The next event; see ``recv``."""
        try:
            return await self.recv()
        except EndOfStream:
            raise StopAsyncIteration from None

    async def unsubscribe(self) -> None:
        """Take no more events and tell the peer. Idempotent.

        What waits can still be read; a callback is not called again, and what waited for it counts as dropped.
        """
        if self._error is None:
            self.end(EndOfStream(f"{self.pattern}: unsubscribed"))
            if self._function is not None:
                while self._queue:
                    self._pop()
                    self.count("unsubscribed")
                self._check_settled()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            await on_end(self)

    async def __aenter__(self) -> Subscription:
        """A subscription that ``on`` has made can be left with its block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unsubscribe."""
        await self.unsubscribe()

    # -- the engine's side

    @property
    def ended(self) -> bool:
        """No more events will come."""
        return self._error is not None

    def matches(self, topic: str) -> bool:
        """Whether events of ``topic`` belong here."""
        return self._matches(topic)

    def request(self, number: int) -> dict[str, object]:
        """What the peer is asked for. A function as key is known here only: there the oldest event is dropped."""
        policy = "drop_oldest" if callable(self._key) else self.overflow
        asked: dict[str, object] = {
            "number": number,
            "pattern": self.pattern,
            "policy": policy,
            "max_queue": self.max_queue,
        }
        if isinstance(self._key, str):
            asked["key"] = self._key
        return asked

    @property
    def number(self) -> int:
        """The subscription's number within the session, the newest one if there are two; -1 while there is none."""
        return self._sources[-1][1] if self._sources else -1

    def number_at(self, receiver: EventReceiver | None) -> int:
        """The subscription's number within the session of ``receiver``; -1 where it is not known."""
        for source, number in self._sources:
            if source is receiver:
                return number
        return -1

    def attach(self, receiver: EventReceiver, number: int) -> None:
        """Events come from ``receiver``'s session from now on, and from those before it until they end: a server that
        goes away has some on their way.
        """
        self._flow(paused=False)  # the next one that is too much asks all of them for a pause
        self._sources += ((receiver, number),)
        self._max_bytes = receiver.max_queue_bytes

    def confirmed(self, receiver: EventReceiver) -> None:
        """``receiver``'s peer knows the subscription: now it also understands that it has to pause."""
        number = self.number_at(receiver)
        if self._paused and number >= 0:  # else the session has ended in this very turn
            receiver.flow(number, paused=True)

    def detach(self, receiver: EventReceiver) -> None:
        """The session of ``receiver`` has ended; another one follows, or is here already."""
        self._sources = tuple(source for source in self._sources if source[0] is not receiver)
        self._paused = self._paused and bool(self._sources)
        self._late_bytes = 0  # what it has sent is not held against the others

    def _flow(self, *, paused: bool) -> None:
        """Have those that send hold their events, or send them again."""
        if self._paused != paused:
            self._paused = paused
            for receiver, number in self._sources:
                receiver.flow(number, paused=paused)

    def call_at_end(self, callback: Callable[[Subscription], Awaitable[None]]) -> None:
        """``unsubscribe`` awaits ``callback``."""
        self._on_end = callback

    def end(self, error: EchoStreamError) -> None:
        """No more events come; who waits for one gets ``error`` when the last is taken."""
        if self._error is None:
            self._error = error
            self._paused = False
            self._wake()

    def _deliver(self, event: Event) -> None:
        if self._error is not None:
            return
        if self._returns is not None:
            try:
                event = Event(event.topic, convert(event.payload, self._returns), event.session, event.size)
            except CallError as error:
                self._not_valid(event, error)
                return
        if self._in_place:
            self._call_in_place(event)
            return
        queue = self._queue
        if isinstance(queue, LatestQueue):
            self._put_latest(queue, event)
        elif not queue or (len(queue) < self.max_queue and self._bytes < self._max_bytes) or self._make_room(event):
            queue.append(event)
            self._bytes += event.size
        else:
            return
        if self._function is None:
            self._wake()
        elif self._running < self._concurrency:
            self._running += 1
            event.session.run_handler(self._work())

    def count(self, reason: str, number: int = 1) -> None:
        """``number`` more events were dropped."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number

    @property
    def idle(self) -> bool:
        """The callback has handled all that is here. Always true for one that is iterated over: nobody knows when its
        reader has handled an event.
        """
        return self._function is None or not (self._queue or self._active)

    async def settled(self) -> None:
        """Wait until the callback has handled all that is here now."""
        if self.idle:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settled.append((self._popped + len(self._queue), future))
        await future

    def _call_in_place(self, event: Event) -> None:
        if self._error is not None:
            return
        try:
            result = self._function(event)  # type: ignore[misc]  # there is one, or this is not called
            if result is not None and iscoroutine(result):
                result.close()
                raise TypeError("a plain def returned a coroutine: make it an async def")
        except (Exception, asyncio.CancelledError) as error:  # the result of a future that was cancelled, perhaps
            self._failed(event, error)

    async def _work(self) -> None:
        """Handle what waits, in order; a task lives only while something does."""
        assert self._function is not None
        task = asyncio.current_task()
        try:
            while self._queue:
                event = self._pop()
                place = self._popped
                self._active.add(place)
                try:
                    await self._function(event)
                except asyncio.CancelledError as error:
                    if task is None or task.cancelling():
                        raise
                    self._failed(event, error)  # of something that the callback has waited for
                except Exception as error:
                    self._failed(event, error)
                finally:
                    self._active.discard(place)
                    if self._settled:
                        self._check_settled()
        finally:
            self._running -= 1

    def _failed(self, event: Event, error: BaseException) -> None:
        if isinstance(error, RpcError) and error.not_processed and error.details and error.details[0][0] == "BadField":
            self._not_valid(event, error)
            return
        self.failures += 1
        _logger.error(
            "%s: a listener of %r failed on an event from %s",
            event.topic,
            self.pattern,
            event.session.peer,
            exc_info=error,
        )

    def _not_valid(self, event: Event, error: RpcError) -> None:
        self.count("invalid")
        _logger.warning(
            "%s: an event from %s is not what %r expects: %s", event.topic, event.session.peer, self.pattern, error
        )

    def _pop(self) -> Event:
        event = self._queue.popleft()
        self._popped += 1
        self._bytes -= event.size
        if self._paused and len(self._queue) <= self.max_queue // 2 and self._bytes <= self._max_bytes // 2:
            self._flow(paused=False)
        return event

    def _check_settled(self) -> None:
        """Wake those who wait for all that was here at some moment: nothing of it may wait, or still be handled."""
        done = min(self._active, default=self._popped + 1) - 1
        while self._settled and self._settled[0][0] <= done:
            future = self._settled.pop(0)[1]
            if not future.done():
                future.set_result(None)

    def _drop_oldest(self) -> None:
        self._pop()
        self.count(self.overflow)

    def _put_latest(self, queue: LatestQueue[Event], event: Event) -> None:
        older = queue.put(self._key_of(event), event)
        self._bytes += event.size
        if older is not None:
            self._bytes -= older.size
            self.count("conflate")
        while len(queue) > self.max_queue or (self._bytes > self._max_bytes and len(queue) > 1):
            self._drop_oldest()

    def _key_of(self, event: Event) -> object:
        if not callable(self._key):
            return conflation_key(event.topic, event.payload, self._key)
        try:
            key = self._key(event)
            hash(key)
        except Exception as error:
            self._failed(event, error)
            return event.topic
        return key

    def _make_room(self, event: Event) -> bool:
        """The queue is full: what the policy says. False: the event is dropped."""
        if self.overflow == "block":
            self._ask_for_a_pause(event)
            return True
        if self.overflow == "drop_oldest":
            while self._queue and (len(self._queue) >= self.max_queue or self._bytes >= self._max_bytes):
                self._drop_oldest()
            return True
        self.count(self.overflow)
        if self.overflow == "disconnect":
            text = f"{self.pattern}: more than max_queue = {self.max_queue} events waited, and the policy is disconnect"
            error = LimitExceeded(text, limit="max_queue", value=self.max_queue + 1, maximum=self.max_queue)
            self.end(error)
            event.session.events.receiver.disconnect(error)
        return False

    def _ask_for_a_pause(self, event: Event) -> None:
        """FLOW, once; what was on its way still comes, but a peer that goes on regardless breaks the rules."""
        if not self._sources:
            return
        if not self._paused:
            self._late_bytes = 0
            self._flow(paused=True)
        self._late_bytes += event.size + EVENT_HEAD.size
        most = sum(receiver.max_late_bytes for receiver, _ in self._sources)
        if self._late_bytes > most:
            raise RemoteProtocolError(
                f"{self._late_bytes} bytes of events of a subscription that is paused, at most "
                f"{most} can have been on their way: raise max_window_bytes for larger windows",
                close_code=CloseCode.LIMIT,
            )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def conflation_key(topic: str, payload: object, field: str | None) -> object:
    """By what a newer event replaces an older one: its topic, and the value of ``field`` if the payload is a map.

    The sender has a payload as it was emitted, the receiver as it was decoded: both find the same key.
    """
    if field is None:
        return topic
    if not isinstance(payload, (dict, list, tuple, str, bytes, bool, int, float, type(None))):
        payload = plain(payload)
    if not isinstance(payload, dict):
        return topic
    value = plain(payload.get(field))
    try:
        hash(value)
    except TypeError:  # a list, or a map
        return topic
    return (topic, type(value), value)
