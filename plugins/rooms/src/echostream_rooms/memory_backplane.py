"""The backplane within one process: no file, no thread, and no wait. What it keeps ends with the process."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable

import msgspec

from echostream_rooms.backplane import Backplane, Page, Receive, Record, Retention

__all__ = ["MemoryBackplane", "MemoryOptions"]

_logger = logging.getLogger("echostream.rooms")


class MemoryOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The options of ``backplane="memory"``."""

    max_logs: int = 10_000
    """Logs that are kept. Beyond, the one unused for longest whose room is empty is forgotten: its epoch ends."""


class _Log:
    """One room's messages."""

    __slots__ = ("epoch", "records", "size", "top", "trimmed")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.top = 0
        self.size = 0
        self.trimmed = 0
        """Offset of the newest message that is not kept any more."""
        self.records: deque[tuple[float, Record]] = deque()

    def trim(self, keep: Retention, now: float) -> None:
        records = self.records
        while records:
            at, oldest = records[0]
            if len(records) <= keep.count and self.size <= keep.size_bytes and at + keep.age_s > now:
                return
            records.popleft()
            self.size -= len(oldest.body)
            self.trimmed = oldest.offset


class MemoryBackplane(Backplane):
    """For the nodes of one process, which share the object."""

    def __init__(self, options: MemoryOptions | None = None, *, clock: Callable[[], float] | None = None) -> None:
        """``clock`` gives seconds; by default it is the event loop's."""
        self._max_logs = (options or MemoryOptions()).max_logs
        self._clock = clock
        self._logs: dict[str, _Log] = {}  # the one unused for longest first
        self._receivers: dict[str, list[Receive]] = {}
        self._members: dict[str, dict[str, bytes]] = {}

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Forget everything."""
        self._logs.clear()
        self._receivers.clear()
        self._members.clear()

    async def append(self, room: str, body: bytes, keep: Retention) -> tuple[str, int]:
        """See ``Backplane.append``."""
        log = self._log(room)
        log.top += 1
        record = Record(log.epoch, log.top, body)
        log.records.append((self._now(), record))
        log.size += len(body)
        log.trim(keep, self._now())
        self._hand_on(room, record)
        return log.epoch, record.offset

    async def read(self, room: str, after: int, keep: Retention, max_bytes: int) -> Page:
        """See ``Backplane.read``."""
        log = self._log(room)
        log.trim(keep, self._now())
        found: list[Record] = []
        size = 0
        for _, record in log.records:
            if record.offset > after:
                size += len(record.body)
                if found and size > max_bytes:
                    break
                found.append(record)
        return Page(log.epoch, log.top, found, log.trimmed)

    async def signal(self, room: str, body: bytes) -> None:
        """See ``Backplane.signal``."""
        self._hand_on(room, Record("", 0, body))

    async def subscribe(self, room: str, receive: Receive) -> None:
        """See ``Backplane.subscribe``."""
        self._receivers.setdefault(room, []).append(receive)

    async def unsubscribe(self, room: str, receive: Receive) -> None:
        """See ``Backplane.unsubscribe``."""
        receivers = self._receivers.get(room, [])
        if receive in receivers:
            receivers.remove(receive)
            if not receivers:
                del self._receivers[room]

    async def add_member(self, room: str, member: str, info: bytes, will: bytes, joined: bytes, limit: int) -> bool:
        """See ``Backplane.add_member``."""
        members = self._members.get(room, {})
        if len(members) >= limit:
            return False
        members[member] = info
        self._members[room] = members
        await self.signal(room, joined)
        return True

    async def remove_member(self, room: str, member: str, gone: bytes) -> bool:
        """See ``Backplane.remove_member``."""
        members = self._members.get(room, {})
        if members.pop(member, None) is None:
            return False
        if not members:
            del self._members[room]
        await self.signal(room, gone)
        return True

    async def members(self, room: str) -> list[bytes]:
        """See ``Backplane.members``."""
        return list(self._members.get(room, {}).values())

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()

    def _log(self, room: str) -> _Log:
        log = self._logs.pop(room, None)
        if log is None:
            log = _Log()
            if len(self._logs) >= self._max_logs:
                self._forget_one()
        self._logs[room] = log
        return log

    def _forget_one(self) -> None:
        for room in self._logs:
            if room not in self._receivers and room not in self._members:
                del self._logs[room]
                return

    def _hand_on(self, room: str, record: Record) -> None:
        for receive in tuple(self._receivers.get(room, ())):
            try:
                receive(record)
            except Exception:
                _logger.exception("%s: a receiver of the backplane failed", room)
