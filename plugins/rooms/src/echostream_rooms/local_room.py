"""One room on one node: the members that are connected here, and what they are sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from echostream_core import Disconnected, Session, emit_to
from echostream_rooms.backplane import Record
from echostream_rooms.records import Member, decode_record, hidden_item

__all__ = ["LocalMember", "LocalRoom", "Spawn", "topic_of"]

Spawn = Callable[[Coroutine[Any, Any, None]], None]
_logger = logging.getLogger("echostream.rooms")


def topic_of(room: str) -> str:
    """The topic of all events of a room."""
    return f"rooms.{room}"


class LocalMember:
    """A member whose session is with this node."""

    __slots__ = ("former", "member", "session")

    def __init__(self, member: Member, session: Session) -> None:
        self.member = member
        self.session = session
        self.former: set[str] = {member.id}
        """This id and those that it says it had before it reconnected: what was hidden from those is so from it."""


class LocalRoom:
    """A room with members here. Everything comes through the backplane, also what they publish themselves."""

    def __init__(self, name: str, spawn: Spawn) -> None:
        self.name = name
        self.topic = topic_of(name)
        self.users = 0
        """Tasks that do something with this room right now: it is not dropped under them."""
        self.lock = asyncio.Lock()
        """Held while somebody comes or goes."""
        self.subscribed = False
        self.members: dict[str, LocalMember] = {}
        self._sessions: dict[Session, str] = {}
        self._behind: set[Session] = set()
        self._spawn = spawn

    def find(self, session: Session) -> LocalMember | None:
        """The member that ``session`` is, or None."""
        member = self._sessions.get(session)
        return None if member is None else self.members[member]

    def add(self, member: LocalMember) -> None:
        """From now on ``member`` is sent everything."""
        self.members[member.member.id] = member
        self._sessions[member.session] = member.member.id

    def remove(self, session: Session) -> LocalMember | None:
        """The session is no member any more; the one it was, or None."""
        self._behind.discard(session)
        member = self._sessions.pop(session, None)
        return None if member is None else self.members.pop(member)

    def receive(self, record: Record) -> None:
        """Send what the backplane hands on to the members here."""
        item, hidden = decode_record(record)
        apart: list[Session] = []
        if record.offset:
            item["epoch"] = record.epoch
            apart = [self.members[name].session for name in hidden if name in self.members]
        else:
            subject = item["member"].get("id") if isinstance(item.get("member"), dict) else None
            if subject in self.members:  # who comes is told by the answer
                apart = [self.members[subject].session]
        if apart or self._behind:
            self._send([one for one in self._sessions if one not in apart and one not in self._behind], item)
            if record.offset:
                told = [one for one in apart if one not in self._behind]
                self._send(told, {**hidden_item(record.offset), "epoch": record.epoch})
        else:
            self._send(self._sessions, item)

    def _send(self, sessions: list[Session] | dict[Session, str], item: dict[str, Any]) -> None:
        emitted = emit_to(sessions, self.topic, item)
        for session, error in emitted.failed.items():
            _logger.warning("%s: %s could not be sent an event: %s", self.name, session.peer, error)
        for session, wait in emitted.behind.items():
            self._behind.add(session)
            self._spawn(self._catch_up(session, wait))

    async def _catch_up(self, session: Session, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A member does not read, and asked for the policy ``block``: it gets no more until it has read what it has.

        Then it is told to ask for the history. The helper of this package asks for another policy.
        """
        try:
            await wait()
        except Disconnected:
            return
        if session in self._behind:
            self._behind.discard(session)
            self._send([session], {"kind": "behind"})
