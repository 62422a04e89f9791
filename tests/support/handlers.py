"""Handlers that many tests call, and one whose inside a test can watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from echostream_core import Context, Stream, handler, service, stream_handler

__all__ = ["BASIC", "Watched", "add", "collect", "count_up", "echo", "echo_stream", "make"]


@handler("echo")
async def echo(value: object) -> object:
    """What it was given."""
    return value


@handler("add")
async def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@handler("make")
async def make(size: int) -> bytes:
    """``size`` bytes."""
    return bytes(size)


@handler("count")
async def count_up(upto: int) -> AsyncIterator[int]:
    """0, 1, 2, …"""
    for number in range(upto):
        yield number


@stream_handler("collect")
async def collect(stream: Stream) -> int:
    """Read everything; the last item is how many bytes it was."""
    total = 0
    async for item in stream:
        total += len(item)
    return total


@stream_handler("echo_stream")
async def echo_stream(stream: Stream) -> None:
    """Send every item back."""
    async for item in stream:
        await stream.send(item)


BASIC = (echo, add, make, count_up, collect, echo_stream)


@service("watched")
class Watched:
    """A handler that waits until it is told, and tells what happens to it."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.finished = 0
        self.go_on = asyncio.Event()
        self.contexts: list[Context] = []
        self._change = asyncio.Event()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def reached(self, *, begun: int = 0, cancelled: int = 0, finished: int = 0) -> None:
        """Wait until so many have begun, been cancelled, and finished."""
        while self.begun < begun or self.cancelled < cancelled or self.finished < finished:
            await self._change.wait()

    @handler
    async def wait(self, ctx: Context) -> str:
        """Wait for ``go_on``."""
        self.begun += 1
        self.contexts.append(ctx)
        self._changed()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._changed()
            raise
        self.finished += 1
        self._changed()
        return "done"

    @stream_handler
    async def stream(self, stream: Stream, ctx: Context) -> None:
        """As ``wait``, as a stream; what it is sent stays unread until then, and is counted afterwards."""
        await self.wait(ctx)
        total = 0
        async for item in stream:
            total += len(item)
        await stream.send(total)
