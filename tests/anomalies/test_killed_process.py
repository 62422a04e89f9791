"""The other process is killed, or the network swallows it: typed errors here, and no hang."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from echostream_core import ConnectionLost, Context, Disconnected, RpcClient, RpcServer, handler
from tests.support.handlers import Watched
from tests.support.processes import server_process
from tests.support.transports import Endpoint, endpoint, installed_schemes
from tests.support.waiting import until

SCHEMES = installed_schemes(among=("tcp", "ws", "quic", "wt"))
"""A process costs a second: what the pipes have in common is tried on one of them."""


@pytest.fixture(params=SCHEMES)
def remote(request: pytest.FixtureRequest, dev_certificates: Path, tmp_path: Path) -> Iterator[Endpoint]:
    """Endpoints that another process can have."""
    yield endpoint(request.param, tmp_path)


QUIET = {"keepalive_interval_s": 0.2, "keepalive_timeout_s": 0.3}
"""QUIC does not notice a killed peer: nothing comes any more. The keep-alive does."""


async def test_a_killed_server_ends_every_call_and_stream(remote: Endpoint) -> None:
    @handler("wait")
    async def wait(ctx: Context) -> None:
        await asyncio.Event().wait()

    async with server_process(remote.url, **remote.options) as server:  # noqa: SIM117 (the address comes first)
        async with RpcClient.connect(server.address, wait, reconnect=False, limits=QUIET, **remote.options) as client:
            await client.ping()  # the keep-alive begins with the peer's SETUP
            work = [
                asyncio.ensure_future(client.request("slow", 1_000, timeout=None)),
                asyncio.ensure_future(client.request("call_back", timeout=None)),
            ]
            stream = await client.open_stream("listen")
            work.append(asyncio.ensure_future(stream.recv()))
            assert {await server.says() for _ in range(3)} == {"slow begun", "calling back", "listening"}
            server.send_signal(signal.SIGKILL)
            for result in await asyncio.gather(*work, return_exceptions=True):
                assert isinstance(result, Disconnected)
                assert isinstance(result, ConnectionLost)
                assert not result.not_processed
            with pytest.raises(Disconnected) as caught:
                await client.request("echo", 1)
            assert caught.value.not_processed


async def test_a_stopped_process_is_noticed_by_its_silence(remote: Endpoint) -> None:
    """SIGSTOP: the connection stands, and nobody is at home."""
    async with server_process(remote.url, **remote.options) as server:  # noqa: SIM117 (the address comes first)
        async with RpcClient.connect(server.address, reconnect=False, limits=QUIET, **remote.options) as client:
            assert await client.request("echo", 1) == 1
            server.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(Disconnected):
                    await client.request("echo", 2, timeout=None)
            finally:
                server.send_signal(signal.SIGCONT)


async def test_a_killed_client_ends_its_handlers_at_the_server(remote: Endpoint) -> None:
    """Here the process that is killed is the one that dialled: a small program that calls and waits."""
    watched = Watched()
    program = (
        "import asyncio, json, sys\n"
        "from echostream_core import RpcClient\n"
        "async def main():\n"
        "    async with RpcClient.connect(sys.argv[1], **json.loads(sys.argv[2])) as client:\n"
        "        await client.request('watched.wait', timeout=None)\n"
        "asyncio.run(main())\n"
    )
    async with RpcServer(remote.url, watched, limits=QUIET, **remote.options) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, server.addresses[0], json.dumps(remote.options)
        )
        await watched.reached(begun=1)
        process.kill()
        await process.wait()
        await watched.reached(cancelled=1)
        await until(lambda: not server.sessions)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_drains_the_server_and_ends_it_in_order(remote: Endpoint, number: signal.Signals) -> None:
    async with server_process(remote.url, **remote.options) as server:  # noqa: SIM117 (the address comes first)
        async with RpcClient.connect(server.address, reconnect=False, **remote.options) as client:
            slow = asyncio.ensure_future(client.request("slow", 0.2))
            assert await server.says() == "slow begun"
            server.send_signal(number)
            assert await slow == "slept"
            status, output, errors = await server.ended()
            assert (status, output) == (0, "stopped in order\n"), errors
            assert f"{number.name}: draining" in errors
            assert "Traceback" not in errors
            await until(client.session.closed.done)
            with pytest.raises(Disconnected):
                await client.request("echo", 1)


async def test_a_second_signal_stops_the_server_at_once(remote: Endpoint) -> None:
    async with server_process(remote.url, **remote.options) as server:  # noqa: SIM117 (the address comes first)
        async with RpcClient.connect(server.address, reconnect=False, **remote.options) as client:
            slow = asyncio.ensure_future(client.request("slow", 1_000, timeout=None))
            assert await server.says() == "slow begun"
            server.send_signal(signal.SIGTERM)
            await until(lambda: client.session.outgoing._refusal is not None)
            server.send_signal(signal.SIGTERM)
            with pytest.raises(Disconnected):
                await slow
            status, output, errors = await server.ended()
            assert (status, output) == (0, "stopped in order\n"), errors
            assert "second signal" in errors
