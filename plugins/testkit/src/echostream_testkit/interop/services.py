"""The services that every listener offers under the name ``interop``.

The shapes of payloads and answers stand in ``docs/interop.md``; they use nothing but the value model that all codecs
share. A ``tag`` is any text of the dialer's: what happened under it can be asked for with ``interop.tally``, so cases
do not disturb each other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from echostream_core import (
    Context,
    RemoteError,
    RpcError,
    StatusCode,
    Stream,
    StreamReset,
    handler,
    service,
    stream_handler,
)
from echostream_testkit.interop.contract import pattern

__all__ = ["InteropServices", "Tally"]

DRAIN_S: Final = 10.0
"""What ``interop.drain`` allows the calls that run."""


@dataclass(slots=True)
class Tally:
    """What happened under one tag."""

    started: int = 0
    cancelled: int = 0
    finished: int = 0


@service("interop")
class InteropServices:
    """One per listener."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._draining: set[asyncio.Task[None]] = set()

    def _tally(self, tag: str) -> Tally:
        return self._tallies.setdefault(tag, Tally())

    # -- calls

    @handler
    def echo(self, value: Any) -> Any:
        """The payload, unchanged."""
        return value

    @handler
    def echo_bytes(self, value: bytes) -> bytes:
        """The payload, unchanged, as bytes: also over a codec that has none of its own."""
        return value

    @handler
    def sum(self, numbers: list[int]) -> int:
        """The sum of a list of integers."""
        return sum(numbers)

    @handler
    def fail(
        self,
        code: int,
        message: str = "",
        details: list[tuple[str, Any]] | None = None,
        retryable: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        """Fail with this status, message and these typed details."""
        raise RpcError(StatusCode(code), message, details=details or (), retryable=retryable, retry_after=retry_after)

    @handler
    def crash(self, secret: str) -> None:
        """Fail as a handler with a mistake in it does; ``secret`` must not reach the caller."""
        raise RuntimeError(secret)

    @handler
    async def slow(self, seconds: float, tag: str = "") -> str:
        """Answer with ``tag`` after ``seconds``, or once ``tag`` is released; counted under ``tag``."""
        tally = self._tally(tag)
        tally.started += 1
        try:
            async with asyncio.timeout(seconds):
                await self._released[tag].wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            tally.cancelled += 1
            raise
        tally.finished += 1
        return tag

    @handler
    def release(self, tag: str) -> None:
        """Let every ``interop.slow`` with this tag answer now."""
        self._released[tag].set()

    @handler
    def tally(self, tag: str) -> dict[str, int]:
        """How many handlers have started, were cancelled, have finished under ``tag``."""
        return asdict(self._tally(tag))

    @handler
    def remaining(self, ctx: Context) -> int | None:
        """Milliseconds until the deadline of this very call; null without one."""
        left = ctx.remaining()
        return None if left is None else int(left * 1000)

    @handler
    def metadata(self, ctx: Context) -> list[tuple[str, str]]:
        """The metadata as it came, in order: pairs of key and text, hexadecimal where the key ends in ``-bin``."""
        return [(key, value.hex() if isinstance(value, bytes) else value) for key, value in ctx.metadata_pairs]

    # -- streams

    @handler
    async def count(self, upto: int, tag: str = "") -> AsyncIterator[int]:
        """The integers from 0 to ``upto`` - 1; counted under ``tag``."""
        tally = self._tally(tag)
        tally.started += 1
        whole = False
        try:
            for number in range(upto):
                yield number
            whole = True
        finally:
            if whole:
                tally.finished += 1
            else:
                tally.cancelled += 1

    @handler
    async def count_and_fail(self, upto: int, code: int, message: str = "") -> AsyncIterator[int]:
        """The integers from 0 to ``upto`` - 1, then this status."""
        for number in range(upto):
            yield number
        raise RpcError(StatusCode(code), message)

    @handler
    async def download(self, size: int, seed: int, chunk: int = 65_536) -> AsyncIterator[bytes]:
        """``size`` raw bytes of the pattern that ``seed`` makes, in items of ``chunk`` bytes."""
        for piece in pattern(seed, size, chunk):
            yield piece

    @stream_handler
    async def upload(self, stream: Stream, tag: str) -> dict[str, object]:
        """Take raw bytes to the end; answer with their number and SHA-256. Counted under ``tag``."""
        tally = self._tally(tag)
        tally.started += 1
        digest, size = sha256(), 0
        try:
            async for chunk in stream:
                digest.update(chunk)
                size += len(chunk)
        except (asyncio.CancelledError, StreamReset):
            tally.cancelled += 1
            raise
        tally.finished += 1
        return {"bytes": size, "sha256": digest.hexdigest()}

    @stream_handler
    async def total(self, stream: Stream) -> int:
        """Take integers to the end; answer with their sum."""
        total = 0
        async for number in stream:
            total += number
        return total

    @stream_handler
    async def chat(self, stream: Stream) -> None:
        """Send each item back at once, and end when the dialer has."""
        async for item in stream:
            await stream.send(item)

    # -- the session

    @handler
    async def call_back(self, method: str, ctx: Context, payload: Any = None) -> dict[str, object]:
        """Call ``method`` of the dialer: ``{"ok": true, "answer"}``, or ``{"ok": false, "code", "message"}``."""
        try:
            answer = await ctx.session.request(method, payload)
        except RemoteError as error:
            return {"ok": False, "code": int(error.code), "message": error.message}
        return {"ok": True, "answer": answer}

    @handler
    async def call_back_stream(self, method: str, ctx: Context, payload: Any = None) -> list[Any]:
        """All items that ``method`` of the dialer yields."""
        return [item async for item in ctx.session.stream(method, payload)]

    @handler
    async def drain(self, ctx: Context) -> None:
        """Answer, then shut this session down gracefully: GOAWAY, let the calls finish that run, close."""
        task = asyncio.get_running_loop().create_task(ctx.session.drain(DRAIN_S, "drained, as asked"))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
