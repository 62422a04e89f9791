"""What the browser's client calls in the tests of the session: handlers that answer, wait, fail and call back.

The calls are those of scenarios.mjs.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Final

from echostream_core import Context, RpcError, StatusCode, handler

__all__ = ["RUN", "SCENARIOS", "Peer", "patterned"]

_SCENARIOS: Final = Path(__file__).with_name("scenarios.mjs")
SCENARIOS: Final = re.findall(r'^  async "(.*?)"', _SCENARIOS.read_text(encoding="utf-8"), re.MULTILINE)
"""The names of all scenarios."""

RUN: Final = """
    const { connect } = await import("/client/echostream.js");
    const { run } = await import("/tests/scenarios.mjs");
    return run(argument.name, connect, argument.url, argument.options);
"""
"""What a page runs, with ``{"name": …, "url": …, "options": …}``; the result is "passed"."""


def patterned(size: int) -> str:
    """``size`` characters of which no piece looks right in a wrong place; scenarios.mjs makes the same."""
    return "".join(chr(97 + (place * 7 + place // 26) % 26) for place in range(size))


class Peer:
    """The handlers of one server, and what they have seen."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.drains: list[asyncio.Task[None]] = []

    def handlers(self) -> list[object]:
        """For ``RpcServer``."""

        @handler("math.add")
        async def add(a: int, b: int) -> int:
            return a + b

        @handler("echo")
        async def echo(value: object) -> object:
            return value

        @handler("hash")
        async def sha256(data: bytes) -> str:
            return hashlib.sha256(data).hexdigest()

        @handler("text")
        async def text(size: int) -> str:
            return patterned(size)

        @handler("wait")
        async def wait(seconds: float, padding: str = "") -> str:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.seen["cancelled"] += 1
                raise
            return "waited"

        @handler("cancelled")
        async def cancelled() -> int:
            return self.seen["cancelled"]

        @handler("fail")
        async def fail() -> None:
            details = [("Hint", {"try": "another", "at": 3})]
            raise RpcError(StatusCode.NOT_FOUND, "no such thing: é", details=details, retry_after=1.5, retryable=True)

        @handler("boom")
        async def boom() -> None:
            raise ValueError("a secret of the server")

        @handler("ask")
        async def ask(method: str, payload: object, ctx: Context) -> object:
            return await ctx.session.request(method, payload)

        @handler("ask_and_give_up")
        async def ask_and_give_up(method: str, payload: object, ctx: Context) -> str:
            try:
                await ctx.session.request(method, payload, timeout=0.05)
            except RpcError as error:
                return error.code.name
            return "answered"

        @handler("metadata")
        async def metadata(ctx: Context) -> list[tuple[str, str]]:
            return [(key, str(value)) for key, value in ctx.metadata.items()]

        @handler("flush")
        async def flush(ctx: Context) -> str:
            await ctx.session.emit("nobody.listens", 1)
            await ctx.session.flush(timeout=5)
            return "flushed"

        @handler("open_stream")
        async def open_stream(ctx: Context) -> str:
            try:
                async with ctx.session.open_stream("no.stream", {"a": 1}) as stream:
                    await stream.send("x")
                    await stream.recv()
            except RpcError as error:
                return error.code.name
            return "taken"

        @handler("drain_me")
        async def drain_me(ctx: Context) -> None:
            self.drains.append(asyncio.create_task(ctx.session.drain(5.0)))

        @handler("close_me")
        async def close_me(code: int, reason: str, ctx: Context) -> None:
            ctx.session.close_now(code, reason)

        return [value for value in locals().values() if value is not self]
