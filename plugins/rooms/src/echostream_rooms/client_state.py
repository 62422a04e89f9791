"""What a client knows of a room, without any I/O: where it is in the log, who is there, and what waits to be read.

The state is *live* or *syncing*. While it syncs, what arrives is parked; the answer of ``rooms.join`` comes first, then
what was parked, each compared with the offset reached. A hole between two offsets makes it sync again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from echostream_rooms.records import Member, Message, Presence

__all__ = ["Recovery", "RoomEvent", "RoomState"]


class Recovery(msgspec.Struct, frozen=True):
    """Messages were missed, and this is what became of them."""

    recovered: bool
    """True: all of them follow. False: they are not kept any more, or the log began anew."""
    after: int
    """Offset of the last message before the hole."""
    until: int
    """The next message has a larger offset than this."""


RoomEvent = Message | Presence | Recovery


class RoomState:
    """One room as one client sees it. ``resync`` is called when it must ask for what it missed."""

    def __init__(self, max_queue: int, resync: Callable[[], None]) -> None:
        self.epoch = ""
        self.offset = 0
        """Of the last message that was put into the queue."""
        self.joined = False
        self.recovered = False
        """Whether the last answer had all that was missed."""
        self.members: dict[str, Member] = {}
        self.own: list[str] = []
        """The ids that this client has had, the newest last."""
        self.queue: deque[RoomEvent] = deque()
        self.syncing = True
        self._max_queue = max_queue
        self._resync = resync
        self._parked: deque[dict[str, Any]] = deque()
        self._behind = False  # the queue is full: nothing is taken before half of it has been read

    @property
    def since(self) -> tuple[str, int] | None:
        """From where to recover; None before the first answer."""
        return (self.epoch, self.offset) if self.joined else None

    # -- what arrives

    def on_event(self, item: dict[str, Any]) -> None:
        """A live event."""
        if self._behind:
            return
        if self.syncing:
            if len(self._parked) >= self._max_queue:
                self._parked.popleft()  # it leaves a hole, and holes are noticed
            self._parked.append(item)
            return
        self._take(item)

    def begin_sync(self, *, reconnected: bool = False) -> None:
        """From now on what arrives is parked, until ``finish_sync``."""
        self.syncing = True
        if reconnected:  # who came and went in the session that ended is in the answer, and may be over since
            self._parked = deque(item for item in self._parked if "offset" in item)

    def on_answer(self, answer: dict[str, Any]) -> bool:
        """An answer of ``rooms.join`` or ``rooms.history``; True when another page is to be asked for."""
        if "member" in answer:
            self._on_membership(answer)
            self.recovered = bool(answer["recovered"])
        before = self.offset
        fresh = not self.joined
        if fresh:
            self.joined = True
            self.epoch = answer["epoch"]
        elif not answer["recovered"]:
            self.recovered = False
            self._skip_to(answer)
            return False
        messages = answer["messages"]
        if fresh:
            self.offset = messages[0]["offset"] - 1 if messages else answer["offset"]
        elif before < answer["offset"] and "member" in answer:
            self._put(Recovery(recovered=True, after=before, until=before))
        for item in messages:
            if not self._take_message(item):
                return False
        return bool(answer["more"])

    def finish_sync(self) -> None:
        """What was parked follows; then it is live, unless that has a hole, too."""
        self.syncing = False
        while self._parked and not self.syncing:
            self._take(self._parked.popleft())

    def pop(self) -> RoomEvent:
        """The next for the application; there is one."""
        event = self.queue.popleft()
        if self._behind and len(self.queue) <= self._max_queue // 2:
            self._behind = False
            self._need_sync()
        return event

    # -- the parts

    def _need_sync(self) -> None:
        self.syncing = True
        self._resync()

    def _take(self, item: dict[str, Any]) -> None:
        kind = item["kind"]
        if kind in ("message", "hidden"):
            offset = item["offset"]
            if item["epoch"] != self.epoch:
                self._need_sync()  # the answer knows which of the two is the newer one, and has the message
            elif offset > self.offset + 1:
                self._parked.appendleft(item)
                self._need_sync()
            else:
                self._take_message(item)
        elif kind == "behind":
            self._need_sync()
        else:
            self._take_presence(kind, msgspec.convert(item["member"], Member))

    def _take_message(self, item: dict[str, Any]) -> bool:
        """False when there is no room for it."""
        offset = item["offset"]
        if offset <= self.offset:
            return True
        if item["kind"] == "message" and not self._put(
            Message(offset=offset, name=item["name"], payload=item["payload"], sender=item["sender"])
        ):
            return False
        self.offset = offset
        return True

    def _take_presence(self, kind: str, member: Member) -> None:
        if member.id in self.own:
            return
        if kind == "joined":
            if member.id not in self.members and self._put(Presence(kind="joined", member=member)):
                self.members[member.id] = member
        elif member.id in self.members and self._put(
            Presence(kind="lost" if kind == "lost" else "left", member=member)
        ):
            del self.members[member.id]

    def _on_membership(self, answer: dict[str, Any]) -> None:
        first = not self.own
        if answer["member"] not in self.own:
            self.own.append(answer["member"])
            del self.own[:-32]
        listed: dict[str, Member] = {one.id: one for one in _members(answer["members"])}
        if first:
            self.members = {name: one for name, one in listed.items() if name not in self.own}
            return
        for name in [name for name in self.members if name not in listed]:
            self._take_presence("left", self.members[name])
        for one in listed.values():
            self._take_presence("joined", one)

    def _skip_to(self, answer: dict[str, Any]) -> None:
        """What was missed is lost: go on with the oldest message that is parked, or behind the newest there is."""
        before, epoch, until = self.offset, answer["epoch"], answer["offset"]
        least = before if epoch == self.epoch else 0
        for item in self._parked:
            if item.get("epoch") == epoch and least < item["offset"] <= until:
                until = item["offset"] - 1
                break
        if epoch == self.epoch and until == before:
            self.recovered = True  # what is not kept any more came live
        elif self._put(Recovery(recovered=False, after=before, until=until)):
            self.epoch, self.offset = epoch, until

    def _put(self, event: RoomEvent) -> bool:
        if self._behind:
            return False
        if len(self.queue) >= self._max_queue:
            self._behind = True
            self._parked.clear()
            return False
        self.queue.append(event)
        return True


def _members(listed: object) -> Iterable[Member]:
    return msgspec.convert(listed, list[Member])
