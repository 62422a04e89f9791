"""A server with rooms and some clients, and what a reader of a room may expect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from echostream_core import Reconnect, RpcClient, RpcServer
from echostream_rooms import JoinedRoom, Message, Presence, Recovery, RoomEvent, Rooms
from tests.support.pairs import memory_url

__all__ = ["Crowd", "check_sequence", "crowd", "drain", "messages", "presence"]

QUICK = Reconnect(initial_delay=0.05, max_delay=0.2)


@dataclass
class Crowd:
    """The server, its rooms, and the clients."""

    server: RpcServer
    rooms: Rooms
    stack: AsyncExitStack
    options: dict[str, Any] = field(default_factory=dict)

    async def client(self, **options: Any) -> RpcClient:
        """One more client."""
        given = {"reconnect": QUICK, **self.options, **options}
        return await self.stack.enter_async_context(RpcClient.connect(self.server.addresses[0], **given))


@asynccontextmanager
async def crowd(
    url: str = "", options: dict[str, Any] | None = None, rooms: Rooms | None = None, **arguments: Any
) -> AsyncIterator[Crowd]:
    """A server on ``url`` (default: memory); ``arguments`` are those of ``Rooms``."""
    made = rooms or Rooms(**arguments)
    async with (
        RpcServer(url or memory_url(), made, drain_timeout=0, **(options or {})) as server,
        AsyncExitStack() as stack,
    ):
        yield Crowd(server, made, stack, options or {})
    await made.close()


def drain(room: JoinedRoom) -> list[RoomEvent]:
    """All that waits to be read."""
    found = []
    while room._state.queue:
        found.append(room._state.pop())
    return found


def messages(events: Iterable[RoomEvent]) -> list[object]:
    """The payloads of the messages among ``events``."""
    return [event.payload for event in events if isinstance(event, Message)]


def presence(events: Iterable[RoomEvent]) -> list[tuple[str, object]]:
    """(kind, info) of the comings and goings among ``events``."""
    return [(event.kind, event.member.info) for event in events if isinstance(event, Presence)]


def check_sequence(events: Iterable[RoomEvent], begin: int = 0) -> int:
    """Each message once and in order, with holes only where a Recovery says so; the last offset."""
    last = begin
    for event in events:
        if isinstance(event, Message):
            assert event.offset == last + 1
            assert event.payload == event.offset
            last = event.offset
        elif isinstance(event, Recovery):
            assert event.after == last
            assert event.recovered == (event.until == last)
            last = event.until
    return last
