"""The gate: waiters in order, and no turn is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from echostream_core.engine.gate import Gate
from tests.support.waiting import settle

LOOPS = ("virtual",)


def made() -> Gate:
    return Gate(asyncio.get_running_loop())


async def waiters(gate: Gate, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.ensure_future(gate.wait()) for _ in range(count)]
    await settle()
    return tasks


async def test_waiters_go_through_in_order_of_arrival() -> None:
    gate = made()
    tasks = await waiters(gate, 3)
    assert gate.waiting == 3
    for position in range(3):
        gate.open_one()
        await settle()
        assert [task.done() for task in tasks] == [index <= position for index in range(3)]
    assert gate.waiting == 0


async def test_opening_without_waiters_leaves_nothing_behind() -> None:
    gate = made()
    gate.open_one()
    gate.open_all()
    (task,) = await waiters(gate, 1)
    assert not task.done()
    gate.open_all()
    await task


async def test_all_go_through_at_once() -> None:
    gate = made()
    tasks = await waiters(gate, 5)
    gate.open_all()
    await asyncio.gather(*tasks)


async def test_a_cancelled_waiter_leaves_the_line() -> None:
    gate = made()
    first, second = await waiters(gate, 2)
    first.cancel()
    await settle()
    assert first.cancelled()
    assert gate.waiting == 1
    gate.open_one()
    await second


async def test_a_waiter_cancelled_in_the_turn_it_was_let_through_passes_its_turn_on() -> None:
    gate = made()
    first, second = await waiters(gate, 2)
    gate.open_one()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()


async def test_a_waiter_cancelled_just_before_the_gate_opens_takes_no_turn() -> None:
    gate = made()
    first, second = await waiters(gate, 2)
    first.cancel()
    gate.open_one()
    await settle()
    assert first.cancelled()
    assert second.done()


async def test_a_failed_gate_raises_in_all_waiters() -> None:
    gate = made()
    tasks = await waiters(gate, 2)
    gate.fail(ConnectionError("gone"))
    for task in tasks:
        with pytest.raises(ConnectionError, match="gone"):
            await task
    assert gate.waiting == 0
