"""The client's side of rooms: join, iterate over the messages, and recover after each lost connection by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, Final

import msgspec

from echostream_core import (
    ConfigError,
    DeadlineExceeded,
    Disconnected,
    EchoStreamError,
    EndOfStream,
    RemoteError,
    ResourceBusy,
    RpcClient,
    RpcError,
    Session,
    StatusCode,
    Subscription,
)
from echostream_rooms.client_state import RoomEvent, RoomState
from echostream_rooms.local_room import topic_of
from echostream_rooms.records import Member, Message

__all__ = ["JoinedRoom", "Joining", "RoomsClient", "join"]

_MAX_QUEUE: Final = 1_024
_RETRY_S: Final = 1.0
"""Between two attempts to recover while the server says that it cannot right now."""
_REJOIN_S: Final = 30.0
"""How long a message waits until the next server knows of the member who publishes it."""
_logger = logging.getLogger("echostream.rooms")


class RoomsClient:
    """The rooms of one client's server."""

    def __init__(self, client: RpcClient) -> None:
        self.client = client

    def join(
        self,
        room: str,
        *,
        info: object = None,
        last: int = 0,
        since: tuple[str, int] | None = None,
        max_queue: int = _MAX_QUEUE,
    ) -> Joining:
        """Join ``room``: await it, or ``async with rooms.join("lobby") as room``. A client joins a room once at a time.

        ``info`` is what the other members are told of this one. The newest ``last`` messages come first; or, with
        ``since``, a ``JoinedRoom.position`` of earlier, those after it. ``max_queue`` bounds what waits to be read:
        beyond it the rest is left to the server's history, and asked for when there is room.
        """
        return Joining(JoinedRoom(self.client, room, info, last, since, max_queue))

    async def history(self, room: str, last: int = 100) -> list[Message]:
        """The newest ``last`` messages that are kept, of a room that this client is in; the oldest first."""
        found: list[Message] = []
        answer = await self.client.request("rooms.history", {"room": room, "last": last})
        while True:
            messages = answer["messages"]
            found += [msgspec.convert(item, Message) for item in messages if item["kind"] == "message"]
            if not answer["more"]:
                return found
            since = (answer["epoch"], messages[-1]["offset"])
            answer = await self.client.request("rooms.history", {"room": room, "since": since})


def join(client: RpcClient, room: str, **options: Any) -> Joining:
    """``RoomsClient(client).join(room, …)``."""
    return RoomsClient(client).join(room, **options)


