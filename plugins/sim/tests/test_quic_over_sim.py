"""The real QUIC plugin over the simulated UDP, unchanged: TLS, loss recovery and all; one seed, one run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import RpcClient, RpcServer, Stream, handler, stream_handler
from echostream_core.errors import ConnectFailed, ConnectionLost
from echostream_sim import Network, simulate
from echostream_sim.certificates import fixed_certificate
from echostream_sim.entropy import seeded
from echostream_sim.recorder import Recorder
from plugins.sim.tests.transport_ends import loop, network, simulated

pytest.importorskip("echostream_quic", reason="the QUIC plugin is not installed")

QUIC = "quic://server:4433"


@handler("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@handler("slow")
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@stream_handler("file.upload")
async def upload(stream: Stream) -> None:
    digest = hashlib.sha256()
    async for chunk in stream:
        assert isinstance(chunk, bytes)
        digest.update(chunk)
    await stream.send(digest.digest())


@asynccontextmanager
async def quic_pair(folder: str) -> AsyncIterator[RpcClient]:
    """A server on the host "server" and a client on the host "client"."""
    tls = fixed_certificate(folder)
    pin = tls.pop("pin")
    here = loop().network
    server = RpcServer(QUIC, add, slow, upload, tls=tls)
    with here.host("server"):
        await server.start()
    try:
        with here.host("client"):
            client = await RpcClient.connect(QUIC, tls={"pin": pin})
        async with client:
            yield client
    finally:
        await server.close()


async def send(client: RpcClient, *, chunks: int = 0, until_s: float = 0.0) -> int:
    """Send that many pieces, or until that moment; AssertionError unless they arrive whole. The size."""
    digest, size = hashlib.sha256(), 0
    async with client.open_stream("file.upload") as stream:
        while chunks * 16_384 > size or loop().time() < until_s:
            chunk = size.to_bytes(8, "little") * 2_048
            digest.update(chunk)
            size += len(chunk)
            await stream.send(chunk)
        await stream.end()
        assert await stream.recv() == digest.digest()
    return size


def test_calls_streams_and_bytes_go_over_real_quic_on_a_bad_network(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.03, loss=0.05, jitter=0.003, rate_bps=5e6)
        async with quic_pair(str(tmp_path)) as client:
            for number in range(30):
                assert await client.request("math.add", {"a": number, "b": 1}) == number + 1
            assert await send(client, chunks=30) == 30 * 16_384
        await asyncio.sleep(60)
        assert [host.ports for host in here.hosts.values()] == [{}, {}]
        assert here.recorder.lost["loss"] > 10

    main()


def test_dialling_a_port_where_nobody_listens_is_refused_after_one_round_trip(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.05)
        with here.host("client"), pytest.raises(ConnectFailed, match="nobody answers at quic://server:4433"):
            await RpcClient.connect(QUIC, tls={"pin": "sha256:" + "0" * 64})
        assert loop().time() == pytest.approx(0.1, abs=0.01)
        assert here.hosts["client"].ports == {}

    main()


def test_another_certificate_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.01)
        tls = fixed_certificate(tmp_path)
        tls.pop("pin")
        with here.host("server"):
            server = RpcServer(QUIC, add, tls=tls)
            await server.start()
        with here.host("client"), pytest.raises(ConnectFailed, match="not the pinned one"):
            await RpcClient.connect(QUIC, tls={"pin": "sha256:" + "0" * 64})
        await server.close()

    main()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network()
        tls = fixed_certificate(tmp_path)
        tls.pop("pin")
        with here.host("server"):
            server = RpcServer(QUIC, add, tls=tls)
            await server.start()
            with pytest.raises(ConnectFailed, match="cannot listen on quic://server:4433"):
                await RpcServer(QUIC, add, tls=tls).start()
        await server.close()

    main()


def test_a_partition_of_five_seconds_heals_and_the_session_goes_on(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.03, rate_bps=5e6)
        async with quic_pair(str(tmp_path)) as client:
            session = client.session
            loop().call_at(2.0, here.partition, "client", "server")
            loop().call_at(7.0, here.heal, "client", "server")
            assert await send(client, until_s=12.0) > 1_000_000
            assert await client.request("math.add", {"a": 1, "b": 2}, timeout=1.0) == 3
            assert client.session is session

    main()


def test_a_partition_of_sixty_seconds_loses_the_connection(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.03)
        async with quic_pair(str(tmp_path)) as client:
            call = asyncio.ensure_future(client.request("slow", 500.0, timeout=600.0))
            await asyncio.sleep(1)
            here.partition("client", "server")
            loop().call_later(60, here.heal, "client", "server")
            with pytest.raises(ConnectionLost):
                await call
            assert loop().time() < 61

    main()


def transfer(seed: int, seconds: float) -> tuple[str, int]:
    """Send a file for some virtual time over 2 Mbit/s, 60 ms and 2 % loss; the recorder's hash and the file's size."""

    async def main() -> int:
        network(delay_s=0.03, loss=0.02, jitter=0.002, rate_bps=2e6, queue_bytes=64_000)
        with tempfile.TemporaryDirectory() as folder:
            async with quic_pair(folder) as client:
                assert await client.request("math.add", {"a": 1, "b": 2}) == 3
                return await send(client, until_s=seconds)

    here = Network(seed, recorder=Recorder(max_events=0))
    with seeded(seed):
        size = simulate(main(), network=here)
    return here.recorder.hash(), size


def test_a_lossy_transfer_arrives_whole_and_another_seed_goes_another_way() -> None:
    first, other = transfer(7, 10.0), transfer(8, 10.0)
    assert first[1] > 800_000
    assert first[0] != other[0]


def test_one_seed_is_one_run_in_every_process() -> None:
    program = "from plugins.sim.tests.test_quic_over_sim import transfer; print(transfer(7, 5.0)[0])"
    outputs = set()
    for hash_seed in ("1", "2"):
        environment: dict[str, Any] = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).resolve().parents[3],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(done.stdout.strip())
    assert len(outputs) == 1
    assert len(outputs.pop()) == 64


def test_one_seed_is_one_run_twice_in_one_process() -> None:
    assert transfer(7, 3.0) == transfer(7, 3.0)
