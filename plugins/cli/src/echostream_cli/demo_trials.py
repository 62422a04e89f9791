"""What the demo's client does on each combination of transport and codec, and what it saw.

The client is one program: it reads ``[client.demo]``, and knows neither transport nor codec.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Protocol

from echostream_cli.demo_services import GREETINGS
from echostream_cli.demo_setup import CLIENT
from echostream_core import DeadlineExceeded, EchoStreamError, RpcClient, handler

__all__ = ["CHECKS", "STEPS", "Load", "Progress", "Row", "Trial"]

STEPS: Final = ("both ways", "cancel", "timeout", "round trip", "64 in flight", "file")
"""What is done on each combination, in this order."""
CHECKS: Final = ("both ways", "cancel", "timeout", "file")
"""Which of them are about right or wrong; the others measure."""
PATIENCE_S: Final = 15.0
"""How long one step may take, the file aside: a step that hangs is a failure."""
FILE_PATIENCE_S: Final = 120.0
"""The least time that a file may take to arrive."""
SLOWEST_BYTES_PER_S: Final = 1_000_000
SHORT_TIMEOUT_S: Final = 0.1
CHUNK_BYTES: Final = 64 * 1024
IN_FLIGHT: Final = 64
PAYLOAD: Final = "thirty-two bytes, there and back"


class CheckFailed(Exception):
    """What was seen is not what must be."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much to measure."""

    calls: int
    """Calls one after the other, for the round trip."""
    seconds: float
    """How long to keep 64 calls in flight."""


@dataclass(slots=True)
class Row:
    """What came of one combination."""

    transport: str
    codec: str
    p50_ms: float | None = None
    """Round trip of one small call, median and 99th percentile."""
    p99_ms: float | None = None
    calls_per_s: float | None = None
    """With 64 in flight."""
    mb_per_s: float | None = None
    """The file, in 10⁶ bytes."""
    checks: dict[str, bool] = field(default_factory=dict)
    """Which of ``CHECKS`` held; one that was not come to is missing."""
    problems: list[str] = field(default_factory=list)
    """What went wrong, one sentence each."""
    missing: str = ""
    """What is not installed, and how to get it: then nothing was tried."""

    @property
    def ok(self) -> bool:
        """Whether it was tried and everything held."""
        return not self.problems and not self.missing and all(self.checks.get(name) for name in CHECKS)

    @property
    def verdict(self) -> str:
        """``ok``, ``FAILED`` with the steps that failed, or what to install."""
        if self.missing:
            return self.missing
        if self.problems:
            return f"FAILED: {', '.join(text.partition(':')[0] for text in self.problems)}"
        return "ok" if self.ok else "FAILED"

    def as_dict(self) -> dict[str, object]:
        """The row as plain data."""
        return {**asdict(self), "ok": self.ok}


