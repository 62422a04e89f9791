"""No message is lost or doubled: after lost connections, with slow readers, and with a history that is too short."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core import Disconnected, RpcClient
from echostream_core.testing import VirtualLoop
from echostream_rooms import Backplane, JoinedRoom, MemoryBackplane, Page, Recovery, Retention, RoomEvent, Rooms, join
from plugins.rooms.tests.crowd import check_sequence, crowd, drain, messages
from tests.support.waiting import settle, until

LOOPS = ("virtual",)


async def test_a_lost_connection_costs_nothing_that_is_kept() -> None:
    async with crowd() as here, join(await here.client(), "lobby") as one:
        lobby = here.rooms["lobby"]
        for number in range(1, 4):
            await lobby.broadcast("", number)
        await settle()
        here.server.sessions[0].abort()
        for number in range(4, 10):
            await lobby.broadcast("", number)
        await until(lambda: one.position[1] == 9)
        assert one.recovered
        events = drain(one)
        assert Recovery(recovered=True, after=3, until=3) in events
        assert check_sequence(events) == 9


async def test_who_joined_before_the_first_message_recovers_from_the_beginning() -> None:
    async with crowd() as here, join(await here.client(), "lobby") as one:
        assert one.position[1] == 0
        here.server.sessions[0].abort()
        await until(lambda: one._client.reconnects == 1 and one.recovered)
        assert drain(one) == []  # nothing was sent, nothing was missed
        here.server.sessions[0].abort()
        await here.rooms["lobby"].broadcast("", 1)
        await until(lambda: one.position[1] == 1)
        assert drain(one)[0] == Recovery(recovered=True, after=0, until=0)


async def test_a_hole_that_the_history_does_not_reach_is_told() -> None:
    async with crowd(limits={"history_count": 3}) as here, join(await here.client(), "lobby") as one:
        await here.rooms["lobby"].broadcast("", 1)
        await settle()
        here.server.sessions[0].abort()
        for number in range(2, 6):
            await here.rooms["lobby"].broadcast("", number)
        await until(lambda: one.position[1] == 5)
        assert not one.recovered
        await here.rooms["lobby"].broadcast("", 6)
        await settle()
        events = drain(one)
        assert [type(event).__name__ for event in events] == ["Message", "Recovery", "Message"]
        assert events[1] == Recovery(recovered=False, after=1, until=5)


@pytest.mark.parametrize(("offset", "recovered"), [(0, False), (2, True), (4, True), (5, True), (6, False)])
async def test_recovery_is_exact_at_its_edges(offset: int, recovered: bool) -> None:
    async with crowd(limits={"history_count": 3}) as here:
        for number in range(1, 6):
            await here.rooms["lobby"].broadcast("", number)
        client = await here.client()
        epoch = (await client.request("rooms.join", {"room": "lobby"}))["epoch"]
        answer = await client.request("rooms.history", {"room": "lobby", "since": [epoch, offset]})
        assert answer["recovered"] is recovered
        found = [message["offset"] for message in answer["messages"]]
        assert found == (list(range(offset + 1, 6)) if recovered else [])
        foreign = await client.request("rooms.history", {"room": "lobby", "since": ["other", offset]})
        assert (foreign["recovered"], foreign["messages"]) == (False, [])


async def test_a_log_that_began_anew_is_told_and_followed() -> None:
    async with crowd() as here, join(await here.client(), "lobby") as one:
        for number in range(1, 4):
            await here.rooms["lobby"].broadcast("", number)
        await settle()
        backplane = here.rooms.backplane
        assert isinstance(backplane, MemoryBackplane)
        backplane._logs.clear()  # as a broker that lost its data
        await here.rooms["lobby"].broadcast("", 1)
        await here.rooms["lobby"].broadcast("", 2)
        await until(lambda: one.position[1] == 2)
        await here.rooms["lobby"].broadcast("", 3)
        await settle()
        events = drain(one)
        assert sum(isinstance(event, Recovery) and not event.recovered for event in events) == 1
        assert check_sequence(events) == 3


async def test_the_newest_messages_come_first_to_who_asks_for_them() -> None:
    async with crowd() as here:
        for number in range(1, 8):
            await here.rooms["lobby"].broadcast("", number)
        async with join(await here.client(), "lobby", last=3) as one:
            await here.rooms["lobby"].broadcast("", 8)
            await settle()
            assert check_sequence(drain(one), begin=4) == 8


async def test_a_position_of_an_earlier_visit_is_a_place_to_go_on_from() -> None:
    async with crowd() as here:
        client = await here.client()
        async with join(client, "lobby") as one:
            position = one.position
        await here.rooms["lobby"].broadcast("", 1)
        async with join(client, "lobby", since=position) as one:
            await settle()
            assert one.recovered
            assert messages(drain(one)) == [1]


async def test_a_history_larger_than_an_answer_comes_in_pages() -> None:
    async with crowd(limits={"history_bytes": 8_000_000}) as here:
        for _number in range(60):
            await here.rooms["lobby"].broadcast("", "x" * 60_000)
        async with join(await here.client(), "lobby", last=60) as one:
            await until(lambda: one.position[1] == 60)
            assert [event.offset for event in drain(one)] == list(range(1, 61))  # type: ignore[union-attr]


async def test_a_reader_that_does_not_read_holds_a_bounded_queue_and_misses_nothing_that_is_kept() -> None:
    async with (
        crowd(limits={"history_count": 1_000}) as here,
        join(await here.client(), "lobby", max_queue=8) as one,
    ):
        for number in range(1, 201):
            await here.rooms["lobby"].broadcast("", number)
        await settle()
        assert len(one._state.queue) == 8
        assert check_sequence([await one.recv() for _ in range(200)]) >= 150
        seen: list[RoomEvent] = []
        while one.position[1] < 200 or one._state.queue:
            seen.append(await one.recv())
        assert seen[-1].offset == 200  # type: ignore[union-attr]


class Slow(MemoryBackplane):
    """A backplane that lets much happen before, and after, it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Any] = []

    async def read(self, room: str, after: int, keep: Retention, max_bytes: int) -> Page:
        for _ in range(2):
            if self.meanwhile:
                await self.meanwhile.pop(0)()
            await asyncio.sleep(0.01)
        page = await super().read(room, after, keep, max_bytes)
        await asyncio.sleep(0.01)
        if self.meanwhile:
            await self.meanwhile.pop(0)()
        return page


