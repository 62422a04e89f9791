"""Events that are held back for a peer that does not keep up: a queue per subscription, one bound in bytes for all.

Events leave in the order in which they were emitted, whatever subscription they are held for. A heap knows the head of
each queue, so that taking one costs the same with one subscription and with a thousand.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final

from echostream_core.engine.gate import Gate
from echostream_core.engine.latest_queue import LatestQueue
from echostream_core.engine.subscriptions import conflation_key
from echostream_core.wire.topics import compile_pattern

__all__ = ["Held", "HeldEvents", "Interest"]

_serials: Final = count()
_MAX_STALE: Final = 1_024
"""Entries of the heap that stand for nothing any more: a peer may subscribe and unsubscribe for ever."""


class Held:
    """One event in the queue of one subscription."""

    __slots__ = ("frame", "order", "topic")

    def __init__(self, order: int, topic: str, frame: bytes) -> None:
        self.order = order
        """Its place among all events of the session."""
        self.topic = topic
        self.frame = frame


class Interest:
    """A subscription of the peer, as the sender of events sees it."""

    __slots__ = (
        "dropped",
        "gate",
        "key",
        "listed",
        "matches",
        "max_queue",
        "number",
        "paused",
        "pattern",
        "policy",
        "queue",
        "serial",
        "taken",
    )

    def __init__(self, number: int, pattern: str, policy: str, max_queue: int, key: str | None) -> None:
        self.number = number
        self.pattern = pattern
        self.matches: Callable[[str], bool] = compile_pattern(pattern)
        self.policy = policy
        self.max_queue = max_queue
        self.key = key
        """Field of the payload by which events are conflated; None: by topic."""
        self.paused = False
        """The subscriber has told us to hold its events."""
        self.queue: deque[Held] | LatestQueue[Held] = LatestQueue() if policy == "conflate" else deque()
        self.dropped: dict[str, int] = {}
        """Not told to the peer yet, by reason."""
        self.gate: Gate | None = None
        """Where emitters wait; None: nobody has waited yet."""
        self.listed = False
        """The heap has an entry for the head of the queue."""
        self.serial = next(_serials)
        self.taken = 0
        """Held events that were sent after all: whether it moves on."""


class HeldEvents:
    """What is held for the subscriptions of one session."""

    __slots__ = ("_heap", "_max_bytes", "_stale", "bytes", "count", "untold")

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` for all subscriptions together; a single event may be larger."""
        self._max_bytes = max_bytes
        self._heap: list[tuple[int, int, Interest]] = []
        self._stale = 0  # entries of interests that were given up, at most
        self.bytes = 0
        """Of all frames; one that several subscriptions hold counts for each."""
        self.count = 0
        """Events, in all queues."""
        self.untold: dict[int, Interest] = {}
        """Subscriptions whose peer has not been told yet what was dropped, by serial."""

    def hold(self, interest: Interest, order: int, topic: str, payload: object, frame: bytes) -> bool:
        """Hold an event for ``interest``, by its policy; False when that is ``disconnect`` and there is no room."""
        held = Held(order, topic, frame)
        queue = interest.queue
        if isinstance(queue, LatestQueue):
            self._hold_latest(interest, queue, held, payload)
            return True
        size = len(frame)
        if interest.policy == "drop_oldest":
            while queue and self._has_no_room(interest, size):
                self._remove_first(interest)
                self.drop(interest)
        if interest.policy != "block" and self._has_no_room(interest, size):
            self.drop(interest)
            return interest.policy != "disconnect"
        queue.append(held)
        self.bytes += size
        self.count += 1
        self.enlist(interest)
        return True

    def _hold_latest(self, interest: Interest, queue: LatestQueue[Held], held: Held, payload: object) -> None:
        older = queue.put(conflation_key(held.topic, payload, interest.key), held)
        self.bytes += len(held.frame)
        self.count += 1
        if older is not None:
            held.order = older.order  # it has the older one's place
            self.bytes -= len(older.frame)
            self.count -= 1
            self.drop(interest)
        while queue and (len(queue) > interest.max_queue or (self.bytes > self._max_bytes and self.count > 1)):
            self._remove_first(interest)
            self.drop(interest)
        self.enlist(interest)

    def drop(self, interest: Interest) -> None:
        """Count one more event that ``interest`` does not get, by its policy."""
        interest.dropped[interest.policy] = interest.dropped.get(interest.policy, 0) + 1
        self.untold[interest.serial] = interest

    def has_too_much(self, interest: Interest) -> bool:
        """Whether emitters have to wait for a subscription with the policy ``block``."""
        return len(interest.queue) > interest.max_queue or (bool(interest.queue) and self.bytes > self._max_bytes)

    def _has_no_room(self, interest: Interest, size: int) -> bool:
        """Also an event larger than the bound finds room, when nothing else is held."""
        return len(interest.queue) >= interest.max_queue or (self.count > 0 and self.bytes + size > self._max_bytes)

    def enlist(self, interest: Interest) -> None:
        """Let ``next`` find what is held for ``interest``, unless it is paused."""
        if interest.queue and not interest.listed and not interest.paused:
            interest.listed = True
            heapq.heappush(self._heap, (interest.queue[0].order, interest.serial, interest))

    def next(self) -> tuple[Held, list[Interest]] | None:
        """The oldest event that may be sent, and who gets it now; it is held for them no more. None: there is none."""
        heap = self._heap
        while heap:
            order, _, interest = heapq.heappop(heap)
            interest.listed = False
            if interest.paused or not interest.queue:
                continue
            first = interest.queue[0]
            if first.order != order:  # the head that was listed has been dropped
                self.enlist(interest)
                continue
            takers = [interest]
            others: list[Interest] = []
            while heap and heap[0][0] == order:
                other = heapq.heappop(heap)[2]
                other.listed = False
                if other.paused or not other.queue:
                    continue
                same = other.queue[0].order == order and other.queue[0].frame is first.frame
                (takers if same else others).append(other)
            for other in others:  # it is conflated: a newer event has this place
                self.enlist(other)
            for taker in takers:
                self._remove_first(taker)
                taker.taken += 1
                self.enlist(taker)
            return first, takers
        return None

    def _remove_first(self, interest: Interest) -> None:
        self.bytes -= len(interest.queue.popleft().frame)
        self.count -= 1

    def forget(self, interest: Interest) -> None:
        """Hold nothing for ``interest`` any more."""
        while interest.queue:
            self._remove_first(interest)
        self.untold.pop(interest.serial, None)
        self._stale += interest.listed
        if self._stale > _MAX_STALE:
            self._stale = 0
            for _, _, listed in self._heap:
                listed.listed = bool(listed.queue)
            self._heap = [entry for entry in self._heap if entry[2].listed]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Hold nothing at all; the interests are given up with it."""
        self._heap.clear()
        self.untold.clear()
        self.bytes = self.count = 0
