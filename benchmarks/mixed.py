"""Small calls while a bulk stream fills the same connection: ``python -m benchmarks.mixed``.

For each transport, in turn: small calls alone, the bulk stream alone, then both at once. The server is a process of its
own. What matters is the ratio: how much slower the slowest percent of the calls gets, and how much of its rate the bulk
stream keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time

from echostream_core import Priority, RpcClient, RpcServer, Stream, handler, run, stream_handler

__all__ = ["main"]

URLS = {"tcp": "tcp://127.0.0.1:0", "quic": "quic://127.0.0.1:0", "tls": "tls://127.0.0.1:0"}
CHUNK = bytes(65_536)
PAUSE_S = 0.002
"""Between two small calls: they are few, what counts is how long each takes."""


@handler("echo")
async def echo(value: object) -> object:
    """The small call."""
    return value


@stream_handler("swallow")
async def swallow(stream: Stream) -> int:
    """The reader of the bulk stream."""
    total = 0
    async for item in stream:
        total += len(item)
    return total


async def serve(url: str) -> None:
    """The server's process; ends with its standard input."""
    async with RpcServer(url, echo, swallow, tls=None if url.startswith("tcp") else {"dev": True}) as server:
        print(server.addresses[0], flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def calls(client: RpcClient, seconds: float) -> list[float]:
    """The seconds that each small call took."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        await client.request("echo", b"x" * 32, priority=Priority.URGENT)
        times.append(time.perf_counter() - begin)
        await asyncio.sleep(PAUSE_S)
    return times


async def bulk(client: RpcClient, seconds: float) -> float:
    """MB/s of one stream that is written as fast as it is taken."""
    begin = time.perf_counter()
    async with client.open_stream("swallow", priority=Priority.BULK) as stream:
        while time.perf_counter() - begin < seconds:
            await stream.send(CHUNK)
        await stream.end()
        total = await stream.recv()
    return float(total) / (time.perf_counter() - begin) / 1e6


def p99(times: list[float]) -> float:
    """Microseconds."""
    return statistics.quantiles(times, n=100)[98] * 1e6


async def measure(address: str, seconds: float) -> tuple[float, float, float, float]:
    """p99 idle, p99 beside bulk, MB/s alone, MB/s beside calls."""
    async with RpcClient.connect(address, tls=None if address.startswith("tcp") else {"dev": True}) as client:
        await calls(client, 0.3)
        idle = p99(await calls(client, seconds))
        alone = await bulk(client, seconds)
        moving = asyncio.ensure_future(bulk(client, seconds + 0.4))
        await asyncio.sleep(0.2)
        busy = p99(await calls(client, seconds))
        return idle, busy, alone, await moving


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed", description=__doc__)
    parser.add_argument("--transports", default="tcp,quic")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        run(serve(arguments.serve))
        return
    print("small calls p99 us: alone, beside bulk, ratio; bulk MB/s: alone, beside calls, kept")
    for name in arguments.transports.split(","):
        rows = []
        for _ in range(arguments.rounds):
            command = [sys.executable, "-m", "benchmarks.mixed", "--serve", URLS[name]]
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert server.stdout is not None
            assert server.stdin is not None
            try:
                rows.append(run(measure(server.stdout.readline().strip(), arguments.seconds)))
            finally:
                server.stdin.close()
                server.wait(10)
                server.stdout.close()
        idle, busy, alone, beside = (statistics.median(column) for column in zip(*rows, strict=True))
        latency = f"{idle:8.0f} {busy:8.0f} {busy / idle:6.2f} x"
        print(f"  {name:<5} {latency}   {alone:8.1f} {beside:8.1f} {beside / alone:6.0%}")


if __name__ == "__main__":
    main()
