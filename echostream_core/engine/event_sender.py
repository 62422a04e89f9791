"""Our events to one peer: what it asked for, what is held back for it while it is slow, and what that cost.

An event is encoded once per codec, and the same bytes go to every session that wants it. A peer that keeps up costs an
append per event and a write per turn of the loop. Only for a peer that does not keep up each of its subscriptions has a
queue here, with the overflow policy that it asked for.
"""

from __future__ import annotations

import asyncio
import logging
from threading import Lock
from typing import TYPE_CHECKING, Final

from echostream_core.engine.gate import Gate
from echostream_core.engine.held_events import HeldEvents, Interest
from echostream_core.errors import CallError, CloseCode, LimitExceeded, RpcError, StatusCode
from echostream_core.transport import Substream
from echostream_core.types import Buffer, Priority
from echostream_core.wire.events import (
    POLICIES,
    address_event,
    encode_dropped,
    encode_event,
    encode_sync,
    encode_topic,
)
from echostream_core.wire.frames import COMPRESSED, FULL_NAME, SubstreamKind, encode_substream_head
from echostream_core.wire.limits import MAX_INTERNED
from echostream_core.wire.topics import check_topic

if TYPE_CHECKING:
    from echostream_core.engine.codecs import SessionCodecs
    from echostream_core.engine.session import Session

__all__ = ["EventSender", "Interest", "OutgoingEvent"]

FRAMES_PER_WRITE: Final = 64
"""Events that are written together: a large batch, for a fan-out to many sessions one write each is what counts."""
_BIG_BYTES: Final = 8_192
"""Events from here on are written at once and never joined, so that what is collected for a write stays small."""
_EVENTS_PER_TURN: Final = 256
"""Held events that are sent without letting the loop run."""
_MAX_KEY_BYTES: Final = 255
_MAX_CACHED_TOPICS: Final = 1_024

_topic_numbers: dict[str, int] = {}
"""One numbering for the whole process, so that an event has the same bytes for every session. Once it is full, topics
travel in full."""
_numbering = Lock()
"""Sessions live on one loop, and a process may have several, each in a thread of its own."""
_logger = logging.getLogger("echostream.events")


class OutgoingEvent:
    """One event on its way to any number of sessions: encoded at most once for each codec."""

    __slots__ = ("frames", "full", "name", "number", "packed", "payload", "topic")

    def __init__(self, topic: str, payload: object) -> None:
        """ConfigError when ``topic`` cannot be one."""
        number = _topic_numbers.get(topic)
        if number is None:
            name = check_topic(topic)
            with _numbering:
                number = _topic_numbers.get(topic, len(_topic_numbers))
                if number < MAX_INTERNED:
                    _topic_numbers[topic] = number
                else:
                    number = FULL_NAME
        else:
            name = b""
        self.topic = topic
        self.name = name
        self.number = number
        self.payload = payload
        self.frames: dict[tuple[str, int], bytes] = {}
        self.packed: dict[tuple[str, int, str], bytes] = {}
        """The same compressed, by codec and compression, where that is worth it."""
        self.full: list[tuple[EventSender, Interest]] = []
        """Subscriptions with the policy ``block`` that have too much to hold: the emitter waits for them."""

    def encode(self, session: Session) -> bytes:
        """The frame for ``session``; CallError when the payload cannot be carried, LimitExceeded when it is too
        large.
        """
        codecs = session.codecs
        frame = self.frames.get(codecs.out_key)
        if frame is None:
            body = codecs.encode_with(codecs.out_id, self.payload)
            name = self.name if self.number == FULL_NAME else b""
            frame = self.frames[codecs.out_key] = encode_event(name, self.number, codecs.out_id, body)
        size = len(frame) - 12 if self.number != FULL_NAME else len(frame) - 13 - frame[12]
        if size > session.outgoing.peer_max_message:
            raise LimitExceeded(
                f"{self.topic}: an event of {size} bytes, the peer's max_message_bytes is "
                f"{session.outgoing.peer_max_message}",
                limit="max_message_bytes",
                value=size,
                maximum=session.outgoing.peer_max_message,
            )
        return frame if size < codecs.compress_from else self._pack(codecs, frame)

    def _pack(self, codecs: SessionCodecs, frame: bytes) -> bytes:
        key = (*codecs.out_key, codecs.compression)
        packed = self.packed.get(key)
        if packed is None:
            name = self.name if self.number == FULL_NAME else b""
            body = codecs.compress(memoryview(frame)[13 + len(name) if name else 12 :])
            packed = frame if body is None else encode_event(name, self.number, codecs.out_id, body, COMPRESSED)
            self.packed[key] = packed
        return packed


