"""Leaks: whatever has ended leaves no task, no file descriptor and no object."""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from echostream_core.errors import ConnectFailed
from echostream_testkit.transport.stage import Stage, descriptors, nothing_unclosed
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["LeakChecks"]

_CONNECTIONS: Final = 8
_COLLECTIONS: Final = 50


class LeakChecks(TransportSubject):
    """What must be as it was before."""

    @staged
    async def test_closing_leaves_no_task_and_no_descriptor(self, stage: Stage) -> None:
        """Eight connections that carried bytes, closed by one side or the other, and their listener: nothing stays."""
        await _live_and_end(stage, "close")

    @staged
    async def test_aborting_leaves_no_task_and_no_descriptor(self, stage: Stage) -> None:
        """The same when they are aborted."""
        await _live_and_end(stage, "abort")

    @staged
    async def test_failed_dials_leave_nothing_behind(self, stage: Stage) -> None:
        """Eight dials that fail leave no task and no descriptor."""
        address = await stage.nobody_listens()
        await stage.refused(stage.dial(address), ConnectFailed, "dialling where nobody listens")
        tasks, files = asyncio.all_tasks(), descriptors()
        for _ in range(_CONNECTIONS):
            await stage.refused(stage.dial(address), ConnectFailed, "dialling where nobody listens")
        await stage.no_more_tasks_than(tasks)
        await stage.no_more_descriptors_than(files)

    @staged
    async def test_closed_connections_are_forgotten(self, stage: Stage) -> None:
        """Connections that have ended can be collected although their listener lives on."""
        listener = await stage.listen()
        address = listener.addresses[0]
        await stage.connect(address)
        kinds = {type(made) for made in stage.made()}
        before = _alive(kinds)
        for _ in range(_CONNECTIONS):
            near, far = await stage.connect(address)
            near.close()
            await stage.closed(near)
            await stage.closed(far)
            stage.forget(near, far)
            del near, far
        for _ in range(
            _COLLECTIONS
        ):  # by count: on a virtual clock, patience alone would collect twenty thousand times
            if _alive(kinds) <= before:
                return
            await stage.settle()
            await asyncio.sleep(0.01)
        raise AssertionError(f"{_alive(kinds) - before} objects of connections that have ended are kept by something")


async def _live_and_end(stage: Stage, how: str) -> None:
    tasks, files = await stage.warmed()
    with nothing_unclosed():
        await _live(stage, how)
        await stage.no_more_tasks_than(tasks)
        await stage.no_more_descriptors_than(files)


async def _live(stage: Stage, how: str) -> None:
    listener = await stage.listen()
    ends = []
    for number in range(_CONNECTIONS):
        near, far = await stage.connect(listener.addresses[0])
        if near.control is not None and far.control is not None:
            near.control.write(bytes(1_000))
            await stage.received(far.control, 1_000)
        ends += [near, far]
        getattr((near, far)[number % 2], how)()
    for end in ends:
        await stage.closed(end)
    await listener.close()


def _alive(kinds: set[type]) -> int:
    gc.collect()
    return sum(type(item) in kinds for item in gc.get_objects())
