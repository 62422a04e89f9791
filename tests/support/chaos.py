"""Everything at once, at random: calls both ways, streams, cancellations, deadlines, resets. Seeded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from echostream_core import Context, EchoStreamError, Session, Stream, handler, stream_handler

__all__ = ["Chaos", "crowd"]


class Chaos:
    """The random source of one test, the handlers of both ends, and the counts that must agree."""

    def __init__(self, seed: int, *, patience: float = 5.0) -> None:
        """``patience``: the longest deadline of a stream, in seconds of the loop's clock."""
        self.patience = patience
        self.draw = random.Random(seed)
        self.running = 0
        self.outcomes: dict[str, int] = {}

    async def pause(self) -> None:
        """Nothing, a turn, or a while."""
        match self.draw.randrange(4):
            case 0:
                await asyncio.sleep(0)
            case 1:
                await asyncio.sleep(self.draw.uniform(0, 0.05))
            case _:
                return

    def text(self) -> str:
        """Small, about the in-line limit, or larger than a window."""
        return "x" * self.draw.choice((0, 1, 10, 2_040, 2_050, 9_000, 40_000, 70_000, 200_000))

    def handlers(self) -> list[object]:
        """For either end."""

        @handler("echo")
        async def echo(value: object) -> object:
            self.running += 1
            try:
                await self.pause()
                return value
            finally:
                self.running -= 1

        @handler("in_place")
        def in_place(value: object) -> object:
            return value

        @handler("fail")
        async def fail() -> None:
            await self.pause()
            raise ValueError("as planned")

        @handler("nested")
        async def nested(depth: int, ctx: Context) -> int:
            self.running += 1
            try:
                await self.pause()
                if not depth:
                    return 0
                return 1 + int(
                    await ctx.session.request("nested", depth - 1, timeout=self.draw.choice((0.02, 5, None)))
                )
            finally:
                self.running -= 1

        @handler("items")
        async def items(count: int) -> AsyncIterator[str]:
            self.running += 1
            try:
                for _ in range(count):
                    await self.pause()
                    yield self.text()
            finally:
                self.running -= 1

        @stream_handler("echo_stream")
        async def echo_stream(stream: Stream) -> int:
            self.running += 1
            try:
                count = 0
                async for item in stream:
                    await self.pause()
                    if self.draw.random() < 0.9:
                        await stream.send(item)
                    count += 1
                    if self.draw.random() < 0.02:
                        stream.reset(5)
                    if self.draw.random() < 0.02:
                        return count
                return count
            finally:
                self.running -= 1

        return [echo, in_place, fail, nested, items, echo_stream]

    async def operate(self, session: Session) -> None:
        """One operation, which may be given up in the middle."""
        name = self.draw.choice(("echo", "echo", "in_place", "fail", "nested", "items", "stream"))
        task = asyncio.ensure_future(getattr(self, name)(session))
        try:
            if self.draw.random() < 0.25:
                async with asyncio.timeout(self.draw.choice((0, 0.001, 0.03))):
                    await task
            else:
                await task
            outcome = "done"
        except TimeoutError:
            outcome = "given up"
        except EchoStreamError as error:
            outcome = type(error).__name__
        key = f"{name}: {outcome}"
        self.outcomes[key] = self.outcomes.get(key, 0) + 1

    async def echo(self, session: Session) -> None:
        await self.call(session, "echo")

    async def in_place(self, session: Session) -> None:
        await self.call(session, "in_place")

    async def call(self, session: Session, method: str) -> None:
        text = self.text()
        assert await session.request(method, text, timeout=self.draw.choice((0.01, 5, None))) == text

    async def fail(self, session: Session) -> None:
        await session.request("fail")

    async def nested(self, session: Session) -> None:
        depth = self.draw.randrange(5)
        assert await session.request("nested", depth) == depth

    async def items(self, session: Session) -> None:
        async for _ in session.stream("items", self.draw.randrange(20)):
            await self.pause()
            if self.draw.random() < 0.05:
                break

    async def stream(self, session: Session) -> None:
        # Never without a deadline: both ends may be sending to each other with nobody reading.
        async with session.open_stream("echo_stream", timeout=self.draw.choice((0.05, self.patience))) as stream:
            for _ in range(self.draw.randrange(10)):
                await stream.send(self.text())
                await self.pause()
                if self.draw.random() < 0.3 and self.draw.random() < 0.9:
                    async with asyncio.timeout(0.05):
                        await stream.recv()
            if self.draw.random() < 0.7:
                await stream.end()
                async for _ in stream:
                    await self.pause()


async def crowd(chaos: Chaos, sessions: list[Session], operations: int) -> None:
    """``operations`` in several tasks on all sessions."""

    async def one() -> None:
        for _ in range(operations // 20):
            await chaos.operate(chaos.draw.choice(sessions))
            await chaos.pause()

    await asyncio.gather(*(one() for _ in range(20)))
