"""A session over simulated UDP, on a bad network and in virtual time: one seed, one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("echostream_sim", reason="echostream-sim is not installed")

from echostream_core import RpcClient, RpcServer, handler
from echostream_core.errors import ConnectFailed
from echostream_sim.certificates import fixed_certificate
from plugins.sim.tests.transport_ends import loop, network, simulated

WT = "wt://server:4433/rpc"
QUIC = "quic://server:4433"


@handler("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@asynccontextmanager
async def serving(folder: str) -> AsyncIterator[dict[str, str]]:
    """Both protocols at one port of the host "server"; what a dialer has to trust."""
    tls = fixed_certificate(folder)
    pin = tls.pop("pin")
    servers = [RpcServer(url, add, tls=tls) for url in (QUIC, WT)]
    for server in servers:
        with loop().network.host("server"):
            await server.start()
    try:
        yield {"pin": pin}
    finally:
        for server in servers:
            await server.close()


def test_calls_go_over_a_bad_network_and_both_protocols_share_the_port(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.03, loss=0.05, jitter=0.003, rate_bps=5e6)
        async with serving(str(tmp_path)) as tls:
            for url in (WT, QUIC, WT):
                with here.host("client"):
                    client = await RpcClient.connect(url, tls=tls)
                async with client:
                    for number in range(20):
                        assert await client.request("math.add", {"a": number, "b": 1}) == number + 1
        await asyncio.sleep(60)
        assert [host.ports for host in here.hosts.values()] == [{}, {}]
        assert here.recorder.lost["loss"] > 0

    main()


def test_a_session_is_opened_in_three_round_trips_and_closed_in_order(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.05)
        async with serving(str(tmp_path)) as tls:
            begun = loop().time()
            with here.host("client"):
                client = await RpcClient.connect(WT, tls=tls)
            # QUIC's handshake, SETTINGS that come with it, and the request: then SETUP of the session above.
            assert loop().time() - begun < 0.31
            async with client:
                assert await client.request("math.add", {"a": 1, "b": 1}) == 2

    main()


def test_a_path_that_nobody_knows_is_refused_over_the_simulated_network_too(tmp_path: Path) -> None:
    @simulated
    async def main() -> None:
        here = network(delay_s=0.01)
        async with serving(str(tmp_path)) as tls:
            with here.host("client"), pytest.raises(ConnectFailed, match="HTTP status 404"):
                await RpcClient.connect("wt://server:4433/other", tls=tls)

    main()
