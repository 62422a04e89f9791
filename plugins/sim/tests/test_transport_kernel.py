"""The kernel, unchanged, over the simulated network: calls, streams, deadlines, draining, partitions; and one seed, one
run.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from echostream_core import Context, DeadlineExceeded, RpcClient, RpcServer, Stream, handler, stream_handler
from echostream_core.errors import ConnectFailed, ConnectionLost
from echostream_sim import Network, simulate
from echostream_sim.entropy import seeded
from echostream_sim.recorder import Recorder
from plugins.sim.tests.transport_ends import URL, loop, network, simulated


@handler("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@handler("math.count")
async def count(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


@handler("text.length")
async def length(text: str) -> int:
    return len(text)


@handler("slow")
async def slow(seconds: float, ctx: Context) -> str:
    await asyncio.sleep(seconds)
    return "done"


class Upload:
    """What a server received on ``file.upload``."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def handler(self) -> object:
        @stream_handler("file.upload")
        async def upload(stream: Stream) -> None:
            async for chunk in stream:
                assert isinstance(chunk, bytes)
                self.digest.update(chunk)
                self.size += len(chunk)
            await stream.send(b"%d" % self.size)

        return upload


async def send_for(client: RpcClient, until_s: float) -> tuple[str, int]:
    """Send a file until that moment; its digest and size."""
    digest, size, number = hashlib.sha256(), 0, 0
    async with client.open_stream("file.upload") as stream:
        while loop().time() < until_s:
            chunk = number.to_bytes(4, "little") * 4_096
            number += 1
            digest.update(chunk)
            size += len(chunk)
            await stream.send(chunk)
        await stream.end()
        assert await stream.recv() == b"%d" % size
    return digest.hexdigest(), size


@simulated
async def test_calls_streams_and_deadlines_work_over_a_lossy_path() -> None:
    network(delay_s=0.03, loss=0.05, rate_bps=5e6)
    async with RpcServer(URL, add, count, length, slow) as server, RpcClient.connect(server.addresses[0]) as client:
        assert list(server.addresses) == [URL]
        assert [await client.request("math.add", {"a": number, "b": 1}) for number in range(50)] == list(range(1, 51))
        assert [number async for number in client.stream("math.count", 300)] == list(range(300))
        assert await client.request("text.length", "x" * 300_000) == 300_000
        began = loop().time()
        with pytest.raises(DeadlineExceeded):
            await client.request("slow", 60.0, timeout=2.0)
        assert loop().time() - began == pytest.approx(2.0, abs=0.05)


@simulated
async def test_a_server_drains_before_it_goes() -> None:
    network(delay_s=0.03, loss=0.05)
    server = RpcServer(URL, slow)
    await server.start()
    async with RpcClient.connect(URL) as client:
        answer = asyncio.ensure_future(client.request("slow", 3.0))
        await asyncio.sleep(1)
        await server.close(drain=10)
        assert await answer == "done"
        assert 3.0 < loop().time() < 5.0


@simulated
async def test_a_client_that_finds_nobody_is_refused() -> None:
    network(delay_s=0.03)
    with pytest.raises(ConnectFailed, match="nobody listens at"):
        async with RpcClient.connect(URL):
            pass


@simulated
async def test_a_partition_of_five_seconds_heals_and_the_session_goes_on() -> None:
    here = network(delay_s=0.03, rate_bps=5e6)
    upload = Upload()
    async with RpcServer(URL, add, upload.handler()), RpcClient.connect(URL) as client:
        session = client.session
        loop().call_at(2.0, here.partition, "client", "server")
        loop().call_at(7.0, here.heal, "client", "server")
        digest, size = await send_for(client, 10.0)
        assert (upload.digest.hexdigest(), upload.size) == (digest, size)
        assert size > 1_000_000
        assert await client.request("math.add", {"a": 1, "b": 2}, timeout=1.0) == 3
        assert client.session is session


@simulated
async def test_a_partition_of_sixty_seconds_ends_the_session_by_its_keepalive() -> None:
    here = network(delay_s=0.03)
    ended: list[float] = []
    async with RpcServer(URL, slow), RpcClient.connect(URL) as client:
        call = asyncio.ensure_future(client.request("slow", 500.0, timeout=600.0))
        call.add_done_callback(lambda _: ended.append(loop().time()))
        await asyncio.sleep(1)
        here.partition("client", "server")
        loop().call_later(60, here.heal, "client", "server")
        with pytest.raises(ConnectionLost, match="no sign of life from sim://server:4433 for 40 s"):
            await call
        assert 40 < ended[0] < 42


def transfer(seed: int, seconds: float) -> tuple[str, int]:
    """Send a file for some virtual time over 2 Mbit/s, 60 ms and 2 % loss; the recorder's hash and the file's size."""
    upload = Upload()

    async def main() -> int:
        network(delay_s=0.03, loss=0.02, rate_bps=2e6, queue_bytes=64_000)
        async with RpcServer(URL, upload.handler()), RpcClient.connect(URL) as client:
            digest, size = await send_for(client, seconds)
        assert (upload.digest.hexdigest(), upload.size) == (digest, size)
        return size

    here = Network(seed, recorder=Recorder(max_events=0))
    with seeded(seed):
        size = simulate(main(), network=here)
    return here.recorder.hash(), size


def test_one_seed_is_one_run_and_another_seed_another() -> None:
    first, again, other = transfer(7, 5.0), transfer(7, 5.0), transfer(8, 5.0)
    assert first == again
    assert first[0] != other[0]


def test_one_seed_is_one_run_in_every_process() -> None:
    program = "from plugins.sim.tests.test_transport_kernel import transfer; print(transfer(7, 5.0)[0])"
    root = Path(__file__).resolve().parents[3]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(hashes) == 1
    assert len(hashes.pop().strip()) == 64


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ten_minutes_of_a_lossy_transfer_arrive_whole() -> None:
    _, size = transfer(7, 600.0)
    assert size > 50_000_000  # New Reno's share of 2 Mbit/s at 2 % loss and 60 ms is about a half
