"""The backplane in a file: history and epochs outlive the process, and the processes of one machine may share it.

What several coroutines ask for at the same time is done in one transaction: one wait for the disk for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from echostream_core import ResourceClosed
from echostream_rooms.backplane import Backplane, BackplaneError, Page, Receive, Record, Retention
from echostream_rooms.sqlite_store import Job, Store

__all__ = ["SqliteBackplane", "SqliteOptions"]

T = TypeVar("T")
Positive = Annotated[float, msgspec.Meta(gt=0)]
_logger = logging.getLogger("echostream.rooms")


class SqliteOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The options of ``backplane="sqlite"``."""

    path: str
    """The file; its folder must be there. Not on a network file system: the locks of WAL do not work there."""
    poll_interval_s: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    """How often to look for what other processes wrote; 0: this process is the only one."""
    lease_s: Positive = 15.0
    """The members of a process that was killed are lost after so long."""
    synchronous: Literal["full", "normal"] = "full"
    """``normal`` waits less for the disk: a power failure, though not a killed process, may cost the last messages."""


class SqliteBackplane(Backplane):
    """For nodes of one process, or of several that name the same file."""

    def __init__(self, options: SqliteOptions, *, clock: Callable[[], float] = time.time) -> None:
        """``clock`` gives seconds since the epoch; all processes must have the same."""
        self._options = options
        self._clock = clock
        self._store: Store | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="echostream-rooms")
        self._receivers: dict[str, list[Receive]] = {}
        self._waiting: list[tuple[Job, asyncio.Future[Any]]] = []
        self._worker: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file, or make it. BackplaneError says what is wrong with it."""
        if self._closed:
            raise ResourceClosed(f"{self._options.path}: this backplane was closed")
        if self._opening is None or (self._opening.done() and self._store is None):
            self._opening = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        options = self._options
        make = partial(
            Store,
            options.path,
            synchronous=options.synchronous,
            lease_s=options.lease_s,
            clock=self._clock,
        )
        loop = asyncio.get_running_loop()
        try:
            self._store = await loop.run_in_executor(self._thread, make)
        except sqlite3.Error as error:
            raise BackplaneError(f"{options.path}: {error}; is its folder there, and writable?") from error
        self._poller = loop.create_task(self._poll())

    async def close(self) -> None:
        """See ``Backplane.close``."""
        if self._closed:
            return
        self._closed = True
        if self._opening is not None:
            await asyncio.wait({self._opening})
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait({self._poller})
        if self._worker is not None:
            await asyncio.wait({self._worker})
        store, self._store = self._store, None
        try:
            if store is not None:
                await asyncio.get_running_loop().run_in_executor(self._thread, store.close)
        except sqlite3.Error as error:
            raise BackplaneError(f"{self._options.path}: {error}") from error
        finally:
            self._thread.shutdown(wait=False)

    async def append(self, room: str, body: bytes, keep: Retention) -> tuple[str, int]:
        """See ``Backplane.append``."""
        return await self._do(lambda store: store.append(room, body, keep))

    async def read(self, room: str, after: int, keep: Retention, max_bytes: int) -> Page:
        """See ``Backplane.read``."""
        return await self._do(lambda store: store.read(room, after, keep, max_bytes))

    async def signal(self, room: str, body: bytes) -> None:
        """See ``Backplane.signal``."""
        await self._do(lambda store: store.signal(room, body))

    async def subscribe(self, room: str, receive: Receive) -> None:
        """See ``Backplane.subscribe``."""
        await self._do(lambda store: None)  # what was committed before is not for this subscriber
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
        return await self._do(lambda store: store.add_member(room, member, info, will, joined, limit))

    async def remove_member(self, room: str, member: str, gone: bytes) -> bool:
        """See ``Backplane.remove_member``."""
        return await self._do(lambda store: store.remove_member(room, member, gone))

    async def members(self, room: str) -> list[bytes]:
        """See ``Backplane.members``."""
        return await self._do(lambda store: store.members(room))

    # -- the thread

    async def _do(self, job: Callable[[Store], T]) -> T:
        """Have ``job`` done with the next transaction; what is new is handed on before this returns."""
        if self._closed or self._store is None:
            raise ResourceClosed(f"{self._options.path}: this backplane is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((job, future))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work(self._store))
        return cast("T", await future)

    async def _work(self, store: Store) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results, news = await loop.run_in_executor(self._thread, store.run, [job for job, _ in batch])
            except Exception as error:
                problem: Exception = error
                if isinstance(error, sqlite3.Error):
                    problem = BackplaneError(f"{self._options.path}: {error}")
                    problem.__cause__ = error
                for _, future in batch:
                    if not future.done():
                        future.set_exception(problem)
                continue
            self._hand_on(news)
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _poll(self) -> None:
        interval = self._options.poll_interval_s
        renewal = self._options.lease_s / 3
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                if loop.time() >= due:
                    due = loop.time() + renewal
                    await self._do(lambda store: store.renew())
                elif self._receivers and interval and self._store is not None and not self._waiting:
                    self._hand_on(await loop.run_in_executor(self._thread, self._store.news))
            except (BackplaneError, sqlite3.Error) as error:
                _logger.error("%s: %s; trying again", self._options.path, error)
            await asyncio.sleep(min(interval or renewal, renewal))

    def _hand_on(self, news: list[tuple[str, Record]]) -> None:
        for room, record in news:
            for receive in tuple(self._receivers.get(room, ())):
                try:
                    receive(record)
                except Exception:
                    _logger.exception("%s: a receiver of the backplane failed", room)
