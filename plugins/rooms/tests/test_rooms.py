"""Joining, leaving, publishing, presence and limits, on a clock that does not wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from echostream_core import (
    ConfigError,
    Context,
    Disconnected,
    Event,
    RemoteError,
    RpcClient,
    RpcError,
    RpcServer,
    StatusCode,
)
from echostream_rooms import MemoryBackplane, Message, Rooms, RoomsClient, join
from plugins.rooms.tests.crowd import crowd, drain, messages, presence
from tests.support.pairs import memory_url
from tests.support.relay import Relay, relayed
from tests.support.waiting import settle, until

LOOPS = ("virtual",)


async def refusal(work: Any) -> StatusCode:
    with pytest.raises(RemoteError) as caught:
        await work
    return caught.value.code


async def test_a_message_reaches_every_member_and_nobody_else() -> None:
    async with crowd() as here:
        ada, bob, eve = [await here.client() for _ in range(3)]
        overheard: list[Event] = []
        await eve.on("**", overheard.append)
        async with join(ada, "lobby") as one, join(bob, "lobby") as two:
            assert await one.publish({"text": "hi"}, "chat") == 1
            for room in (one, two):
                assert await anext(room) == Message(offset=1, name="chat", payload={"text": "hi"}, sender=one.id)
            await settle()
        assert overheard == []


async def test_the_server_broadcasts_and_leaves_out_whom_it_likes() -> None:
    async with (
        crowd() as here,
        join(await here.client(), "lobby") as one,
        join(await here.client(), "lobby") as two,
    ):
        lobby = here.rooms["lobby"]
        await lobby.broadcast("a", 1)
        await lobby.broadcast("b", 2, exclude=[one.id])
        await lobby.broadcast("c", 3, exclude=[lobby.local_members[two.id]])
        await one.publish(4, echo=False)
        await lobby.broadcast("e", 5)
        await settle()
        assert messages(drain(one)) == [1, 3, 5]
        assert messages(drain(two)) == [1, 2, 4, 5]
        assert [message.payload for message in await lobby.history()] == [1, 2, 3, 4, 5]


async def test_what_is_hidden_from_a_member_stays_so_in_its_history_and_after_a_reconnect() -> None:
    async with crowd() as here:
        client = await here.client()
        async with join(client, "lobby") as one:
            await here.rooms["lobby"].broadcast("a", 1, exclude=[one.id])
            here.server.sessions[0].abort()
            await here.rooms["lobby"].broadcast("b", 2, exclude=[one.id])
            await here.rooms["lobby"].broadcast("c", 3)
            await until(lambda: one.position[1] == 3)
            assert messages(drain(one)) == [3]
            assert [found.payload for found in await RoomsClient(client).history("lobby")] == [3]


async def test_members_are_told_who_comes_and_goes() -> None:
    async with crowd() as here:
        ada, bob, eve = [await here.client() for _ in range(3)]
        async with join(ada, "lobby", info="ada") as one:
            async with join(bob, "lobby", info="bob") as two:
                assert [member.info for member in two.members.values()] == ["ada"]
                await join(eve, "lobby", info="eve")
                await settle()
                assert [found.info for found in await here.rooms["lobby"].members()] == ["ada", "bob", "eve"]
                listed = await bob.request("rooms.members", "lobby")
                assert [member["info"] for member in listed] == ["ada", "bob", "eve"]
                await eve.close()
                await settle()
            await settle()
            assert presence(drain(one)) == [("joined", "bob"), ("joined", "eve"), ("lost", "eve"), ("left", "bob")]
            assert one.members == {}


async def test_a_member_whose_connection_stalls_is_lost_when_the_keep_alive_says_so() -> None:
    url = memory_url()
    relay = Relay()
    limits = {"keepalive_interval_s": 1.0, "keepalive_timeout_s": 1.0}
    async with (
        crowd(url, {"limits": limits}) as here,
        relayed(url, relay) as front,
        join(await here.client(), "lobby") as one,
    ):
        stalled = await RpcClient.connect(front, reconnect=False)
        other = join(stalled, "lobby", info="gone")
        await other
        relay.stalled = True
        await until(lambda: ("lost", "gone") in presence(one._state.queue))
        assert list(here.rooms["lobby"].local_members) == [one.id]
        relay.abort()
        await stalled.close()


async def test_a_member_without_heartbeats_is_lost_and_one_with_them_stays() -> None:
    async with crowd(heartbeat_timeout=9.0) as here:
        silent = await here.client()
        async with join(await here.client(), "lobby") as one:
            await silent.request("rooms.join", {"room": "lobby", "info": "silent"})
            await settle()
            assert presence(drain(one)) == [("joined", "silent")]
            await asyncio.sleep(40)
            assert presence(drain(one)) == [("lost", "silent")]
            assert await silent.request("rooms.heartbeat") == []
            assert len(here.server.sessions) == 2
            assert await refusal(silent.request("rooms.members", "lobby")) == StatusCode.FAILED_PRECONDITION


async def test_who_was_given_up_by_mistake_joins_again_by_itself() -> None:
    async with crowd(heartbeat_timeout=9.0) as here, join(await here.client(), "lobby") as one:
        before = one.id
        (session,) = here.rooms["lobby"].local_members.values()
        await here.rooms._part("lobby", session, "lost")
        await here.rooms["lobby"].broadcast("x", 1)
        await until(lambda: one.id != before)
        assert (await anext(one)).payload == 1


async def test_joining_twice_is_once_and_leaving_twice_too() -> None:
    async with crowd() as here:
        client = await here.client()
        first = await client.request("rooms.join", {"room": "lobby"})
        again = await client.request("rooms.join", {"room": "lobby"})
        assert first["member"] == again["member"]
        assert len(await here.rooms["lobby"].members()) == 1
        assert await client.request("rooms.leave", "lobby") is True
        assert await client.request("rooms.leave", "lobby") is False
        assert await here.rooms["lobby"].members() == []


async def test_the_application_decides_who_may_join_and_publish() -> None:
    asked: list[tuple[str, str]] = []

    async def authorise(ctx: Context, room: str, action: str) -> bool:
        asked.append((room, action))
        if room == "closed":
            raise RpcError(StatusCode.NOT_FOUND, "there is no such room")
        return room == "lobby" and action == "join"

    async with crowd(authorise=authorise) as here:
        client = await here.client()
        await client.request("rooms.join", {"room": "lobby"})
        assert await refusal(client.request("rooms.join", {"room": "staff"})) == StatusCode.PERMISSION_DENIED
        assert await refusal(client.request("rooms.join", {"room": "closed"})) == StatusCode.NOT_FOUND
        assert await refusal(client.request("rooms.publish", {"room": "lobby"})) == StatusCode.PERMISSION_DENIED
        assert asked == [("lobby", "join"), ("staff", "join"), ("closed", "join"), ("lobby", "publish")]
        assert await here.rooms["staff"].members() == []
        with pytest.raises(RemoteError):
            await join(client, "staff")


async def test_publishing_can_be_switched_off_and_is_for_members() -> None:
    async with crowd(publish=False) as here:
        client = await here.client()
        await client.request("rooms.join", {"room": "lobby"})
        assert await refusal(client.request("rooms.publish", {"room": "lobby"})) == StatusCode.PERMISSION_DENIED
    async with crowd() as here:
        client = await here.client()
        for method in ("rooms.publish", "rooms.history", "rooms.members"):
            assert await refusal(client.request(method, {"room": "lobby"})) in (
                StatusCode.FAILED_PRECONDITION,
                StatusCode.INVALID_ARGUMENT,  # one parameter: the payload is the name
            )


@pytest.mark.parametrize(
    ("limit", "value", "room", "arguments"),
    [
        ("max_rooms_per_session", 1, "second", {}),
        ("max_rooms", 1, "second", {}),
        ("max_info_bytes", 10, "lobby", {"info": "x" * 20}),
    ],
)
async def test_a_join_beyond_a_limit_is_refused_with_its_name(
    limit: str, value: int, room: str, arguments: dict[str, Any]
) -> None:
    async with crowd(limits={limit: value}) as here:
        client = await here.client()
        await client.request("rooms.join", {"room": "lobby"})
        with pytest.raises(RemoteError, match=f"{limit} is {value}") as caught:
            await client.request("rooms.join", {"room": room, **arguments})
        assert caught.value.code == StatusCode.RESOURCE_EXHAUSTED
        assert await client.request("rooms.heartbeat") == ["lobby"]


async def test_joins_at_the_same_time_stay_within_the_limits() -> None:
    async with crowd(limits={"max_rooms_per_session": 3, "max_members_per_room": 2}) as here:
        clients = [await here.client() for _ in range(4)]
        answers = await asyncio.gather(
            *(clients[0].request("rooms.join", {"room": f"r{number}"}) for number in range(6)), return_exceptions=True
        )
        assert sum(isinstance(answer, dict) for answer in answers) == 3
        answers = await asyncio.gather(
            *(client.request("rooms.join", {"room": "lobby"}) for client in clients[1:]), return_exceptions=True
        )
        assert sum(isinstance(answer, dict) for answer in answers) == 2
        assert any("max_members_per_room is 2" in str(answer) for answer in answers)


async def test_a_large_payload_is_refused_to_clients_and_to_the_application() -> None:
    async with crowd(limits={"max_payload_bytes": 100}) as here:
        client = await here.client()
        async with join(client, "lobby") as one:
            with pytest.raises(RemoteError, match="max_payload_bytes is 100"):
                await one.publish("x" * 100)
            with pytest.raises(RpcError, match="cannot be kept"):
                await here.rooms["lobby"].broadcast("x", object())
            assert await one.publish("ok") == 1


@pytest.mark.parametrize("name", ["", "a b", "a.*", ".a", "a..b", "ü" * 65, "a.b.c.d.e.f.g.h", "a\n"])
async def test_a_name_that_no_room_can_have_is_refused(name: str) -> None:
    async with crowd() as here:
        assert await refusal((await here.client()).request("rooms.join", {"room": name})) == StatusCode.INVALID_ARGUMENT
        with pytest.raises(RpcError):
            here.rooms[name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"limits": {"max_room": 1}}, "did you mean 'max_rooms'"),
        ({"limits": {"max_rooms": 0}}, "max_rooms must be a whole number from 1"),
        ({"limits": {"history_age_s": float("nan")}}, "history_age_s"),
        ({"limits": {"max_name_bytes": 250}}, "at most 240"),
        ({"heartbeat_timeout": 0.0}, "heartbeat_timeout must be above 0"),
        ({"backplane": MemoryBackplane(), "options": {}}, "options="),
        ({"options": {"max_log": 1}}, "max_log"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Rooms(**arguments)


async def test_two_servers_that_share_a_backplane_share_messages_and_members() -> None:
    shared = MemoryBackplane()
    async with (
        crowd(rooms=Rooms(shared)) as here,
        crowd(rooms=Rooms(shared)) as there,
        join(await here.client(), "lobby", info="here") as one,
    ):
        async with join(await there.client(), "lobby", info="there") as two:
            assert await one.publish(1) == 1
            assert await two.publish(2) == 2
            await there.rooms["lobby"].broadcast("x", 3, exclude=[one.id])
            await settle()
            assert messages(drain(two)) == [1, 2, 3]
            assert [found.info for found in await here.rooms["lobby"].members()] == ["here", "there"]
        await settle()
        events = drain(one)
        assert messages(events) == [1, 2]
        assert presence(events) == [("joined", "there"), ("left", "there")]


async def test_a_member_that_blocks_and_does_not_read_delays_nobody() -> None:
    async with crowd() as here:
        slow = await here.client()
        async with slow.subscribe("rooms.lobby", max_queue=4) as events:
            await slow.request("rooms.join", {"room": "lobby"})
            async with join(await here.client(), "lobby") as one:
                for number in range(1, 6_001):
                    await here.rooms["lobby"].broadcast("", number)
                    drain(one)
                await settle()
                assert one.position[1] == 6_000
                got = []
                while (item := (await events.recv()).payload)["kind"] != "behind":
                    got.append(item)
                assert len(got) < 6_000
                await here.rooms["lobby"].broadcast("", "again")
                assert (await events.recv()).payload["offset"] == 6_001


async def test_nothing_is_left_when_everybody_has_gone() -> None:
    async with crowd(heartbeat_timeout=5.0) as here:
        client = await here.client()
        async with join(client, "lobby"):
            pass
        await join(client, "other")
        await client.close()
        await until(lambda: not here.rooms._local)
        assert not here.rooms._visitors
        backplane = here.rooms.backplane
        assert isinstance(backplane, MemoryBackplane)
        assert not backplane._receivers
        assert not backplane._members


async def test_closed_rooms_refuse_and_their_members_are_lost_elsewhere() -> None:
    shared = MemoryBackplane()
    rooms = Rooms(shared)
    async with (
        crowd(rooms=Rooms(shared)) as here,
        RpcServer(memory_url(), rooms, drain_timeout=0) as server,
        join(await here.client(), "lobby") as one,
        RpcClient.connect(server.addresses[0], reconnect=False) as client,
    ):
        await client.request("rooms.join", {"room": "lobby", "info": "there"})
        await rooms.close()
        await rooms.close()
        await settle()
        assert presence(drain(one)) == [("joined", "there"), ("lost", "there")]
        assert await refusal(client.request("rooms.join", {"room": "lobby"})) == StatusCode.UNAVAILABLE


async def test_a_room_ends_with_a_client_that_connects_no_more() -> None:
    async with crowd() as here:
        one = await join(await here.client(reconnect=False), "lobby")
        await here.rooms["lobby"].broadcast("", 1)
        await settle()
        here.server.sessions[0].abort()
        assert (await anext(one)).payload == 1
        with pytest.raises(Disconnected):
            await anext(one)
        await one.leave()
        with pytest.raises(Disconnected):
            await one.publish(2)


async def test_leaving_ends_the_iteration_when_all_is_read() -> None:
    async with crowd() as here:
        one = await join(await here.client(), "lobby")
        await one.publish(1)
        await settle()
        await one.leave()
        await one.leave()
        assert [message.payload async for message in one] == [1]
        assert [event async for event in one.events()] == []
        await until(lambda: not here.rooms._local)
