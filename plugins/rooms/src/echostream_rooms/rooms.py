"""The service ``rooms``: clients join, leave and publish by calls, the application broadcasts from the server.

Messages reach the members as events of the topic ``rooms.NAME``, emitted to members only, whoever else may have
subscribed to it. A client subscribes first and joins then; what comes before the answer waits, and is compared with the
answer by offset: so nothing falls between history and live messages, and nothing is there twice.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal

import msgspec

from echostream_core import (
    ConfigError,
    Context,
    EchoStreamError,
    Kernel,
    RpcError,
    Session,
    StatusCode,
    handler,
    service,
)
from echostream_rooms.backplane import Backplane, BackplaneError
from echostream_rooms.heartbeats import Heartbeats
from echostream_rooms.limits import RoomLimits, check_room_name, exhausted, make_limits
from echostream_rooms.local_room import LocalMember, LocalRoom
from echostream_rooms.records import (
    Gone,
    Member,
    Message,
    decode_record,
    encode_member,
    encode_message,
    encode_presence,
    encoded_size,
    member_decoder,
    wire_item,
)

__all__ = ["Action", "Authorise", "Room", "Rooms"]

Action = Literal["join", "publish"]
Authorise = Callable[[Context, str, Action], bool | Awaitable[bool]]
"""(context of the call, room, action) → whether it may. It may raise RpcError to choose the answer."""

_PAGE_BYTES: Final = 524_288
"""Of history in one answer: an eighth of what a peer takes by default, whatever its codec makes of it."""
_ID_CHARS: Final = 16
_MAX_FORMER: Final = 64
_MAX_OFFSET: Final = 2**62
_ATTEMPTS: Final = 60
"""To take a member off the list of a backplane that does not answer; a second apart."""
_MAX_BURST: Final = 32
"""Messages without letting the loop run: a publisher that awaits nothing else must not starve it."""
_logger = logging.getLogger("echostream.rooms")


class _Visitor:
    """A session that is, or is about to be, in rooms."""

    __slots__ = ("gone", "rooms", "seen")

    def __init__(self, now: float) -> None:
        self.rooms: set[str] = set()
        self.gone = False
        self.seen = now


class Room:
    """A room by name, for the application on the server; ``rooms["lobby"]``."""

    __slots__ = ("_rooms", "name")

    def __init__(self, rooms: Rooms, name: str) -> None:
        self.name = name
        self._rooms = rooms

    def __repr__(self) -> str:
        return f"<Room {self.name!r}>"

    async def broadcast(self, name: str, payload: object = None, *, exclude: Iterable[Session | str] = ()) -> int:
        """Publish a message to all members, on every node, but those in ``exclude`` (sessions or members' ids).

        ``name`` says what it is. The offset that it got. Returns when the backplane has it. RpcError for a payload that
        cannot be kept or is too large, BackplaneError.
        """
        return await self._rooms._publish(self.name, name, payload, None, exclude)

    async def members(self) -> list[Member]:
        """The members on all nodes, in the order in which they came."""
        return await self._rooms._members_of(self.name)

    @property
    def local_members(self) -> dict[str, Session]:
        """The sessions of the members that are connected to this node, by the members' ids: they can be called."""
        local = self._rooms._local.get(self.name)
        return {} if local is None else {name: one.session for name, one in local.members.items()}

    async def history(self) -> list[Message]:
        """The messages that are kept, the oldest first."""
        rooms = self._rooms
        await rooms.open()
        found: list[Message] = []
        after = 0
        while True:
            page = await rooms.backplane.read(self.name, after, rooms.limits.retention, _PAGE_BYTES)
            items = [decode_record(record)[0] for record in page.records]
            found += [msgspec.convert(item, Message) for item in items if item["kind"] == "message"]
            if not page.records:
                return found
            after = page.records[-1].offset


@service("rooms")
class Rooms:
    """Rooms for the clients of one server, or of several that share a backplane. Pass it to ``RpcServer``.

    ``async with Rooms() as rooms`` closes the backplane in the end; ``await rooms.close()`` does it too.
    """

    def __init__(
        self,
        backplane: str | Backplane = "memory",
        *,
        options: Mapping[str, object] | None = None,
        authorise: Authorise | None = None,
        publish: bool = True,
        heartbeat_timeout: float | None = None,
        limits: RoomLimits | Mapping[str, float] | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        """``backplane`` is the name of an installed one, made with ``options``, or an object that the caller closes.

        ``publish`` is whether members may publish at all. ``heartbeat_timeout`` in seconds: who has called nothing of
        this service for so long is lost; None: a session that lives is enough.
        """
        self.limits = make_limits(limits)
        self._owner = isinstance(backplane, str)
        self.backplane = _make(backplane, options, kernel) if isinstance(backplane, str) else backplane
        if not self._owner and options is not None:
            raise ConfigError("rooms: options= are for a backplane that is named", key="options")
        self._authorise = authorise
        self._may_publish = publish
        self._heartbeats = Heartbeats(heartbeat_timeout, self._check_heartbeats)
        self._opened = False
        self._closed = False
        self._local: dict[str, LocalRoom] = {}
        self._visitors: dict[Session, _Visitor] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._burst = 0

    def __getitem__(self, name: str) -> Room:
        """The room ``name``, whether anybody is in it or not. RpcError for a name that none can have."""
        check_room_name(name, self.limits)
        return Room(self, name)

    async def open(self) -> None:
        """Open the backplane now, so that what is wrong with it is known; else the first call does."""
        if self._closed:
            raise RpcError(StatusCode.UNAVAILABLE, "the rooms are closed")
        if not self._opened:
            await self.backplane.open()
            self._opened = True

    async def close(self) -> None:
        """All members here leave as lost; a backplane that was made here is closed. Close the server first."""
        if self._closed:
            return
        self._closed = True
        self._heartbeats.stop()
        for session in list(self._visitors):
            self._vanish(session)
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._owner:
            await self.backplane.close()

    async def __aenter__(self) -> Rooms:
        """Open."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    # -- what clients call

    @handler
    async def join(
        self,
        room: str,
        ctx: Context,
        info: Any = None,
        since: tuple[str, int] | None = None,
        last: int = 0,
        former: list[str] | None = None,
    ) -> dict[str, Any]:
        """Become a member, or be told anew what a member is told at first.

        ``since`` (epoch, offset) asks for the messages after that one: ``recovered`` is true when these are exactly
        those that are ``messages``, on further pages while ``more``. Without it, the newest ``last`` messages come.
        ``former`` are ids that the caller had before it reconnected.
        """
        check_room_name(room, self.limits)
        if encoded_size(info) > self.limits.max_info_bytes:
            raise exhausted(self.limits, "max_info_bytes", "what the member says of itself")
        await self._check(ctx, room, "join")
        await self.open()
        session = ctx.session
        visitor = self._visit(session)
        if room not in visitor.rooms and len(visitor.rooms) >= self.limits.max_rooms_per_session:
            raise exhausted(self.limits, "max_rooms_per_session", "this session is in many rooms")
        visitor.rooms.add(room)  # now, so that joins at the same time count
        try:
            async with self._using(room) as local:
                member = local.find(session) or await self._admit(local, session, info)
                visitor.rooms.add(room)
        finally:
            held = self._local.get(room)
            if held is None or held.find(session) is None:
                visitor.rooms.discard(room)
            elif visitor.gone:  # it ended while it was admitted
                self._spawn(self._part(room, session, "lost"))
        if former:
            member.former = {member.member.id, *(one for one in former[:_MAX_FORMER] if len(one) == _ID_CHARS)}
        answer = await self._history(room, since, last, member.former)
        listed = await self._members_of(room)
        return {**answer, "member": member.member.id, "members": listed, "heartbeat": self._heartbeats.timeout or 0.0}

    @handler
    async def leave(self, room: str, ctx: Context) -> bool:
        """Be a member no more; False when the caller was none."""
        self._visit(ctx.session)
        return await self._part(room, ctx.session, "left")

    @handler
    async def members(self, room: str, ctx: Context) -> list[Member]:
        """The members of a room that the caller is in."""
        self._member(room, ctx)
        return await self._members_of(room)

    @handler
    async def publish(
        self, room: str, ctx: Context, payload: Any = None, name: str = "", echo: bool = True
    ) -> dict[str, Any]:
        """Publish a message to a room that the caller is in; its offset. ``echo`` false: not to the caller itself."""
        if not self._may_publish:
            raise RpcError(StatusCode.PERMISSION_DENIED, "members of these rooms may not publish")
        member = self._member(room, ctx).member.id
        await self._check(ctx, room, "publish")
        offset = await self._publish(room, name, payload, member, () if echo else (member,))
        return {"offset": offset}

    @handler
    async def history(
        self, room: str, ctx: Context, since: tuple[str, int] | None = None, last: int = 0
    ) -> dict[str, Any]:
        """Messages of a room that the caller is in; the arguments and the answer are as those of ``join``."""
        member = self._member(room, ctx)
        return await self._history(room, since, last, member.former)

    @handler
    def heartbeat(self, ctx: Context) -> list[str]:
        """A sign of life; the answer lists the rooms that the caller is in."""
        self._visit(ctx.session)
        return sorted(name for name, local in self._local.items() if local.find(ctx.session) is not None)

    # -- the parts

    async def _check(self, ctx: Context, room: str, action: Action) -> None:
        if self._authorise is None:
            return
        allowed = self._authorise(ctx, room, action)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            raise RpcError(StatusCode.PERMISSION_DENIED, f"you may not {action} {room!r}")

    def _member(self, room: str, ctx: Context) -> LocalMember:
        self._visit(ctx.session)
        local = self._local.get(room)
        member = None if local is None else local.find(ctx.session)
        if member is None:
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"you are not in {room[:80]!r}: join it first")
        return member

    def _visit(self, session: Session) -> _Visitor:
        """Whatever a session calls is a sign of life."""
        now = session.loop.time()
        visitor = self._visitors.get(session)
        if visitor is None:
            if session.closed.done():
                raise RpcError(StatusCode.UNAVAILABLE, "the session has ended")
            visitor = self._visitors[session] = _Visitor(now)
            session.closed.add_done_callback(lambda _: self._vanish(session))
        visitor.seen = now
        self._heartbeats.watch(session.loop)
        return visitor

    async def _admit(self, local: LocalRoom, session: Session, info: object) -> LocalMember:
        identity = session.peer_identity
        found = LocalMember(Member(secrets.token_hex(_ID_CHARS // 2), identity, info), session)
        joining = self.backplane.add_member(
            local.name,
            found.member.id,
            encode_member(found.member),
            encode_presence("lost", found.member),
            encode_presence("joined", found.member),
            self.limits.max_members_per_room,
        )
        try:
            added = await joining
        except BaseException:  # perhaps it was added nevertheless
            self._spawn(self._withdraw(local.name, found.member, encode_presence("lost", found.member)))
            raise
        if not added:
            raise exhausted(self.limits, "max_members_per_room", f"{local.name!r} is full")
        local.add(found)
        return found

    async def _withdraw(self, room: str, member: Member, gone: bytes) -> None:
        for _ in range(_ATTEMPTS):
            try:
                await self.backplane.remove_member(room, member.id, gone)
                return
            except BackplaneError as error:
                _logger.warning("%s: member %s could not be taken off the list: %s", room, member.id, error)
                if self._closed:
                    return
                await asyncio.sleep(1.0)
        _logger.error("%s: member %s stays on the list of the backplane", room, member.id)

    async def _part(self, room: str, session: Session, kind: Gone) -> bool:
        if room not in self._local:
            return False
        async with self._using(room) as local:
            visitor = self._visitors.get(session)
            if visitor is not None:
                visitor.rooms.discard(room)
            member = local.remove(session)
            if member is None:
                return False
            gone = encode_presence(kind, member.member)
            try:
                await self.backplane.remove_member(room, member.member.id, gone)
            except BaseException:  # whatever it was, the member must not be listed for ever
                self._spawn(self._withdraw(room, member.member, gone))
                raise
            return True

    def _vanish(self, session: Session) -> None:
        """A session has ended: it leaves all its rooms."""
        visitor = self._visitors.pop(session, None)
        if visitor is not None:
            visitor.gone = True
            for room in sorted(visitor.rooms):
                self._spawn(self._part_lost(room, session))

    async def _part_lost(self, room: str, session: Session) -> None:
        await self._part(room, session, "lost")

    def _check_heartbeats(self, oldest: float) -> None:
        for session, visitor in self._visitors.items():
            if visitor.seen <= oldest:
                for room in sorted(visitor.rooms):
                    _logger.info("%s: no heartbeat from %s: lost", room, session.peer)
                    self._spawn(self._part_lost(room, session))
        if self._visitors:
            self._heartbeats.watch(asyncio.get_running_loop())

    async def _publish(
        self, room: str, name: str, payload: object, sender: str | None, exclude: Iterable[Session | str]
    ) -> int:
        await self.open()
        local = self._local.get(room)
        hidden = []
        for one in exclude:
            if isinstance(one, str):
                hidden.append(one)
            elif local is not None and (member := local.find(one)) is not None:
                hidden.append(member.member.id)
        body = encode_message(name, payload, sender, hidden, self.limits)
        _, offset = await self.backplane.append(room, body, self.limits.retention)
        self._burst += 1
        if self._burst >= _MAX_BURST:
            self._burst = 0
            await asyncio.sleep(0)
        return offset

    async def _members_of(self, room: str) -> list[Member]:
        await self.open()
        return [member_decoder.decode(info) for info in await self.backplane.members(room)]

    async def _history(self, room: str, since: tuple[str, int] | None, last: int, own: set[str]) -> dict[str, Any]:
        keep = self.limits.retention
        after = min(max(since[1], -1), _MAX_OFFSET) if since is not None else 0
        if since is None:
            top = (await self.backplane.read(room, _MAX_OFFSET, keep, 0)).top
            after = max(top - max(last, 0), 0)
        page = await self.backplane.read(room, after, keep, _PAGE_BYTES)
        recovered = since is not None and since[0] == page.epoch and page.floor <= after <= page.top
        records = page.records if since is None or recovered else ()
        return {
            "epoch": page.epoch,
            "offset": page.top,
            "recovered": recovered,
            "messages": [wire_item(record, own) for record in records],
            "more": bool(records) and records[-1].offset < page.top,
        }

    @asynccontextmanager
    async def _using(self, name: str) -> AsyncIterator[LocalRoom]:
        """The room on this node, while nobody else comes or goes; dropped afterwards when it is empty."""
        local = self._local.get(name)
        if local is None:
            if len(self._local) >= self.limits.max_rooms:
                raise exhausted(self.limits, "max_rooms", "this server has many rooms")
            local = self._local[name] = LocalRoom(name, self._spawn)
        local.users += 1
        try:
            async with local.lock:
                if not local.subscribed:
                    await self.backplane.subscribe(name, local.receive)
                    local.subscribed = True
                yield local
        finally:
            local.users -= 1
            if not local.users and not local.members:
                del self._local[name]
                await self.backplane.unsubscribe(name, local.receive)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        async def run() -> None:
            try:
                await work
            except EchoStreamError as error:
                _logger.error("rooms: %s", error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _make(name: str, options: Mapping[str, object] | None, kernel: Kernel | None) -> Backplane:
    """The backplane ``name``; PluginNotFound and ConfigError say what is wrong."""
    kernel = kernel or Kernel()
    spec = kernel.component("backplane", name)
    made = spec.factory(kernel.build_options(spec, options, key=f"backplane.{name}"))
    if not isinstance(made, Backplane):
        raise ConfigError(f"rooms: the backplane {name!r} made {type(made).__name__}, not a Backplane", key="backplane")
    return made
