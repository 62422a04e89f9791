"""Records what an events reader calls, as tuples."""

from __future__ import annotations

from echostream_core.wire.events import EventsReader
from echostream_core.wire.limits import Limits

__all__ = ["EventsRecorder", "events_reader"]


class EventsRecorder:
    """A receiver that writes down every call; what it is lent it copies."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_event(self, topic: str, codec: int, payload: memoryview, subscriptions: tuple[int, ...]) -> None:
        self.calls.append(("event", topic, codec, bytes(payload).hex(), list(subscriptions)))

    def on_dropped(self, subscription: int, reason: int, count: int) -> None:
        self.calls.append(("dropped", subscription, reason, count))

    def on_sync(self, number: int) -> None:
        self.calls.append(("sync", number))


def events_reader(limits: Limits | None = None) -> tuple[EventsReader, EventsRecorder]:
    """A reader and its recorder."""
    recorder = EventsRecorder()
    return EventsReader(recorder, limits or Limits()), recorder
