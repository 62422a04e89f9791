"""Measures what compression saves and what it costs: ``python plugins/compression_zstd/measure.py``.

Prints one row per kind of message: its size encoded, its size compressed, the processor time of each step, and that of
an echo call over TCP with and without compression, both ends together in one process.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from echostream_compression_zstd import ZstdCompression, ZstdOptions
from echostream_core import Kernel, RpcClient, RpcServer, handler

WORDS = ("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with")
ROUNDS = 9
SECONDS = 0.1


@handler("echo")
async def echo(value: object) -> object:
    """What it was given."""
    return value


def record(number: int) -> dict[str, object]:
    """One row of a table, as services send them."""
    source = random.Random(number)
    return {
        "id": 100_000 + number,
        "name": f"{source.choice(['ada', 'bob', 'cleo', 'dan'])} {source.choice(['Lee', 'Ito', 'Kaya', 'Roy'])}",
        "email": f"user{source.randrange(10_000)}@example.org",
        "balance": round(source.uniform(-500, 5_000), 2),
        "created": f"2026-{source.randrange(1, 13):02}-{source.randrange(1, 29):02}T10:00:00Z",
        "active": source.random() < 0.8,
    }


def samples() -> dict[str, object]:
    """Messages of several kinds and sizes."""
    source = random.Random(1)
    text = " ".join(source.choice(WORDS) for _ in range(14_000))
    return {
        "8 records": [record(number) for number in range(8)],
        "32 records": [record(number) for number in range(32)],
        "500 records": [record(number) for number in range(500)],
        "20,000 records": [record(number) for number in range(20_000)],
        "text": text,
        "2,000 measurements": [source.gauss(20, 5) for _ in range(2_000)],
        "random bytes": source.randbytes(65_536),
    }


def microseconds(action: Callable[[], object]) -> float:
    """Processor time of one ``action``: the best of some rounds."""
    action()
    found = []
    for _ in range(ROUNDS):
        count, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < SECONDS:
            action()
            count += 1
        found.append(spent / count * 1e6)
    return min(found)


async def per_call(value: object) -> tuple[float, float]:
    """Processor time of an echo call in microseconds, eight in flight, without and with compression.

    The two take turns, so that whatever else the machine does falls on both alike.
    """
    async with AsyncExitStack() as stack:
        clients = []
        for compression in ([], ["zstd"]):
            options: dict[str, Any] = {"codecs": ["msgpack"], "compression": compression}
            server = await stack.enter_async_context(RpcServer("tcp://127.0.0.1:0", echo, **options))
            clients.append(await stack.enter_async_context(RpcClient.connect(server.addresses[0], **options)))
        best = [float("inf"), float("inf")]
        for _ in range(ROUNDS):
            for place, client in enumerate(clients):
                await client.request("echo", value)
                count, begin = 0, time.process_time()
                while (spent := time.process_time() - begin) < SECONDS:
                    await asyncio.gather(*(client.request("echo", value) for _ in range(8)))
                    count += 8
                best[place] = min(best[place], spent / count * 1e6)
    return best[0], best[1]


def main() -> None:
    """Print the table."""
    kernel = Kernel()
    spec = kernel.codec("msgpack")
    codec = spec.factory(kernel.build_options(spec, {}, key="codec.msgpack"))
    zstd = ZstdCompression()
    heads = (
        "message",
        "bytes",
        "compressed",
        "saved",
        "compress µs",
        "decompress µs",
        "call without µs",
        "call with µs",
    )
    sys.stdout.write(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n")
    for title, value in samples().items():
        body = codec.encode(value)
        packed = zstd.compress(body)
        compress = microseconds(lambda body=body: zstd.compress(body))  # type: ignore[misc]  # bound now
        size, saved, decompress = "left alone", "–", "–"
        if packed is not None:
            size, saved = f"{len(packed):,}", f"{100 - 100 * len(packed) / len(body):.0f} %"
            decompress = f"{microseconds(lambda packed=packed: zstd.decompress(packed, 4_194_304)):,.0f}"  # type: ignore[misc]
        off, on = asyncio.run(per_call(value))
        row = (title, f"{len(body):,}", size, saved, f"{compress:,.0f}", decompress, f"{off:,.0f}", f"{on:,.0f}")
        sys.stdout.write("| " + " | ".join(row) + " |\n")
        sys.stdout.flush()
    body = codec.encode(samples()["500 records"])
    sys.stdout.write("\n| 500 records at level | compressed | compress µs |\n|---|---|---|\n")
    for level in (-5, 1, 3, 6, 9, 15, 19):
        leveled = ZstdCompression(ZstdOptions(level=level))
        packed = leveled.compress(body)
        assert packed is not None
        spent = microseconds(lambda leveled=leveled: leveled.compress(body))  # type: ignore[misc]  # bound now
        sys.stdout.write(f"| {level} | {len(packed):,} | {spent:,.0f} |\n")


if __name__ == "__main__":
    main()