class EventSender:
    """The sending side of one session's events. Also the receiver of its substream's callbacks."""

    __slots__ = (
        "_blocked",
        "_draining",
        "_ended",
        "_frames",
        "_full",
        "_held",
        "_idle",
        "_introduced",
        "_order",
        "_paused",
        "_scheduled",
        "_session",
        "_slow",
        "_substream",
        "_unchecked",
        "_wanted",
        "interests",
        "written",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self.interests: dict[int, Interest] = {}
        """What the peer has subscribed to, by its numbers."""
        self._wanted: dict[str, tuple[Interest, ...]] = {}
        self._substream: Substream | None = None
        self._frames: list[Buffer] = []
        self._scheduled = False
        self._draining = False  # what is held is sent in slices, and another one is due
        self._blocked = False
        self._slow = False  # something is held back, or must be
        self._paused = 0
        self._ended = False
        self._introduced: set[int] = set()
        self._order = 0
        self._held = HeldEvents(session.pipeline.limits.event_queue_bytes)
        self._full: set[Interest] = set()  # emitters wait for them
        self._idle: Gate | None = None
        # Longer frames are looked at for each session: over the peer's limit, or to be compressed for it.
        self._unchecked = min(_BIG_BYTES, session.outgoing.peer_max_message, session.codecs.compress_from + 11)
        self.written = 0
        """Frames written so far."""

    @property
    def held(self) -> int:
        """Events that are held back, each counted for every subscription that it is held for."""
        return self._held.count

    @property
    def pending(self) -> bool:
        """Whether something is not written yet."""
        return bool(self._frames or self._held.count)

    @property
    def held_bytes(self) -> int:
        """The same in bytes."""
        return self._held.bytes

    # -- what the peer wants

    def add(self, number: int, pattern: str, policy: str, max_queue: int, key: str | None) -> int:
        """The peer subscribes; the queue that it gets. RpcError says what is wrong."""
        limits = self._session.pipeline.limits
        if number in self.interests:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"subscription {number} is there already")
        if key is not None and len(key.encode(errors="replace")) > _MAX_KEY_BYTES:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"key: at most {_MAX_KEY_BYTES} bytes")
        if self._ended:
            raise RpcError(StatusCode.FAILED_PRECONDITION, "the events substream is over on this session")
        if len(self.interests) >= limits.max_subscriptions:
            text = f"max_subscriptions is {limits.max_subscriptions}: subscribe to wider patterns"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
        queue = min(max(max_queue, 1), limits.max_event_queue)
        self.interests[number] = Interest(number, pattern, policy, queue, key)
        self._wanted.clear()
        return queue

    def remove(self, number: int) -> None:
        """The peer unsubscribes; what was held for it is not wanted any more."""
        interest = self.interests.pop(number, None)
        if interest is not None:
            self._wanted.clear()
            self._paused -= interest.paused
            self._held.forget(interest)
            self._full.discard(interest)
            if interest.gate is not None:
                interest.gate.open_all()
            self._after_taking()

    def flow(self, number: int, *, paused: bool) -> None:
        """The subscriber has no room, or has room again."""
        interest = self.interests.get(number)
        if interest is None or interest.paused is paused:
            return
        interest.paused = paused
        if paused:
            self._paused += 1
            self._slow = True
        else:
            self._paused -= 1
            self._held.enlist(interest)
            self._drain_soon()

    def _find(self, topic: str) -> tuple[Interest, ...]:
        if len(self._wanted) >= _MAX_CACHED_TOPICS:
            self._wanted.clear()
        found = tuple(interest for interest in self.interests.values() if interest.matches(topic))
        self._wanted[topic] = found
        return found

    # -- the path of an event

    def offer(self, event: OutgoingEvent) -> bool:
        """Send ``event`` if the peer wants it; False when it does not. Who must be waited for is in ``event.full``."""
        topic = event.topic
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = self._find(topic)
        if not wanted:
            return False
        frame = event.frames.get(self._session.codecs.out_key)
        if frame is None or len(frame) > self._unchecked:
            frame = event.encode(self._session)
        if self._slow:
            self._offer_slowly(event, wanted, frame)
            return True
        number = event.number
        if number not in self._introduced and number != FULL_NAME:
            self._introduce(number, topic)
        frames = self._frames
        frames.append(frame)
        if not self._scheduled:
            self._scheduled = True
            self._session.loop.call_soon(self._flush)
        if len(frames) >= FRAMES_PER_WRITE or len(frame) > _BIG_BYTES:
            self._write()
        return True

    def _introduce(self, number: int, topic: str) -> None:
        self._introduced.add(number)
        self._frames.append(encode_topic(topic.encode(), number))

    def _offer_slowly(self, event: OutgoingEvent, wanted: tuple[Interest, ...], frame: bytes) -> None:
        self._order += 1
        ready = []
        for interest in wanted:
            if self._blocked or interest.paused or interest.queue:
                self._hold(interest, event, frame)
            else:
                ready.append(interest)
        if ready:
            self._put(event.topic, frame, ready)

    def _put(self, topic: str, frame: bytes, takers: list[Interest]) -> None:
        """Queue ``frame`` for ``takers``, who may be some of those who want it."""
        number = _topic_numbers.get(topic)
        if number is not None and number not in self._introduced:
            self._introduce(number, topic)
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = self._find(topic)
        if len(takers) == len(wanted):
            self._frames.append(frame)
        else:
            self._frames += address_event(frame, [interest.number for interest in takers])
        if len(self._frames) >= FRAMES_PER_WRITE or len(frame) > _BIG_BYTES:
            self._write()
        else:
            self._write_soon()

    def _write_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._session.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._frames:
            self._write()

    def _write(self, *, end: bool = False) -> None:
        frames = self._frames
        self._frames = []
        self.written += len(frames)
        substream = self._substream
        if self._session.disconnected or self._ended:
            return
        if substream is None:
            substream = self._substream = self._session.connection.open_substream(Priority.NORMAL)
            substream.start(self)
            frames.insert(0, encode_substream_head(SubstreamKind.EVENTS, Priority.NORMAL, 0))
        whole: list[Buffer] = frames if any(len(frame) > _BIG_BYTES for frame in frames) else [b"".join(frames)]
        self._ended = end
        if not substream.write(whole, end):
            self._blocked = self._slow = True
        self._session.connection.flush()

    # -- a slow peer

    def _hold(self, interest: Interest, event: OutgoingEvent, frame: bytes) -> None:
        if not self._held.hold(interest, self._order, event.topic, event.payload, frame):
            text = f"the subscription to {interest.pattern!r} did not keep up, and its policy is disconnect"
            self._session.loop.call_soon(self._disconnect, text)
        elif interest.policy == "block" and self._held.has_too_much(interest):
            event.full.append((self, interest))

    def _disconnect(self, text: str) -> None:
        if not self._session.disconnected:
            _logger.warning("%s: %s", self._session.peer, text)
            self._session.close_now(CloseCode.SLOW, text)

    def _drain_soon(self) -> None:
        if not self._draining:
            self._draining = True
            self._session.loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Send what was held, in the order in which it was emitted, as far as there is room, one slice per turn."""
        self._draining = False
        held = self._held
        for _ in range(_EVENTS_PER_TURN):
            if self._blocked:
                break
            found = held.next()
            if found is None:
                self._tell_dropped()
                break
            first, takers = found
            for taker in takers:
                if taker.dropped:
                    self._report(taker)
            self._put(first.topic, first.frame, takers)
        else:
            self._drain_soon()
        self._after_taking()

    def _after_taking(self) -> None:
        """Less is held: some who waited for that may go on."""
        for interest in [one for one in self._full if not self._held.has_too_much(one)]:
            self._full.discard(interest)
            if interest.gate is not None:
                interest.gate.open_all()
        self._slow = self._blocked or self._paused > 0 or self._held.count > 0
        if self._idle is not None and not self._held.count:
            self._idle.open_all()

    def _tell_dropped(self) -> None:
        for interest in list(self._held.untold.values()):
            self._report(interest)

    def _report(self, interest: Interest) -> None:
        """Tell the subscriber what was dropped since it was told last."""
        self._held.untold.pop(interest.serial, None)
        for reason, count in interest.dropped.items():
            self._frames.append(encode_dropped(interest.number, POLICIES.index(reason), count))
        interest.dropped.clear()
        self._write_soon()

    async def wait_for(self, interest: Interest) -> None:
        """Wait until a subscription with the policy ``block`` holds no more than it may.

        A peer that takes nothing at all for ``event_stall_s`` loses its session: else it would stop everybody who emits
        what it has subscribed to.
        """
        session = self._session
        patience = session.pipeline.limits.event_stall_s or None
        while self._held.has_too_much(interest) and self.interests.get(interest.number) is interest:
            if interest.gate is None:
                interest.gate = Gate(session.loop)
            self._full.add(interest)
            taken = interest.taken
            try:
                async with asyncio.timeout(patience):
                    await interest.gate.wait()
            except TimeoutError:
                if interest.taken == taken:
                    text = f"the subscription to {interest.pattern!r} took no event in event_stall_s ({patience:g} s)"
                    self._disconnect(text)

    async def settled(self) -> None:
        """Wait until nothing is held back any more."""
        while self._held.count:
            if self._idle is None:
                self._idle = Gate(self._session.loop)
            await self._idle.wait()

    async def sync(self, number: int) -> None:
        """Write SYNC behind everything emitted so far, held events included."""
        await self.settled()
        self._tell_dropped()
        self._frames.append(encode_sync(number))
        self._write()

    def finish(self) -> None:
        """End the substream behind the last event, when nothing is held: from here on nothing is wanted.

        The peer waits for this end before it closes a session that drains.
        """
        if not self._ended:
            self._tell_dropped()
            self._write(end=True)
            self.interests.clear()
            self._wanted.clear()

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more: the substream was ended by us, or stopped by the peer."""
        return self._ended

    def close(self, error: CallError | RpcError) -> None:
        """The session has ended: emitters who wait are told."""
        for interest in self.interests.values():
            interest.queue.clear()
        for interest in self._full:
            if interest.gate is not None:
                interest.gate.fail(error)
        if self._idle is not None:
            self._idle.fail(error)
        self._full.clear()
        self._held.clear()
        self.interests.clear()
        self._wanted.clear()
        self._frames.clear()

    # -- what the substream calls

    def on_data(self, data: Buffer) -> None:
        """The peer writes nothing here; what comes is dropped."""
        if self._substream is not None:
            self._substream.consume(len(data))

    def on_end(self) -> None:
        """As it should be: the peer's direction is empty."""

    def on_reset(self, code: int) -> None:
        """As good as its end."""

    def on_stop(self, code: int) -> None:
        """The peer reads no events any more: nothing is wanted, now or later."""
        self._ended = True
        self._frames.clear()
        for number in list(self.interests):
            self.remove(number)
        if self._substream is not None:
            self._substream.reset(code)

    def on_writable(self) -> None:
        """There is room again."""
        self._blocked = False
        self._drain()