async def test_messages_between_subscribing_and_reading_come_once() -> None:
    slow = Slow()
    async with crowd(rooms=Rooms(slow)) as here:
        numbers = iter(range(1, 100))

        async def publish() -> None:
            for _ in range(3):
                await here.rooms["lobby"].broadcast("", next(numbers))

        await publish()
        slow.meanwhile = [publish] * 6
        async with join(await here.client(), "lobby", last=2) as one:
            here.server.sessions[0].abort()
            slow.meanwhile = [publish] * 3
            await publish()
            await until(lambda: one._client.reconnects == 1 and not slow.meanwhile and not one._state.syncing)
            await settle()
            events = drain(one)
            first = next(event.offset for event in events if not isinstance(event, Recovery))  # type: ignore[union-attr]
            assert check_sequence(events, begin=first - 1) == next(numbers) - 1


Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 9)),
        st.tuples(st.just("cut"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.integers(0, 300)),
        st.tuples(st.just("read"), st.integers(0, 2)),
        st.tuples(st.just("come and go"), st.integers(0, 2)),
    ),
    max_size=40,
)


class Reader:
    """One member, what it has read, and where its visit began."""

    def __init__(self, room: JoinedRoom) -> None:
        self.room = room
        self.begin = room.position[1]
        self.seen: list[RoomEvent] = []

    def read(self) -> None:
        self.seen += drain(self.room)

    def check(self, top: int) -> None:
        self.read()
        assert check_sequence(self.seen, self.begin) == top


async def join_at_last(client: RpcClient) -> JoinedRoom:
    """A first join may meet the end of a session, as any call may."""
    while True:
        try:
            return await join(client, "lobby", max_queue=6)
        except Disconnected:
            await asyncio.sleep(0.05)


async def play(plan: list[Step], history: int, backplane: Backplane) -> int:
    """Follow ``plan``; how often somebody was told that messages are lost."""
    async with crowd(rooms=Rooms(backplane, limits={"history_count": history})) as here:
        lobby = here.rooms["lobby"]
        clients = [await here.client() for _ in range(3)]
        readers = [Reader(await join(client, "lobby", max_queue=6)) for client in clients]
        done: list[Reader] = []
        top = 0
        for what, number in plan:
            if what == "publish":
                for _ in range(number):
                    top += 1
                    await lobby.broadcast("", top)
            elif what == "cut":
                session = lobby.local_members.get(readers[number].room.id)
                if session is not None:
                    session.abort()
            elif what == "wait":
                await asyncio.sleep(number / 1_000)
            elif what == "read":
                readers[number].read()
            else:
                reader = readers[number]
                await reader.room.leave()
                reader.read()
                check_sequence(reader.seen, reader.begin)
                done.append(reader)
                readers[number] = Reader(await join_at_last(clients[number]))
        for reader in readers:
            async with asyncio.timeout(60):
                while reader.room.position[1] < top or reader.room._state.syncing:
                    reader.read()
                    await asyncio.sleep(0.05)
            reader.check(top)
            await reader.room.leave()
        everybody = [event for reader in (*readers, *done) for event in reader.seen]
        return sum(isinstance(event, Recovery) and not event.recovered for event in everybody)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(plan=steps, history=st.sampled_from([0, 3, 1_000]), slow=st.booleans())
def test_whatever_happens_each_message_comes_once_in_order_or_is_told_lost(
    plan: list[Step], history: int, slow: bool
) -> None:
    backplane = Slow() if slow else MemoryBackplane()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        told = runner.run(play(plan, history, backplane))
    assert history < 1_000 or told == 0
