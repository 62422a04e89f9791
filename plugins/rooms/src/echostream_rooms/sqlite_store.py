"""The SQL of the backplane ``sqlite``: everything here runs on its one worker thread.

All messages and signals of all rooms stand in one table, ``feed``, numbered in the order in which they were committed:
writers take turns (BEGIN IMMEDIATE), so a node that reads behind the last number that it has seen misses nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from echostream_rooms.backplane import Page, Record, Retention

__all__ = ["Store"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS logs (
    room TEXT PRIMARY KEY, epoch TEXT NOT NULL, top INTEGER NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS logs_by_use ON logs (used);
CREATE TABLE IF NOT EXISTS feed (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, room TEXT NOT NULL, offset INTEGER NOT NULL, at REAL NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS feed_by_offset ON feed (room, offset);
CREATE INDEX IF NOT EXISTS signals_by_age ON feed (at) WHERE offset = 0;
CREATE INDEX IF NOT EXISTS messages_by_age ON feed (at) WHERE offset > 0;
CREATE TABLE IF NOT EXISTS members (
    number INTEGER PRIMARY KEY AUTOINCREMENT, room TEXT NOT NULL, member TEXT NOT NULL, node TEXT NOT NULL,
    info BLOB NOT NULL, will BLOB NOT NULL, UNIQUE (room, member));
CREATE INDEX IF NOT EXISTS members_by_node ON members (node);
CREATE TABLE IF NOT EXISTS nodes (node TEXT PRIMARY KEY, seen REAL NOT NULL) WITHOUT ROWID;
"""
_FORMAT: Final = 1
_BUSY_S: Final = 5.0
"""How long to wait for another process that writes."""
_LINGER_S: Final = 10.0
"""What is not history any more stays in the file for so long: other nodes may not have read it yet."""
_USE_S: Final = 600.0
"""How exactly the last use of a log is written down."""
_FORGET_S: Final = 86_400.0
"""A log without messages and members is forgotten after so long, and its epoch ends: a day covers who comes back."""
_TRIM_EVERY: Final = 16
"""Appends to a room between two clean-ups of its part of the file."""

Job = Callable[["Store"], object]


