"""The load that the client's process puts on a server: the same loops for every peer.

A call counts when its reply has come back with the right length; each caller's first reply is compared whole.
Bulk is counted by the server, and the clock runs until the server has said so.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peer import EchoClient, Peer
from benchmarks.rows import Kind, Row

__all__ = ["Figures", "LoadError", "Window", "measure"]

Figures = dict[str, float]
"""Names of figures to values; ``value`` is the row's own, in the row's unit."""

WARM_CONNECTIONS: Final = 50
"""Opened before the first look at the server's memory, so that lazy imports and caches are not counted."""

SETTLE_S: Final = 1.0
"""How long a server is left alone before its memory is read."""

CLOCK_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class LoadError(Exception):
    """A peer answered, and the answer was wrong: its rate would mean nothing."""


@dataclass(frozen=True, slots=True)
class Window:
    """How long to warm up and to measure, how many connections to hold, and whose memory to read."""

    warmup_s: float
    seconds: float
    connections: int
    server_pid: int | None


@dataclass(slots=True)
class _Meter:
    """What the callers of one connection share."""

    payload: bytes
    running: bool = True
    calls: int = 0
    latencies_ns: list[int] = field(default_factory=list)


async def measure(peer: Peer, address: str, row: Row, window: Window, report: Callable[[Figures], None]) -> None:
    """Measure one row against a server that listens at ``address`` and report its figures once."""
    if row.kind is Kind.IDLE:
        await _measure_idle(peer, address, row, window, report)
        return
    async with peer.connect(address) as client:
        if row.kind is Kind.BULK:
            figures = await _measure_bulk(client, row, window)
        else:
            figures = await _measure_calls(client, row, window)
        report(figures)


async def _measure_calls(client: EchoClient, row: Row, window: Window) -> Figures:
    meter = _Meter(payload=_payload(row))
    caller = _timed_caller if row.timed else _caller
    async with asyncio.TaskGroup() as callers:
        for _ in range(row.in_flight):
            callers.create_task(caller(client, meter))
        await asyncio.sleep(window.warmup_s)
        cpu_before, started, calls_before = _cpu_s(window.server_pid), time.perf_counter(), meter.calls
        first_latency = len(meter.latencies_ns)
        await asyncio.sleep(window.seconds)
        elapsed_s, calls = time.perf_counter() - started, meter.calls - calls_before
        cpu_s = _cpu_s(window.server_pid) - cpu_before
        latencies = sorted(meter.latencies_ns[first_latency:])
        meter.running = False
    if not calls:
        raise LoadError(f"no call completed within {window.seconds} s")
    figures = {"value": calls / elapsed_s, "cpu_us_per_call": cpu_s * 1e6 / calls}
    if latencies:
        figures["p50_us"] = latencies[len(latencies) // 2] / 1000
        figures["p99_us"] = latencies[len(latencies) * 99 // 100] / 1000
    return figures


async def _caller(client: EchoClient, meter: _Meter) -> None:
    payload, size = meter.payload, len(meter.payload)
    await _check_first(client, payload)
    while meter.running:
        reply = await client.echo(payload)
        if len(reply) != size:
            raise LoadError(f"sent {size} bytes, got {len(reply)} back")
        meter.calls += 1


async def _timed_caller(client: EchoClient, meter: _Meter) -> None:
    payload, size, clock = meter.payload, len(meter.payload), time.perf_counter_ns
    await _check_first(client, payload)
    while meter.running:
        started = clock()
        reply = await client.echo(payload)
        if len(reply) != size:
            raise LoadError(f"sent {size} bytes, got {len(reply)} back")
        meter.latencies_ns.append(clock() - started)
        meter.calls += 1


async def _check_first(client: EchoClient, payload: bytes) -> None:
    if bytes(await client.echo(payload)) != payload:
        raise LoadError("the first reply is not what was sent")


async def _measure_bulk(client: EchoClient, row: Row, window: Window) -> Figures:
    chunk = _payload(row)
    await _send_for(client, chunk, window.warmup_s)
    cpu_before, started = _cpu_s(window.server_pid), time.perf_counter()
    sent_bytes = await _send_for(client, chunk, window.seconds)
    elapsed_s = time.perf_counter() - started
    cpu_s = _cpu_s(window.server_pid) - cpu_before
    return {"value": sent_bytes / elapsed_s / 1e6, "cpu_us_per_mb": cpu_s * 1e6 / (sent_bytes / 1e6)}


async def _send_for(client: EchoClient, chunk: bytes, seconds: float) -> int:
    """Send chunks on a stream of its own for so long; return the bytes, as the server counted them too."""
    sent_bytes, ends_at = 0, time.perf_counter() + seconds
    async with client.open_bulk() as bulk:
        while time.perf_counter() < ends_at:
            await bulk.send(chunk)
            sent_bytes += len(chunk)
        counted_bytes = await bulk.finish()
    if counted_bytes != sent_bytes:
        raise LoadError(f"sent {sent_bytes} bytes, the server counted {counted_bytes}")
    return sent_bytes


async def _measure_idle(peer: Peer, address: str, row: Row, window: Window, report: Callable[[Figures], None]) -> None:
    """Hold many connections open, each proved by one call, and report how much the server grew by each."""
    if window.server_pid is None:
        raise LoadError("client and server share a process here, so the server's memory cannot be told apart")
    _raise_file_limit(window.connections + WARM_CONNECTIONS + 100)
    payload, held = _payload(row), AsyncExitStack()
    await _hold_open(peer, address, held, WARM_CONNECTIONS, payload)
    await asyncio.sleep(SETTLE_S)
    before_kib = _resident_kib(window.server_pid)
    await _hold_open(peer, address, held, window.connections, payload)
    await asyncio.sleep(SETTLE_S)
    grown_kib = _resident_kib(window.server_pid) - before_kib
    report({"value": grown_kib / window.connections, "server_kib_before": before_kib})
    # Closing a thousand connections in order takes aioquic 90 s, and nothing after this line is measured.
    os._exit(0)


async def _hold_open(peer: Peer, address: str, held: AsyncExitStack, count: int, payload: bytes) -> None:
    for _ in range(count):
        client = await held.enter_async_context(peer.connect(address))
        await _check_first(client, payload)


def _payload(row: Row) -> bytes:
    return (bytes(range(256)) * (row.payload_bytes // 256 + 1))[: row.payload_bytes]


def _cpu_s(server_pid: int | None) -> float:
    """Processor seconds spent so far by this process and the server, whose part is told in clock ticks."""
    spent_s = time.process_time()
    if server_pid is not None:
        fields = Path(f"/proc/{server_pid}/stat").read_text().rpartition(")")[2].split()
        spent_s += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S
    return spent_s


def _resident_kib(pid: int) -> float:
    """Resident memory of a process; the kernel's own socket buffers are in no process's account."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return float(line.split()[1])
    raise LoadError(f"/proc/{pid}/smaps_rollup has no Rss line")


def _raise_file_limit(needed: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise LoadError(f"{needed} files needed, the limit is {hard}: use fewer with --idle-connections")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
