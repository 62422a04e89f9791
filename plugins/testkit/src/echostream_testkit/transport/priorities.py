"""Priorities: what is urgent overtakes what waits, and starves nobody.

A backlog of bulk is made longer than any buffer of the system, in many substreams, for each may send one window ahead
of its reader. Behind it, small messages of class bulk are written, and behind those urgent ones: without priorities
they arrive in the order in which they were written.
"""

from __future__ import annotations

from typing import Final

from echostream_core.types import Priority
from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.recording import Line
from echostream_testkit.transport.relay import Relay
from echostream_testkit.transport.stage import Pair, Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["PriorityChecks"]

_BACKLOG: Final = 128
_BACKLOG_BYTES: Final = 65_536
_SMALL: Final = 8


class PriorityChecks(TransportSubject):
    """The flag ``priorities``."""

    @capability("priorities")
    @needs("streams")
    @staged
    async def test_priorities_urgent_overtakes_bulk(self, stage: Stage) -> None:
        """Urgent messages arrive before the bulk ones that were written before them, while a backlog waits."""
        queue = await _Queue.behind_a_backlog(stage)
        queue.write("bulk", Priority.BULK)
        await queue.rest()
        queue.write("urgent", Priority.URGENT)
        order = await queue.arrivals()
        assert _last(order, "urgent") < _first(order, "bulk"), f"urgent messages overtook nothing: {order}"

    @capability("priorities")
    @needs("streams")
    @staged
    async def test_priorities_can_be_changed(self, stage: Stage) -> None:
        """``set_priority`` moves what already waits."""
        queue = await _Queue.behind_a_backlog(stage)
        queue.write("bulk", Priority.BULK)
        for line in queue.write("raised", Priority.BULK):
            line.substream.set_priority(Priority.URGENT)
        order = await queue.arrivals()
        assert _last(order, "raised") < _first(order, "bulk"), f"what was raised overtook nothing: {order}"

    @capability("priorities")
    @needs("streams")
    @staged
    async def test_priorities_starve_nobody(self, stage: Stage) -> None:
        """Bulk gets through while urgent substreams have more to send than the path carries."""
        pair = await stage.pair()
        for _ in range(4):
            urgent, reader = await stage.line(pair, priority=Priority.URGENT)
            chunk = bytes(65_536)
            urgent.write(*[chunk] * 8)
            reader.hook = lambda data, urgent=urgent: urgent.write(bytes(len(data))) and None
        bulk, far = await stage.line(pair, priority=Priority.BULK)
        bulk.write(bytes(100_000))
        await stage.received(far, 100_000, "bytes of bulk beside urgent substreams that never rest")

    @capability("priorities", claimed=False)
    @needs("streams")
    @staged
    async def test_priorities_absent_keep_the_order(self, stage: Stage) -> None:
        """Without ``priorities`` what is urgent waits behind what was written before it."""
        queue = await _Queue.behind_a_backlog(stage)
        queue.write("bulk", Priority.BULK)
        await queue.rest()
        queue.write("urgent", Priority.URGENT)
        order = await queue.arrivals()
        assert _last(order, "urgent") > _first(order, "bulk"), "not claimed, and yet urgent overtook bulk"


class _Queue:
    """Small messages behind a backlog that waits at the dialling side."""

    def __init__(self, stage: Stage, pair: Pair, relay: Relay | None) -> None:
        self._stage = stage
        self._pair = pair
        self._relay = relay
        self._count = 0

    @classmethod
    async def behind_a_backlog(cls, stage: Stage) -> _Queue:
        """Connect, hold the path where it can be held, and write the backlog."""
        relay = None
        if await stage.carrier() in {"tcp", "unix"}:  # what UDP does not deliver is lost; its sender holds back itself
            relay = await stage.relay()
            relay.records = False
        pair = await stage.pair(relay=relay)
        if relay is not None:
            relay.hold("up")
        for _ in range(_BACKLOG):
            pair.near.open(Priority.BULK).write(bytes(_BACKLOG_BYTES))
        if relay is not None:
            await stage.settle()  # what the system's buffers take, they take now
        return cls(stage, pair, relay)

    def write(self, what: str, priority: Priority) -> list[Line]:
        """Eight messages that say ``what``, each on a substream of its own."""
        lines = [self._pair.near.open(priority) for _ in range(_SMALL)]
        for line in lines:
            line.write(what.encode())
        self._count += _SMALL
        return lines

    async def rest(self) -> None:
        """Let what is written go as far down as it gets; from there it must not be out of reach of what is urgent."""
        if self._relay is not None:
            await self._stage.settle()

    async def arrivals(self) -> list[str]:
        """What the messages say, in the order in which they arrive."""
        order: list[str] = []

        def note(line: Line) -> None:
            def first(data: bytes) -> None:
                if len(line.data) < 100 and data.isalpha():
                    order.append(data.decode())

            line.hook = first

        self._pair.far.hook = note
        if self._relay is not None:
            self._relay.release("up")
        await self._stage.until(lambda: len(order) >= self._count, "the small messages to arrive")
        return order


def _first(order: list[str], what: str) -> int:
    return order.index(what)


def _last(order: list[str], what: str) -> int:
    return len(order) - 1 - order[::-1].index(what)
