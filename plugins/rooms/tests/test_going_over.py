"""Servers that share a backplane are replaced one after the other: members go over, and nothing is lost or refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from echostream_core import Reconnect, RpcClient, RpcServer
from echostream_rooms import Backplane, JoinedRoom, MemoryBackplane, Message, Presence, Rooms, join
from echostream_rooms.sqlite_backplane import SqliteBackplane, SqliteOptions
from tests.support.handlers import Watched
from tests.support.pairs import memory_url
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("asyncio",)

QUICK = Reconnect(initial_delay=0.001, max_delay=0.01)


def backplanes(name: str, folder: Path) -> list[Backplane]:
    """Those of two nodes."""
    if name == "memory":
        shared = MemoryBackplane()
        return [shared, shared]
    return [SqliteBackplane(SqliteOptions(path=str(folder / "rooms.db"))) for _ in range(2)]


@pytest.mark.parametrize("name", ["memory", "sqlite"])
async def test_who_publishes_all_the_time_sees_no_error_while_the_server_is_replaced(name: str, tmp_path: Path) -> None:
    planes = backplanes(name, tmp_path)
    nodes = [Rooms(backplane=plane) for plane in planes]
    urls = [memory_url(), memory_url()]
    watched = [Watched(), Watched()]
    servers = [RpcServer(url, rooms, watch) for url, rooms, watch in zip(urls, nodes, watched, strict=True)]
    async with (
        servers[0],
        servers[1],
        RpcClient.connect(urls, reconnect=QUICK) as client,
        RpcClient.connect(urls[1]) as other,
        join(client, "lobby", info="one") as one,
        join(other, "lobby", info="other") as two,
    ):
        running = asyncio.ensure_future(client.request("watched.wait"))
        await watched[0].reached(begun=1)
        first = one.id
        published = 0
        closing = None
        while client.reconnects == 0 or published % 50:
            assert await one.publish(published) == published + 1
            published += 1
            if published == 20:
                closing = asyncio.ensure_future(servers[0].close(drain=30))
        assert closing is not None
        for _ in range(10):
            assert await two.publish(published) == published + 1
            published += 1
        for room in (one, two):
            await until(lambda room=room: room.position[1] == published)  # type: ignore[misc]
        watched[0].go_on.set()
        await asyncio.gather(running, closing)
        assert await one.publish(published) == published + 1
        await until(lambda: [member.info for member in one.members.values()] == ["other"])
        await until(lambda: [member.id for member in two.members.values()] == [one.id])
        for room in (one, two):
            await until(lambda room=room: room.position[1] == published + 1)  # type: ignore[misc]
            events = taken(room)
            assert [event.payload for event in events if isinstance(event, Message)] == list(range(published + 1))
        assert [(event.kind, event.member.id) for event in events if isinstance(event, Presence)] == [
            ("joined", one.id),
            ("lost", first),
        ]
    for rooms in nodes:
        await rooms.close()
    for plane in planes:
        await plane.close()
    await settle()
    assert not other_tasks()


def taken(room: JoinedRoom) -> list[object]:
    """All that waits to be read."""
    found: list[object] = []
    while room._state.queue:
        found.append(room._state.pop())
    return found
