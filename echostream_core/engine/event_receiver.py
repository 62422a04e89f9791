"""The peer's events: read at once, decoded once, and given to every subscription that matches."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from echostream_core.engine.subscriptions import Event, Subscription
from echostream_core.errors import (
    CloseCode,
    ConnectionLost,
    DecodeError,
    EchoStreamError,
    LimitExceeded,
    RemoteProtocolError,
)
from echostream_core.transport import Substream
from echostream_core.types import Buffer
from echostream_core.wire.events import POLICIES, EventsReader, encode_flow, encode_synced
from echostream_core.wire.frames import PACKED

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["EventReceiver"]

_FIRST_NUMBER: Final = 65_536
"""Of subscriptions made while the session lives; lower ones are the places of listeners in SETUP."""
_MAX_CACHED_TOPICS: Final = 1_024
_MAX_SYNCS: Final = 128
_SENDER_BYTES: Final = 1_048_576
"""What a sender may have collected and queued by itself when it hears of a pause, but for one large event."""
_logger = logging.getLogger("echostream.events")


class EventReceiver:
    """The receiving side of one session's events. Also the receiver of the peer's events substream."""

    __slots__ = (
        "_consume",
        "_decoders",
        "_matching",
        "_next_number",
        "_over",
        "_reader",
        "_session",
        "_subscriptions",
        "_substream",
        "_syncs",
        "_due",
        "max_late_bytes",
        "max_queue_bytes",
        "received",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self._decoders = session.codecs.decoders
        self._reader = EventsReader(self, session.pipeline.limits)
        self._subscriptions: dict[int, Subscription] = {}
        self._matching: dict[str, tuple[Subscription, ...]] = {}
        self._next_number = _FIRST_NUMBER
        self._substream: Substream | None = None
        self._over = False
        self._syncs = 0
        self._due: list[int] = []
        limits = session.pipeline.limits
        self.max_queue_bytes = limits.event_queue_bytes
        """What may wait for one subscription, in bytes."""
        self.max_late_bytes = 2 * limits.max_window_bytes + limits.max_message_bytes + _SENDER_BYTES
        """What may still come for a subscription after we have asked for a pause: what the credit has allowed, twice
        because it may grow meanwhile, and what the sender had written before it heard of it."""
        self.received = 0
        """Events read so far."""
        for number, listener in enumerate(session.pipeline.listeners):
            self._register(listener.subscription(), number)

    # -- subscriptions

    def register(self, subscription: Subscription) -> int:
        """Deliver to ``subscription`` from now on; its number. LimitExceeded when there are too many."""
        most = self._session.pipeline.limits.max_subscriptions
        if len(self._subscriptions) >= most:
            raise LimitExceeded(
                f"{subscription.pattern}: max_subscriptions is {most}: use wider patterns",
                limit="max_subscriptions",
                value=len(self._subscriptions) + 1,
                maximum=most,
            )
        number = self._next_number
        self._next_number += 1
        self._register(subscription, number)
        return number

    def _register(self, subscription: Subscription, number: int) -> None:
        subscription.attach(self, number)
        self._subscriptions[number] = subscription
        self._matching.clear()

    def unregister(self, subscription: Subscription) -> None:
        """Deliver to it no more."""
        number = subscription.number_at(self)
        if self._subscriptions.pop(number, None) is not None:
            self._matching.clear()
            subscription.detach(self)
            if self._session.departure.announced:  # no call can end it there, and what is held would keep the peer
                self.flow(number, paused=False)
            self._session.departure.close_if_done()

    def flow(self, number: int, *, paused: bool) -> None:
        """Ask the peer to hold the events of a subscription, or to send them again."""
        self._session.send_control(encode_flow(number, paused=paused))

    def disconnect(self, error: LimitExceeded) -> None:
        """A subscription with the policy ``disconnect`` has too much: end the session, not within this callback."""
        self._session.loop.call_soon(self._slow, error)

    def _slow(self, error: LimitExceeded) -> None:
        if not self._session.disconnected:
            _logger.warning("%s: %s", self._session.peer, error)
            self._session.fail(error, CloseCode.SLOW, str(error)[:500])

    def close(self, error: EchoStreamError) -> None:
        """The session has ended. Subscriptions of a client go on with its next one, but for those that asked to be told
        by the end of the session, when that is why it has ended.
        """
        slow = isinstance(error, ConnectionLost) and error.close_code == CloseCode.SLOW
        subscriptions = list(self._subscriptions.values())
        self._subscriptions.clear()
        self._matching.clear()
        for subscription in subscriptions:
            if subscription.lasting and not (slow and subscription.overflow == "disconnect"):
                subscription.detach(self)
            else:
                subscription.end(error)

    # -- what the reader calls

    def on_event(self, topic: str, codec: int, payload: memoryview, numbers: tuple[int, ...]) -> None:
        """One event."""
        self.received += 1
        if numbers:
            found = tuple(self._subscriptions[number] for number in numbers if number in self._subscriptions)
        else:
            cached = self._matching.get(topic)
            found = self._find(topic) if cached is None else cached
        if not found:
            return
        decode = self._decoders[codec] if codec < len(self._decoders) else self._session.codecs.decoder(codec)
        try:
            if decode is None:
                raise DecodeError(f"its codec {codec & ~PACKED} is not installed here")
            value = decode(payload)
        except DecodeError as error:
            _logger.warning("%s: an event from %s cannot be decoded: %s", topic, self._session.peer, error)
            for subscription in found:
                subscription.count("undecodable")
            return
        event = Event(topic, value, self._session, len(payload))
        for subscription in found:
            subscription.deliver(event)

    def _find(self, topic: str) -> tuple[Subscription, ...]:
        if len(self._matching) >= _MAX_CACHED_TOPICS:
            self._matching.clear()
        found = tuple(one for one in self._subscriptions.values() if one.matches(topic))
        self._matching[topic] = found
        return found

    def on_dropped(self, subscription: int, reason: int, count: int) -> None:
        """The peer's queue was full."""
        if reason >= len(POLICIES):
            raise RemoteProtocolError(f"DROPPED for the reason {reason}, which does not exist")
        found = self._subscriptions.get(subscription)
        if found is not None:
            found.count(POLICIES[reason], count)

    def on_sync(self, number: int) -> None:
        """All events that were emitted before a flush are here: answer when the callbacks have handled them."""
        self._session.count_control()
        if self._syncs + len(self._due) >= _MAX_SYNCS:
            raise RemoteProtocolError(f"more than {_MAX_SYNCS} flushes at once", close_code=CloseCode.LIMIT)
        waiting = [one for one in self._subscriptions.values() if not one.idle]
        if not waiting:
            self._answer(number)
            return
        self._syncs += 1
        self._session.run_handler(self._answer_later(number, waiting))

    async def _answer_later(self, number: int, waiting: list[Subscription]) -> None:
        try:
            for subscription in waiting:
                await subscription.settled()
        finally:
            self._syncs -= 1
        self._answer(number)

    def _answer(self, number: int) -> None:
        """SYNCED; for a peer that does not read its control substream it waits here, where it is counted."""
        if self._session._link.blocked:
            self._due.append(number)
        else:
            self._session.send_control(encode_synced(number))

    def on_flushed(self) -> None:
        """The control substream has room again."""
        due, self._due = self._due, []
        for number in due:
            self._session.send_control(encode_synced(number))

    @property
    def finished(self) -> bool:
        """Whether nothing more can come that anybody here wants."""
        return self._over or not self._subscriptions

    # -- what the substream calls

    def accept(self, substream: Substream) -> EventReceiver:
        """The peer opened its events substream. RemoteProtocolError when it has one already."""
        if self._substream is not None:
            raise RemoteProtocolError("a second events substream")
        self._substream = substream
        self._consume = substream.consume
        substream.write((), end=True)
        return self

    def on_data(self, data: Buffer) -> None:
        """Bytes of the peer."""
        try:
            self._reader.receive(data)
        except RemoteProtocolError as error:
            self._session.on_violation(error)
            return
        self._consume(len(data))

    def on_end(self) -> None:
        """The peer sends no more events."""
        self._over = True
        if not self._reader.between_frames:
            self._session.on_violation(RemoteProtocolError("the events substream ended inside a frame"))
        self._session.departure.close_if_done()

    def on_reset(self, code: int) -> None:
        """The peer gave its events up. What had been on its way may be lost, and nothing more comes."""
        self._over = True
        self._session.count_reset()
        self._session.departure.close_if_done()

    def on_stop(self, code: int) -> None:
        """We write nothing here."""

    def on_writable(self) -> None:
        """We write nothing here."""
