"""One timer for many deadlines: never late, and quiet when there is nothing to do."""

from __future__ import annotations

import asyncio

from echostream_core.engine.timer import EarliestTimer

LOOPS = ("virtual",)


class Deadlines:
    """Deadlines, and when ``scan`` was called for them."""

    def __init__(self, *deadlines: float) -> None:
        self.deadlines = sorted(deadlines)
        self.scans: list[float] = []
        self.timer = EarliestTimer(asyncio.get_running_loop(), self.scan)

    def scan(self, now: float) -> float | None:
        self.scans.append(now)
        self.deadlines = [deadline for deadline in self.deadlines if deadline > now]
        return self.deadlines[0] if self.deadlines else None


async def test_it_scans_at_each_deadline_in_turn() -> None:
    due = Deadlines(1.0, 2.0, 5.0)
    due.timer.need(1.0)
    await asyncio.sleep(10)
    assert due.scans == [1.0, 2.0, 5.0]


async def test_an_earlier_deadline_moves_it_forward_and_a_later_one_does_not_move_it_back() -> None:
    due = Deadlines(3.0)
    due.timer.need(3.0)
    due.timer.need(7.0)
    assert due.timer.at == 3.0
    due.timer.need(1.0)
    assert due.timer.at == 1.0
    await asyncio.sleep(10)
    assert due.scans == [1.0, 3.0]


async def test_a_deadline_that_has_passed_is_scanned_on_a_later_turn() -> None:
    due = Deadlines()
    await asyncio.sleep(5)
    due.timer.need(1.0)
    assert due.scans == []
    await asyncio.sleep(0.001)
    assert due.scans == [5.0]


async def test_a_need_inside_the_scan_is_kept() -> None:
    due = Deadlines()

    def scan(now: float) -> float | None:
        due.scans.append(now)
        if now < 4:
            timer.need(now + 1)
        return None

    timer = EarliestTimer(asyncio.get_running_loop(), scan)
    timer.need(1.0)
    await asyncio.sleep(10)
    assert due.scans == [1.0, 2.0, 3.0, 4.0]


async def test_a_cancelled_timer_never_fires_again() -> None:
    due = Deadlines(1.0)
    due.timer.need(1.0)
    due.timer.cancel()
    due.timer.need(2.0)
    due.timer.cancel()
    await asyncio.sleep(10)
    assert due.scans == []


async def test_it_can_be_cancelled_inside_its_own_scan() -> None:
    scans = []

    def scan(now: float) -> float | None:
        scans.append(now)
        timer.cancel()
        return now + 1

    timer = EarliestTimer(asyncio.get_running_loop(), scan)
    timer.need(1.0)
    await asyncio.sleep(10)
    assert scans == [1.0]
