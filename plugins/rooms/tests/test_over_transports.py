"""The main path over every installed transport, and the file that outlives its server."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from echostream_core import PluginNotFound, RpcServer
from echostream_core.options import convert_options
from echostream_rooms import (
    BackplaneError,
    Message,
    Recovery,
    Rooms,
    SqliteBackplane,
    SqliteOptions,
    echostream_components,
    join,
)
from plugins.rooms.tests.crowd import check_sequence, crowd, drain, presence
from tests.support.transports import Endpoint
from tests.support.waiting import until

LOOPS = ("asyncio", "uvloop")


async def test_members_talk_vanish_and_come_back(transport: Endpoint) -> None:
    async with crowd(transport.url, transport.options) as here:
        ada, bob = await here.client(), await here.client()
        async with join(ada, "lobby", info="ada") as one, join(bob, "lobby", info="bob") as two:
            assert await one.publish(1) == 1
            assert await two.publish(2) == 2
            await until(lambda: one.position[1] == two.position[1] == 2)
            here.rooms["lobby"].local_members[two.id].abort()  # killed: the client is told nothing
            assert await one.publish(3) == 3
            await until(lambda: two.position[1] == 3 and bob.reconnects == 1)
            assert check_sequence(events := drain(two)) == 3
            assert Recovery(recovered=True, after=2, until=2) in events
            await until(lambda: ("lost", "bob") in presence(one._state.queue))
            await until(lambda: presence(one._state.queue)[-1] == ("joined", "bob"))
            assert [found.info for found in await here.rooms["lobby"].members()] == ["ada", "bob"]
        await until(lambda: not here.rooms._local)


def sqlite(path: Path, **options: Any) -> Rooms:
    return Rooms("sqlite", options={"path": str(path / "rooms.db"), "poll_interval_s": 0.01, **options})


async def test_a_restarted_server_has_its_history_and_its_epochs(transport: Endpoint, tmp_path: Path) -> None:
    async with crowd(transport.url, transport.options, rooms=sqlite(tmp_path)) as here:
        address = here.server.addresses[0]
        client = await here.client()
        async with join(client, "lobby") as one:
            epoch = one.epoch
            for number in range(1, 4):
                await here.rooms["lobby"].broadcast("", number)
            await until(lambda: one.position[1] == 3)
            await here.server.close(drain=0.0)
            await here.rooms.close()

            rooms = sqlite(tmp_path)
            assert [message.payload for message in await rooms["lobby"].history()] == [1, 2, 3]
            assert await rooms["lobby"].members() == []
            await rooms["lobby"].broadcast("", 4)
            async with RpcServer(address, rooms, drain_timeout=0, **transport.options):
                await until(lambda: one.position == (epoch, 4))
                assert check_sequence(drain(one)) == 4
                assert one.recovered
            await rooms.close()


async def test_two_processes_worth_of_servers_share_a_file(tmp_path: Path) -> None:
    async with (
        crowd(rooms=sqlite(tmp_path)) as here,
        crowd(rooms=sqlite(tmp_path)) as there,
        join(await here.client(), "lobby", info="here") as one,
    ):
        async with join(await there.client(), "lobby", info="there") as two:
            await asyncio.gather(*(one.publish(number) for number in range(20)))
            await asyncio.gather(*(two.publish(number) for number in range(20)))
            await until(lambda: one.position[1] == two.position[1] == 40)
            both = [[event for event in drain(room) if isinstance(event, Message)] for room in (one, two)]
            assert both[0] == both[1]
            assert [event.offset for event in both[0]] == list(range(1, 41))
            assert [found.info for found in await here.rooms["lobby"].members()] == ["here", "there"]
        await until(lambda: one.members == {})


async def test_members_of_a_process_that_died_are_lost_and_come_back_if_it_only_slept(tmp_path: Path) -> None:
    path = str(tmp_path / "rooms.db")
    died = SqliteBackplane(SqliteOptions(path=path, lease_s=3_600.0))  # it will not renew its lease during the test
    alive = SqliteBackplane(SqliteOptions(path=path, poll_interval_s=0.01, lease_s=0.06))
    heard: list[bytes] = []
    await died.open()
    await died.add_member("lobby", "1", b"ada", b"lost ada", b"joined ada", 10)
    await alive.open()
    await alive.subscribe("lobby", lambda record: heard.append(record.body))
    await until(lambda: heard == [b"lost ada"])
    assert await alive.members("lobby") == []
    await died._do(lambda store: store.renew())
    await until(lambda: heard[:3] == [b"lost ada", b"joined ada", b"lost ada"])
    assert not await died.remove_member("lobby", "1", b"left ada")
    await died.close()
    await alive.close()


async def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    rooms = sqlite(tmp_path / "nowhere")
    with pytest.raises(BackplaneError, match="nowhere"):
        await rooms.open()
    await rooms.close()
    (tmp_path / "rooms.db").write_bytes(b"no database" * 500)
    rooms = sqlite(tmp_path)
    with pytest.raises(BackplaneError, match="not a database"):
        await rooms.open()
    await rooms.close()


async def test_old_messages_leave_the_file(tmp_path: Path) -> None:
    now = [1_000.0]
    backplane = SqliteBackplane(SqliteOptions(path=str(tmp_path / "rooms.db"), lease_s=0.03), clock=lambda: now[0])
    rooms = Rooms(backplane, limits={"history_age_s": 10.0, "history_count": 5})
    for number in range(10):
        await rooms["lobby"].broadcast("", number)
    assert [message.payload for message in await rooms["lobby"].history()] == [5, 6, 7, 8, 9]
    now[0] += 9.0
    await rooms["lobby"].broadcast("", 10)
    now[0] += 9.0
    assert [message.payload for message in await rooms["lobby"].history()] == [10]
    now[0] += 20.0

    def rows(table: str) -> int:
        with closing(sqlite3.connect(tmp_path / "rooms.db")) as looking:
            return int(looking.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    await until(lambda: not rows("feed"))
    assert (await rooms["lobby"].broadcast("", 11)) == 12
    now[0] += 100_000.0
    await until(lambda: not rows("logs"))
    assert (await rooms["lobby"].broadcast("", 1)) == 1
    await rooms.close()
    await backplane.close()


def test_an_unknown_backplane_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(PluginNotFound) as caught:
        Rooms("sqlight")
    assert caught.value.closest == "sqlite"
    assert {"memory", "sqlite"} <= set(caught.value.known)


def test_the_hook_offers_what_the_index_promises() -> None:
    assert [(spec.kind, spec.name) for spec in echostream_components()] == [
        ("backplane", "memory"),
        ("backplane", "sqlite"),
    ]
    made = convert_options(SqliteOptions, {"path": "x"}, key="backplane.sqlite")
    assert isinstance(made, SqliteOptions)