class Joining:
    """What ``join`` returns: await it for the room, or use it in ``async with``."""

    def __init__(self, room: JoinedRoom) -> None:
        self._room = room

    def __await__(self) -> Generator[Any, None, JoinedRoom]:
        """Join; the caller leaves."""
        return self._room._enter().__await__()

    async def __aenter__(self) -> JoinedRoom:
        """Join."""
        return await self._room._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave."""
        await self._room.leave()


class JoinedRoom:
    """A room that this client is in. ``async for message in room`` gives the messages, each once and in order.

    ``room.events()`` gives presence and recoveries as well; one of the two may be read, by one task. When the
    connection is lost and found again, the room is joined again and what was missed is asked for.
    """

    def __init__(
        self,
        client: RpcClient,
        room: str,
        info: object,
        last: int,
        since: tuple[str, int] | None,
        max_queue: int,
    ) -> None:
        """Made by ``join``."""
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 2:
            raise ConfigError(f"max_queue must be a whole number from 2, not {max_queue!r}")
        self.name = room
        self._client = client
        self._info = info
        self._last = last
        self._state = RoomState(max_queue, self._start_sync)
        if since is not None:
            self._state.epoch, self._state.offset = since
            self._state.joined = True
        self._subscription: Subscription | None = None
        self._heartbeat_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._syncing: asyncio.Task[None] | None = None
        self._again = False
        self._entered = False
        self._joins = 0  # answers of rooms.join, and the session that the last one was for
        self._home: Session | None = None
        self._moved = asyncio.Event()
        self._forget: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: EchoStreamError | None = None

    def __repr__(self) -> str:
        return f"<JoinedRoom {self.name!r} at {self._state.offset}>"

    # -- the application's side

    @property
    def id(self) -> str:
        """This client's id as a member; a new one after each reconnect."""
        return self._state.own[-1]

    @property
    def members(self) -> dict[str, Member]:
        """The other members by id, as far as ``events`` has told, or is about to."""
        return dict(self._state.members)

    @property
    def position(self) -> tuple[str, int]:
        """(epoch, offset) up to which messages have arrived here; for a later ``join(..., since=...)``.

        Messages that still wait to be read are behind it: read them, or keep the offset of the last one that you have
        dealt with instead.
        """
        return self._state.epoch, self._state.offset

    @property
    def epoch(self) -> str:
        """The name of the log that the offsets belong to."""
        return self._state.epoch

    @property
    def recovered(self) -> bool:
        """Whether the last time that this client had to ask for messages it got all that it had missed."""
        return self._state.recovered

    async def publish(self, payload: object = None, name: str = "", *, echo: bool = True) -> int:
        """Publish a message; its offset. ``echo`` false: it does not come back to this client. As ``request`` raises;
        a RemoteError says what the server refused, and after Disconnected it may have been published or not.
        """
        asked = {"room": self.name, "payload": payload, "name": name, "echo": echo}
        while True:
            joins = self._joins
            try:
                answer = await self._client.request("rooms.publish", asked)
            except RemoteError as error:
                # Perhaps the next server was asked before it knew of this member: then nothing was published.
                if error.code is not StatusCode.FAILED_PRECONDITION or not await self._is_back(joins):
                    raise
            else:
                return int(answer["offset"])

    async def recv(self) -> RoomEvent:
        """The next message, presence or recovery. EndOfStream after ``leave``; what ended the room otherwise."""
        while not self._state.queue:
            if self._error is not None:
                raise self._error
            if self._waiter is not None:
                raise ResourceBusy(f"{self.name}: another task is already reading this room")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._state.pop()

    async def events(self) -> AsyncIterator[RoomEvent]:
        """Messages, presence and recoveries, as they come, until ``leave``."""
        while True:
            try:
                event = await self.recv()
            except EndOfStream:
                return
            yield event

    def __aiter__(self) -> JoinedRoom:
        """Iterate over the messages until ``leave``."""
        return self

    async def __anext__(self) -> Message:
        """The next message."""
        try:
            while True:
                event = await self.recv()
                if isinstance(event, Message):
                    return event
        except EndOfStream:
            raise StopAsyncIteration from None

    async def leave(self) -> None:
        """Be a member no more. What has arrived can still be read. Idempotent."""
        ended = self._error is not None
        await self._stop(EndOfStream(f"{self.name}: left"))
        if self._entered and not ended:
            await self._say_leave()

    # -- how it is kept up

    async def _enter(self) -> JoinedRoom:
        if self._forget is not None:
            raise ResourceBusy(f"{self.name}: join again for another stay")
        self._forget = self._client.on_reconnect(self._reconnected)
        try:
            # The sender keeps the newest where this end does not keep up; the offsets tell what is missing.
            self._subscription = await self._client.subscribe(
                topic_of(self.name), overflow="drop_oldest", max_queue=_MAX_QUEUE
            )
            self._start(self._pump(self._subscription))
            await self._join()
        except RemoteError:
            await self._stop(EndOfStream(f"{self.name}: not joined"))
            raise
        except BaseException:  # the server may have admitted this client nevertheless
            await self._stop(EndOfStream(f"{self.name}: not joined"))
            if self._subscription is not None:
                await self._say_leave()
            raise
        self._entered = True
        if self._again:  # the session is another one since
            self._start_sync()
        else:
            self._state.finish_sync()
        if self._heartbeat_s:
            self._start(self._beat())
        return self

    async def _say_leave(self) -> None:
        if self._client.connected:
            try:
                await self._client.request("rooms.leave", self.name)
            except Disconnected:
                pass  # then this client is a member no more anyway

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _stop(self, error: EchoStreamError) -> None:
        self._fail(error)
        if self._forget is not None:
            self._forget()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def _fail(self, error: EchoStreamError) -> None:
        if self._error is None:
            self._error = error
        self._wake()
        self._tell_moved()

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _is_back(self, joins: int) -> bool:
        """Whether this client has joined more than ``joins`` times; waits for it where it is about to join again."""
        try:
            async with asyncio.timeout(_REJOIN_S):
                while self._joins == joins and self._error is None and self._away:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return self._joins != joins

    @property
    def _away(self) -> bool:
        syncing = self._syncing is not None and not self._syncing.done()
        return syncing or self._client.session is not self._home

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _pump(self, subscription: Subscription) -> None:
        """Take what the server emits, and notice what it could not."""
        dropped = 0
        try:
            while True:
                event = await subscription.recv()
                lost = sum(subscription.dropped.values())
                if lost != dropped:
                    dropped = lost
                    self._start_sync()
                item = event.payload
                if "offset" in item or event.session is self._client.session:
                    self._state.on_event(item)
                    self._wake_if_any()
        except EchoStreamError as error:  # the client connects no more
            self._fail(error)

    def _reconnected(self) -> None:
        self._state.begin_sync(reconnected=True)
        self._start_sync()

    def _start_sync(self) -> None:
        """Ask the server what this client should have; what arrives meanwhile waits."""
        self._state.begin_sync()
        self._again = True
        if self._error is None and self._entered and (self._syncing is None or self._syncing.done()):
            self._syncing = self._start(self._sync())

    async def _sync(self) -> None:
        while self._again:
            try:
                await self._join()
            except Disconnected as error:
                # Lost again: the next reconnect asks again, if it has not done so already.
                _logger.debug("%s: the connection was lost while it was joined again: %s", self.name, error)
            except EchoStreamError as error:
                if not _may_pass(error):
                    _logger.error("%s: could not be joined again: %s", self.name, error)
                    self._fail(error)
                    return
                _logger.warning("%s: could not be joined again: %s; trying on", self.name, error)
                await asyncio.sleep(_RETRY_S)
                self._again = True
            else:
                if not self._again:
                    self._state.finish_sync()
                self._wake_if_any()
        self._tell_moved()

    async def _join(self) -> None:
        """Ask for the membership and all pages of what is missing."""
        self._again = False
        state = self._state
        asked: dict[str, Any] = {"room": self.name, "info": self._info}
        if state.since is not None:
            asked |= {"since": state.since, "former": state.own}
        else:
            asked["last"] = self._last
        answer = await self._client.request("rooms.join", asked)
        self._heartbeat_s = float(answer["heartbeat"])
        self._joins += 1
        self._home = self._client.session
        self._tell_moved()
        while state.on_answer(answer):
            self._wake_if_any()
            answer = await self._client.request("rooms.history", {"room": self.name, "since": state.since})
        self._wake_if_any()

    def _wake_if_any(self) -> None:
        if self._state.queue:
            self._wake()

    async def _beat(self) -> None:
        """Signs of life, three per timeout; a server that has given this member up all the same is asked again."""
        while True:
            await asyncio.sleep(self._heartbeat_s / 3)
            if not self._client.connected:
                continue
            try:
                rooms = await self._client.request("rooms.heartbeat", timeout=self._heartbeat_s)
            except (Disconnected, DeadlineExceeded) as error:
                _logger.debug("%s: no answer to a heartbeat: %s", self.name, error)
                continue
            except EchoStreamError as error:
                _logger.warning("%s: the heartbeat was refused: %s", self.name, error)
                continue
            if self.name not in rooms:
                self._start_sync()


def _may_pass(error: EchoStreamError) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, DeadlineExceeded):
        return True
    return isinstance(error, RpcError) and (
        error.retryable or error.not_processed or error.code in (StatusCode.UNAVAILABLE, StatusCode.FAILED_PRECONDITION)
    )
