"""Slots: never more than the limit, in order of arrival, and none is ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from echostream_core import DeadlineExceeded
from echostream_core.engine.slots import Slots
from tests.support.waiting import settle

LOOPS = ("virtual",)

FOREVER = float("inf")


def made(limit: int) -> Slots:
    return Slots(asyncio.get_running_loop(), limit)


async def waiters(slots: Slots, count: int, deadline: float = FOREVER) -> list[asyncio.Task[None]]:
    tasks = [asyncio.ensure_future(slots.wait(deadline)) for _ in range(count)]
    await settle()
    return tasks


async def test_free_slots_are_taken_at_once() -> None:
    slots = made(2)
    assert slots.take()
    await slots.wait(FOREVER)
    assert slots.used == 2
    assert not slots.take()


async def test_a_freed_slot_goes_to_the_first_who_waits() -> None:
    slots = made(1)
    assert slots.take()
    tasks = await waiters(slots, 3)
    for position in range(3):
        slots.release()
        await settle()
        assert [task.done() for task in tasks] == [index <= position for index in range(3)]
        assert slots.used == 1
    slots.release()
    assert slots.used == 0


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    slots = made(1)
    assert slots.take()
    (first,) = await waiters(slots, 1)
    slots.release()
    assert not slots.take(), "it is the first waiter's, though it has not run yet"
    await first
    assert slots.used == 1


async def test_a_higher_limit_lets_waiters_through_at_once() -> None:
    slots = made(0)
    tasks = await waiters(slots, 5)
    slots.resize(3)
    await settle()
    assert [task.done() for task in tasks] == [True] * 3 + [False] * 2
    assert slots.used == 3
    for task in tasks[3:]:
        task.cancel()


async def test_after_a_lower_limit_slots_are_given_back_first() -> None:
    slots = made(3)
    for _ in range(3):
        assert slots.take()
    (waiting,) = await waiters(slots, 1)
    slots.resize(1)
    slots.release()
    slots.release()
    await settle()
    assert not waiting.done()
    assert slots.used == 1
    slots.release()
    await waiting
    assert slots.used == 1


async def test_waiting_ends_at_the_deadline() -> None:
    slots = made(1)
    assert slots.take()
    with pytest.raises(DeadlineExceeded, match="no free slot in time: 1 calls are open") as caught:
        await slots.wait(asyncio.get_running_loop().time() + 2)
    assert caught.value.not_processed
    slots.release()
    assert slots.used == 0
    assert slots.take()


async def test_a_deadline_in_the_turn_of_a_release_loses_no_slot() -> None:
    slots = made(1)
    assert slots.take()
    loop = asyncio.get_running_loop()
    (waiting,) = await waiters(slots, 1, loop.time() + 2)
    loop.call_at(loop.time() + 2, slots.release)
    await asyncio.wait({waiting})
    await settle()
    if waiting.exception() is None:
        assert slots.used == 1
    else:
        assert slots.used == 0


async def test_a_cancelled_waiter_leaves_the_line() -> None:
    slots = made(1)
    assert slots.take()
    first, second = await waiters(slots, 2)
    first.cancel()
    await settle()
    slots.release()
    await second
    assert slots.used == 1


async def test_a_waiter_cancelled_in_the_turn_it_was_let_through_gives_its_slot_back() -> None:
    slots = made(1)
    assert slots.take()
    first, second = await waiters(slots, 2)
    slots.release()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert slots.used == 1


async def test_the_end_is_told_to_all_who_wait() -> None:
    slots = made(0)
    tasks = await waiters(slots, 3)
    slots.fail(ConnectionError("gone"))
    for task in tasks:
        with pytest.raises(ConnectionError):
            await task


@pytest.mark.parametrize("seed", range(20))
async def test_no_slot_is_lost_or_made_whatever_happens(seed: int) -> None:
    draw = random.Random(seed)
    slots = made(4)
    running = 0
    most = 0

    async def use() -> None:
        nonlocal running, most
        await slots.wait(asyncio.get_running_loop().time() + draw.uniform(0, 20))
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(draw.uniform(0, 5))
        finally:
            running -= 1
            slots.release()

    tasks = [asyncio.ensure_future(use()) for _ in range(60)]
    for _ in range(40):
        await asyncio.sleep(draw.uniform(0, 1))
        draw.choice(tasks).cancel()
    await asyncio.wait(tasks)
    assert slots.used == 0
    assert not slots.waiters
    assert most <= 4
    for task in tasks:
        assert task.cancelled() or task.exception() is None or isinstance(task.exception(), DeadlineExceeded)
