"""Small calls beside a bulk stream on one connection, at 10 Mbit/s and 40 ms: neither starves the other.

The clock is virtual, so the latencies are exact figures of the protocol and not of the machine.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from importlib.util import find_spec

import pytest

from echostream_core import Priority, RpcClient, RpcServer, Stream, handler, stream_handler
from echostream_sim.certificates import fixed_certificate
from plugins.sim.tests.transport_ends import loop, network, simulated

ROUND_TRIP_S = 0.040
RATE_BPS = 10e6
QUEUE_BYTES = 20_000
"""16 ms of the link: what stands in the network's own queue no sender can overtake."""
SCHEMES = ["sim", pytest.param("quic", marks=pytest.mark.skipif(not find_spec("aioquic"), reason="needs aioquic"))]


@handler("echo")
async def echo(value: object) -> object:
    return value


@stream_handler("swallow")
async def swallow(stream: Stream) -> int:
    total = 0
    async for item in stream:
        total += len(item)
    return total


async def calls(client: RpcClient, count: int) -> list[float]:
    """How long each of ``count`` small calls took, one every 100 ms."""
    times = []
    for _ in range(count):
        begin = loop().time()
        await client.request("echo", b"x" * 32, priority=Priority.URGENT)
        times.append(loop().time() - begin)
        await asyncio.sleep(0.1)
    return times


async def bulk(client: RpcClient, seconds: float) -> float:
    """Bytes per second of one stream."""
    begin = loop().time()
    async with client.open_stream("swallow", priority=Priority.BULK) as stream:
        while loop().time() - begin < seconds:
            await stream.send(bytes(16_384))
        await stream.end()
        total = await stream.recv()
    return float(total) / (loop().time() - begin)


async def mixed(scheme: str, folder: str) -> tuple[list[float], float, float]:
    """The calls' times beside bulk, and the bulk stream's rate alone and beside calls."""
    tls = fixed_certificate(folder) if scheme == "quic" else {}
    pin = tls.pop("pin", None)
    here = loop().network
    with here.host("server"):
        server = RpcServer(f"{scheme}://server:4433", echo, swallow, tls=tls or None)
        await server.start()
    with here.host("client"):
        client = await RpcClient.connect(f"{scheme}://server:4433", tls={"pin": pin} if pin else None)
    async with client:
        await calls(client, 3)
        alone = await bulk(client, 20)
        moving = asyncio.ensure_future(bulk(client, 25))
        await asyncio.sleep(2)
        times = await calls(client, 100)
        beside = await moving
    await server.close(drain=0)
    return times, alone, beside


@pytest.mark.parametrize("scheme", SCHEMES)
@simulated
async def test_small_calls_stay_quick_beside_a_bulk_stream_and_it_keeps_its_rate(scheme: str) -> None:
    network(delay_s=ROUND_TRIP_S / 2, rate_bps=RATE_BPS, queue_bytes=QUEUE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        times, alone, beside = await mixed(scheme, folder)
    slowest = statistics.quantiles(times, n=100)[98]
    assert slowest <= ROUND_TRIP_S + 0.020
    assert beside >= 0.7 * alone
    assert alone * 8 > 0.7 * RATE_BPS