class Progress(Protocol):
    """Who is told how far a trial has come."""

    def begin(self, row: Row) -> None:
        """A combination is begun."""

    def step(self, name: str) -> None:
        """The next step of it."""

    def sent(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the file has been handed over."""

    def end(self, row: Row) -> None:
        """The combination is done; ``row`` is complete."""


@handler("visitor.language")
def language() -> str:
    """What the server asks its visitor."""
    return "fr"


class Trial:
    """All steps on one combination. None of them raises: what went wrong stands in the row."""

    def __init__(self, row: Row, load: Load, file: Path, sha256: str, progress: Progress) -> None:
        """``sha256`` is what the file has here, before it is sent."""
        self.row = row
        self._load = load
        self._file = file
        self._sha256 = sha256
        self._progress = progress

    async def run(self, configuration: Path) -> None:
        """Connect as ``configuration`` and the environment say, then take the steps."""
        self._progress.begin(self.row)
        try:
            async with asyncio.timeout(PATIENCE_S):
                client = await RpcClient.from_config(configuration, CLIENT, language)
        except Exception as error:  # as in _step: whatever it was, the row must show it
            self._note("connect", error)
        else:
            try:
                await self._steps(client)
            finally:
                await client.close()
        self._progress.end(self.row)

    async def _steps(self, client: RpcClient) -> None:
        file_bytes = os.path.getsize(self._file)
        actions: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: self._both_ways(client),
            lambda: self._cancel(client),
            lambda: self._timeout(client),
            lambda: self._round_trip(client),
            lambda: self._in_flight(client),
            lambda: self._send_file(client, file_bytes),
        )
        for name, action in zip(STEPS, actions, strict=True):
            patience_s = PATIENCE_S if name != "file" else FILE_PATIENCE_S + file_bytes / SLOWEST_BYTES_PER_S
            await self._step(name, action, patience_s)

    async def _step(self, name: str, action: Callable[[], Awaitable[None]], patience_s: float) -> None:
        self._progress.step(name)
        try:
            async with asyncio.timeout(patience_s):
                await action()
        except Exception as error:  # also one that only a defect of ours can raise: the row must show it
            self._note(name, error)
        if name in CHECKS:
            self.row.checks[name] = not any(text.startswith(f"{name}: ") for text in self.row.problems)

    def _note(self, step: str, error: Exception) -> None:
        while isinstance(error, ExceptionGroup):  # 64 callers meet the same end
            error = error.exceptions[0]
        known = isinstance(error, (EchoStreamError, CheckFailed))
        text = str(error) if known and str(error) else f"{type(error).__name__}: {error}".rstrip(": ")
        if type(error) is TimeoutError:
            text = "did not finish in time"
        self.row.problems.append(f"{step}: {text}")

    async def _both_ways(self, client: RpcClient) -> None:
        """Call a handler that calls us back before it answers."""
        answer = await client.request("demo.greet", "visitor")
        if answer != f"{GREETINGS['fr']}, visitor!":
            raise CheckFailed(f"the server answered {answer!r}")
        codecs = client.session.codecs
        found = (client.peer.partition("://")[0], codecs.name(codecs.out_id))
        if found != (self.row.transport, self.row.codec):
            raise CheckFailed(f"the session is on {found[0]} with {found[1]}: the configuration was not obeyed")

    async def _cancel(self, client: RpcClient) -> None:
        """Cancel a call while its handler runs; the handler must feel it."""
        ticket = secrets.token_hex(8)
        call = asyncio.ensure_future(client.request("demo.hold", ticket))
        try:
            await client.request("demo.held", ticket)
        finally:
            call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            raise CheckFailed("the cancelled call did not end as cancelled here")
        await self._expect_cancelled(client, ticket)

    async def _timeout(self, client: RpcClient) -> None:
        """Let a call run into its timeout; the handler must be ended too."""
        ticket = secrets.token_hex(8)
        try:
            await client.request("demo.hold", ticket, timeout=SHORT_TIMEOUT_S)
        except DeadlineExceeded:
            await self._expect_cancelled(client, ticket)
        else:
            raise CheckFailed("a call longer than its timeout returned")

    async def _expect_cancelled(self, client: RpcClient, ticket: str) -> None:
        fate = await client.request("demo.fate", ticket)
        if fate != "cancelled":
            raise CheckFailed(f"the handler was not cancelled on the server: {fate}")

    async def _round_trip(self, client: RpcClient) -> None:
        """Time one call after the other."""
        for _ in range(self._load.calls // 10):
            await self._echo(client)
        times = []
        for _ in range(self._load.calls):
            begin = time.perf_counter()
            await self._echo(client)
            times.append(time.perf_counter() - begin)
        times.sort()
        self.row.p50_ms = 1000 * times[len(times) // 2]
        self.row.p99_ms = 1000 * times[len(times) * 99 // 100]

    async def _in_flight(self, client: RpcClient) -> None:
        """Keep 64 calls in flight for a while and count the answers."""
        begin = time.perf_counter()
        end = begin + self._load.seconds
        done = 0

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self._echo(client)
                done += 1

        async with asyncio.TaskGroup() as callers:
            for _ in range(IN_FLIGHT):
                callers.create_task(caller())
        self.row.calls_per_s = done / (time.perf_counter() - begin)

    async def _echo(self, client: RpcClient) -> None:
        answer = await client.request("demo.echo", PAYLOAD)
        if answer != PAYLOAD:
            raise CheckFailed(f"the echo of {PAYLOAD!r} is {answer!r}")

    async def _send_file(self, client: RpcClient, size: int) -> None:
        """Send the file in chunks through a stream and compare the receipt with what we have."""
        sent = 0
        begin = time.perf_counter()
        async with client.open_stream("demo.upload", {"name": self._file.name, "size": size}) as stream:
            with self._file.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    await stream.send(chunk)
                    sent += len(chunk)
                    self._progress.sent(sent, size)
            await stream.end()
            receipt = await stream.recv()
        self.row.mb_per_s = sent / (time.perf_counter() - begin) / 1e6
        if receipt["bytes"] != sent:
            raise CheckFailed(f"{sent} bytes were sent, {receipt['bytes']} arrived")
        if receipt["sha256"] != self._sha256:
            raise CheckFailed(f"the file arrived damaged: {receipt['sha256'][:16]}… instead of {self._sha256[:16]}…")
