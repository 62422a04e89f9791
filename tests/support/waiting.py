"""Waiting without sleeping: some turns of the loop, or until something is true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["other_tasks", "settle", "until"]

_PATIENCE_S = 20.0
"""Bounds a test that would never end; nothing is measured with it."""

_EAGER_TURNS = 200


async def settle(turns: int = 40) -> None:
    """Let whatever is under way in this process come to rest."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Return once ``condition`` holds. It is asked on every turn of the loop at first, then every millisecond.

    On a virtual loop that lets the time pass; TimeoutError when it never comes true.
    """
    async with asyncio.timeout(_PATIENCE_S):
        turns = 0
        while not condition():
            turns += 1
            await asyncio.sleep(0 if turns < _EAGER_TURNS else 0.001)


def other_tasks() -> set[asyncio.Task[object]]:
    """Every task that is not done, but for the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