class Store:
    """One connection to the file. Not for more than one thread."""

    def __init__(self, path: str, *, synchronous: str, lease_s: float, clock: Callable[[], float]) -> None:
        """Opens the file, or makes it. sqlite3.Error when it is none of ours."""
        self._clock = clock
        self._lease_s = lease_s
        self._node = secrets.token_hex(8)
        self._appends: dict[str, int] = {}
        self._own: dict[tuple[str, str], tuple[bytes, bytes, bytes]] = {}  # members of this node: info, will, joined
        self._longest_s = 0.0  # of all that this node keeps messages
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(synchronous)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, synchronous: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={synchronous}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _FORMAT):
            raise sqlite3.DatabaseError(f"the file has format {version}, this version reads {_FORMAT}")
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version={_FORMAT}")
        self._seen = self._last_number()
        db.execute("INSERT INTO nodes VALUES (?, ?)", (self._node, self._clock()))

    def close(self) -> None:
        """End the members of this node, and close the file."""
        try:
            with self._transaction():
                self._end_node(self._node)
        finally:
            self._db.close()

    def run(self, jobs: Sequence[Job]) -> tuple[list[object], list[tuple[str, Record]]]:
        """Do ``jobs`` in one transaction: their results, and the records that are new since the last time."""
        with self._transaction():
            results = [job(self) for job in jobs]
        return results, self.news()

    def news(self) -> list[tuple[str, Record]]:
        """The records, by any node, that are new since the last time; with their rooms."""
        rows = self._db.execute(
            "SELECT feed.seq, feed.room, feed.offset, feed.body, logs.epoch FROM feed LEFT JOIN logs USING (room) "
            "WHERE feed.seq > ? ORDER BY feed.seq",
            (self._seen,),
        ).fetchall()
        if rows:
            self._seen = rows[-1][0]
        return [(room, Record(epoch if offset else "", offset, body)) for _, room, offset, body, epoch in rows]

    # -- jobs

    def append(self, room: str, body: bytes, keep: Retention) -> tuple[str, int]:
        """See ``Backplane.append``."""
        self._longest_s = max(self._longest_s, keep.age_s)
        epoch, top = self._log(room)
        top += 1
        self._db.execute("UPDATE logs SET top = ? WHERE room = ?", (top, room))
        self._db.execute(
            "INSERT INTO feed (room, offset, at, body) VALUES (?, ?, ?, ?)", (room, top, self._clock(), body)
        )
        self._appends[room] = count = self._appends.get(room, 0) + 1
        if count >= _TRIM_EVERY:
            del self._appends[room]
            self._trim(room, top, keep)
        return epoch, top

    def read(self, room: str, after: int, keep: Retention, max_bytes: int) -> Page:
        """See ``Backplane.read``."""
        epoch, top = self._log(room)
        floor = self._floor(room, top, keep)
        records: list[Record] = []
        size = 0
        rows = self._db.execute(
            "SELECT offset, body FROM feed WHERE room = ? AND offset > ? ORDER BY offset", (room, max(after, floor))
        )
        for offset, body in rows:
            size += len(body)
            if records and size > max_bytes:
                break
            records.append(Record(epoch, offset, body))
        rows.close()
        return Page(epoch, top, records, floor)

    def signal(self, room: str, body: bytes) -> None:
        """See ``Backplane.signal``."""
        self._db.execute("INSERT INTO feed (room, offset, at, body) VALUES (?, 0, ?, ?)", (room, self._clock(), body))

    def add_member(self, room: str, member: str, info: bytes, will: bytes, joined: bytes, limit: int) -> bool:
        """See ``Backplane.add_member``."""
        if self._db.execute("SELECT count(*) FROM members WHERE room = ?", (room,)).fetchone()[0] >= limit:
            return False
        self._own[room, member] = (info, will, joined)
        self._list_member(room, member)
        return True

    def remove_member(self, room: str, member: str, gone: bytes) -> bool:
        """See ``Backplane.remove_member``."""
        self._own.pop((room, member), None)
        if not self._db.execute("DELETE FROM members WHERE room = ? AND member = ?", (room, member)).rowcount:
            return False
        self.signal(room, gone)
        return True

    def members(self, room: str) -> list[bytes]:
        """See ``Backplane.members``."""
        return [row[0] for row in self._db.execute("SELECT info FROM members WHERE room = ? ORDER BY number", (room,))]

    def renew(self) -> None:
        """Say that this node lives, end those that have not said so for a lease, and drop what nobody can ask for."""
        now = self._clock()
        known = self._db.execute("UPDATE nodes SET seen = ? WHERE node = ?", (now, self._node)).rowcount
        if not known:  # this process stood still for a lease, and others took it for dead
            self._db.execute("INSERT INTO nodes VALUES (?, ?)", (self._node, now))
            for room, member in self._own:
                self._list_member(room, member)
        stale = self._db.execute("SELECT node FROM nodes WHERE seen < ?", (now - self._lease_s,)).fetchall()
        for (node,) in stale:
            self._end_node(node)
        self._db.execute("DELETE FROM feed WHERE offset = 0 AND at < ?", (now - _LINGER_S,))
        self._db.execute(
            "DELETE FROM logs WHERE used < ? AND room NOT IN (SELECT room FROM members) "
            "AND NOT EXISTS (SELECT 1 FROM feed WHERE feed.room = logs.room)",
            (now - _FORGET_S,),
        )
        if self._longest_s:
            self._db.execute("DELETE FROM feed WHERE offset > 0 AND at < ?", (now - self._longest_s - _LINGER_S,))

    # -- the parts

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _last_number(self) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'feed'").fetchone()
        return int(row[0]) if row is not None else 0

    def _log(self, room: str) -> tuple[str, int]:
        now = self._clock()
        row = self._db.execute("SELECT epoch, top, used FROM logs WHERE room = ?", (room,)).fetchone()
        if row is not None:
            if row[2] + _USE_S < now:
                self._db.execute("UPDATE logs SET used = ? WHERE room = ?", (now, room))
            return row[0], row[1]
        epoch = secrets.token_hex(4)
        self._db.execute("INSERT INTO logs VALUES (?, ?, 0, ?)", (room, epoch, now))
        return epoch, 0

    def _floor(self, room: str, top: int, keep: Retention) -> int:
        """The offset above which everything is history."""
        oldest = self._clock() - keep.age_s
        lowest = max(top - keep.count, 0)
        floor = top
        size = 0
        rows = self._db.execute(
            "SELECT offset, length(body), at FROM feed WHERE room = ? AND offset > ? ORDER BY offset DESC",
            (room, lowest),
        )
        for offset, length, at in rows:
            size += length
            if size > keep.size_bytes or at <= oldest:
                break
            floor = offset - 1
        rows.close()
        return floor

    def _trim(self, room: str, top: int, keep: Retention) -> None:
        floor = self._floor(room, top, keep)
        self._db.execute(
            "DELETE FROM feed WHERE room = ? AND offset > 0 AND offset <= ? AND at < ?",
            (room, floor, self._clock() - _LINGER_S),
        )

    def _list_member(self, room: str, member: str) -> None:
        info, will, joined = self._own[room, member]
        self._db.execute(
            "INSERT INTO members (room, member, node, info, will) VALUES (?, ?, ?, ?, ?)",
            (room, member, self._node, info, will),
        )
        self.signal(room, joined)

    def _end_node(self, node: str) -> None:
        for room, will in self._db.execute(
            "SELECT room, will FROM members WHERE node = ? ORDER BY number", (node,)
        ).fetchall():
            self.signal(room, will)
        self._db.execute("DELETE FROM members WHERE node = ?", (node,))
        self._db.execute("DELETE FROM nodes WHERE node = ?", (node,))


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the block fails."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:  # sqlite has rolled back by itself where the disk is full
            self._db.execute("ROLLBACK")
