"""The suite that a backplane must pass: subclass ``BackplaneConformance`` in a test module, and say how nodes are made.

::

    class TestMyBackplane(BackplaneConformance):
        @asynccontextmanager
        async def nodes(self) -> AsyncIterator[tuple[Backplane, Backplane]]:
            ...  # two that share their rooms; the same object twice where one object serves all

Needs pytest with pytest-asyncio in its mode ``auto``. Each test gets rooms that nobody has used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from echostream_rooms.backplane import Backplane, Record, Retention

__all__ = ["BackplaneConformance"]

_ALL = Retention(1_000, 1_000_000, 3_600.0)
_PATIENCE_S = 20.0
_ROOM = "lobby"
_ENOUGH = 1_000_000


class BackplaneConformance:
    """What every backplane must do. Override ``nodes``, and ``reopened`` if what it keeps outlives it."""

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[tuple[Backplane, Backplane]]:
        """Two nodes that share rooms, not opened yet; closed afterwards."""
        raise NotImplementedError("say how two nodes that share their rooms are made")
        yield

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` holds; TimeoutError when it does not come true."""
        async with asyncio.timeout(_PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Backplane, Backplane]]:
        """``nodes``, opened."""
        async with self.nodes() as (one, two):
            await one.open()
            await two.open()
            yield one, two

    # -- the log

    async def test_a_log_that_nobody_used_is_empty_and_has_an_epoch(self) -> None:
        async with self.opened() as (one, two):
            page = await one.read(_ROOM, 0, _ALL, _ENOUGH)
            assert (page.top, list(page.records), page.floor) == (0, [], 0)
            assert page.epoch
            assert (await two.read(_ROOM, 0, _ALL, _ENOUGH)).epoch == page.epoch
            assert (await one.append(_ROOM, b"first", _ALL)) == (page.epoch, 1)

    async def test_messages_are_read_as_they_were_appended_by_any_node(self) -> None:
        async with self.opened() as (one, two):
            epoch, _ = await one.append(_ROOM, b"a", _ALL)
            assert await two.append(_ROOM, b"", _ALL) == (epoch, 2)
            assert await one.append(_ROOM, b"c" * 70_000, _ALL) == (epoch, 3)
            for node in (one, two):
                page = await node.read(_ROOM, 0, _ALL, _ENOUGH)
                assert page.top == 3
                assert list(page.records) == [
                    Record(epoch, 1, b"a"),
                    Record(epoch, 2, b""),
                    Record(epoch, 3, b"c" * 70_000),
                ]

    async def test_reading_begins_behind_the_offset(self) -> None:
        async with self.opened() as (one, _):
            for number in range(5):
                await one.append(_ROOM, b"%d" % number, _ALL)
            assert [found.offset for found in (await one.read(_ROOM, 3, _ALL, _ENOUGH)).records] == [4, 5]
            assert list((await one.read(_ROOM, 5, _ALL, _ENOUGH)).records) == []
            beyond = await one.read(_ROOM, 99, _ALL, _ENOUGH)
            assert (beyond.top, list(beyond.records)) == (5, [])

    async def test_a_page_is_bounded_in_bytes_but_holds_one_message_at_least(self) -> None:
        async with self.opened() as (one, _):
            for _number in range(4):
                await one.append(_ROOM, bytes(100), _ALL)
            assert [found.offset for found in (await one.read(_ROOM, 0, _ALL, 250)).records] == [1, 2]
            assert [found.offset for found in (await one.read(_ROOM, 2, _ALL, 1)).records] == [3]

    async def test_the_newest_are_kept_by_count(self) -> None:
        keep = Retention(3, _ENOUGH, 3_600.0)
        async with self.opened() as (one, two):
            for _number in range(40):
                await one.append(_ROOM, b"x", keep)
            page = await two.read(_ROOM, 0, keep, _ENOUGH)
            assert ([found.offset for found in page.records], page.top, page.floor) == ([38, 39, 40], 40, 37)

    async def test_the_newest_are_kept_by_size(self) -> None:
        keep = Retention(1_000, 250, 3_600.0)
        async with self.opened() as (one, _):
            for _number in range(5):
                await one.append(_ROOM, bytes(100), keep)
            page = await one.read(_ROOM, 0, keep, _ENOUGH)
            assert ([found.offset for found in page.records], page.floor) == ([4, 5], 3)
            await one.append(_ROOM, bytes(251), keep)
            page = await one.read(_ROOM, 0, keep, _ENOUGH)
            assert (list(page.records), page.top, page.floor) == ([], 6, 6)

    async def test_nothing_is_kept_beyond_its_age_but_the_offsets_go_on(self) -> None:
        keep = Retention(1_000, _ENOUGH, 0.0)
        async with self.opened() as (one, _):
            epoch, _offset = await one.append(_ROOM, b"x", keep)
            page = await one.read(_ROOM, 0, keep, _ENOUGH)
            assert (list(page.records), page.top, page.floor, page.epoch) == ([], 1, 1, epoch)
            assert await one.append(_ROOM, b"y", _ALL) == (epoch, 2)

    async def test_a_log_that_keeps_nothing_still_hands_on(self) -> None:
        keep = Retention(0, _ENOUGH, 3_600.0)
        async with self.opened() as (one, two):
            heard: list[Record] = []
            await two.subscribe(_ROOM, heard.append)
            for _number in range(20):
                await one.append(_ROOM, b"x", keep)
            await self.until(lambda: len(heard) == 20)
            page = await one.read(_ROOM, 0, keep, _ENOUGH)
            assert (list(page.records), page.top, page.floor) == ([], 20, 20)

    async def test_rooms_have_logs_of_their_own(self) -> None:
        async with self.opened() as (one, _):
            await one.append("a", b"x", _ALL)
            assert (await one.append("b", b"y", _ALL))[1] == 1
            assert [found.body for found in (await one.read("b", 0, _ALL, _ENOUGH)).records] == [b"y"]

    # -- fan-out

    async def test_all_nodes_hear_everything_once_and_in_order(self) -> None:
        async with self.opened() as (one, two):
            heard: tuple[list[Record], list[Record]] = ([], [])
            await one.subscribe(_ROOM, heard[0].append)
            await two.subscribe(_ROOM, heard[1].append)
            epoch, _ = await one.append(_ROOM, b"a", _ALL)
            await two.append(_ROOM, b"b", _ALL)
            await one.signal(_ROOM, b"s")
            await one.append(_ROOM, b"c", _ALL)
            await one.append("elsewhere", b"d", _ALL)
            expected = [Record(epoch, 1, b"a"), Record(epoch, 2, b"b"), Record("", 0, b"s"), Record(epoch, 3, b"c")]
            await self.until(lambda: all(len(each) >= 4 for each in heard))
            assert heard == (expected, expected)

    async def test_concurrent_publishers_get_offsets_without_holes(self) -> None:
        async with self.opened() as (one, two):
            heard: tuple[list[Record], list[Record]] = ([], [])
            await one.subscribe(_ROOM, heard[0].append)
            await two.subscribe(_ROOM, heard[1].append)
            got = await asyncio.gather(
                *(node.append(_ROOM, b"%d" % number, _ALL) for number in range(50) for node in (one, two))
            )
            assert sorted(offset for _, offset in got) == list(range(1, 101))
            await self.until(lambda: all(len(each) >= 100 for each in heard))
            kept = list((await one.read(_ROOM, 0, _ALL, _ENOUGH)).records)
            assert heard[0] == heard[1] == kept
            assert [record.offset for record in kept] == list(range(1, 101))

    async def test_nothing_falls_between_subscribing_and_reading(self) -> None:
        async with self.opened() as (one, two):

            async def publish() -> None:
                for number in range(60):
                    await two.append(_ROOM, b"%d" % number, _ALL)
                    await asyncio.sleep(0)

            publisher = asyncio.create_task(publish())
            heard: list[Record] = []
            await asyncio.sleep(0.01)
            await one.subscribe(_ROOM, heard.append)
            page = await one.read(_ROOM, 0, _ALL, _ENOUGH)
            await publisher
            await self.until(lambda: page.top == 60 or (heard and heard[-1].offset == 60))
            offsets = [record.offset for record in page.records]
            offsets += [record.offset for record in heard if record.offset > page.top]
            assert offsets == list(range(1, 61))

    async def test_a_receiver_that_left_or_failed_disturbs_nobody(self) -> None:
        async with self.opened() as (one, _):
            heard: list[Record] = []
            left: list[Record] = []

            def broken(record: Record) -> None:
                raise ValueError("as planned")

            await one.subscribe(_ROOM, left.append)
            await one.subscribe(_ROOM, broken)
            await one.subscribe(_ROOM, heard.append)
            await one.unsubscribe(_ROOM, left.append)
            await one.unsubscribe(_ROOM, left.append)
            await one.append(_ROOM, b"x", _ALL)
            await self.until(lambda: heard)
            assert (len(heard), left) == (1, [])

    # -- members

    async def test_members_of_all_nodes_are_listed_in_their_order(self) -> None:
        async with self.opened() as (one, two):
            heard: list[Record] = []
            await two.subscribe(_ROOM, heard.append)
            assert await one.add_member(_ROOM, "1", b"ada", b"will", b"joined ada", 3)
            assert await two.add_member(_ROOM, "2", b"bob", b"will", b"joined bob", 3)
            assert await one.add_member("elsewhere", "3", b"eve", b"will", b"joined eve", 3)
            assert await one.members(_ROOM) == await two.members(_ROOM) == [b"ada", b"bob"]
            assert await one.remove_member(_ROOM, "1", b"left ada")
            assert not await one.remove_member(_ROOM, "1", b"left ada")
            assert await two.members(_ROOM) == [b"bob"]
            await self.until(lambda: len(heard) >= 3)
            assert [record.body for record in heard] == [b"joined ada", b"joined bob", b"left ada"]

    async def test_a_full_room_takes_no_member_and_says_nothing(self) -> None:
        async with self.opened() as (one, two):
            heard: list[Record] = []
            await one.subscribe(_ROOM, heard.append)
            results = await asyncio.gather(
                *(node.add_member(_ROOM, f"{number}", b"", b"", b"", 5) for number, node in enumerate([one, two] * 5))
            )
            assert sum(results) == 5
            assert len(await two.members(_ROOM)) == 5
            await self.until(lambda: len(heard) >= 5)
            assert len(heard) == 5

    # -- the end

    async def test_opening_and_closing_twice_is_once(self) -> None:
        async with self.nodes() as (one, two):
            await asyncio.gather(one.open(), one.open())
            await one.open()
            await two.open()
            await one.append(_ROOM, b"x", _ALL)
            await one.close()
            await one.close()
