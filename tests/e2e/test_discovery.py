"""Servers in processes of their own are found by mDNS on the loopback interface, and by nobody when they are gone."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import ConnectFailed, Kernel, RpcClient, find_endpoints
from tests.e2e.processes import PATIENCE_S, Program, running
from tests.support.waiting import until

KERNEL = Kernel()
SCHEMES = [scheme for scheme in ("tcp", "ws") if scheme in KERNEL.known("transport")]

pytestmark = [
    pytest.mark.skipif("mdns" not in KERNEL.known("discovery"), reason="needs echostream-discovery-mdns"),
    pytest.mark.skipif("tcp" not in SCHEMES, reason="needs echostream-tcp"),
    pytest.mark.timeout(90),
]

LOOPBACK: dict[str, dict[str, object]] = {"mdns": {"interfaces": "loopback"}}

SERVICES = '''\
import os

from echostream_core import handler


@handler("who")
def who() -> int:
    """The process that answers."""
    return os.getpid()
'''


@pytest.fixture
def name() -> str:
    """Of a service that nobody else on this machine has."""
    return f"test-{secrets.token_hex(4)}"


@contextmanager
def serving(
    folder: Path, name: str, *, listen: list[str] | None = None, tags: dict[str, str] | None = None, **advertise: Any
) -> Iterator[Program]:
    """``serve`` with a server that is advertised; it is listening when the block begins, and announced soon after."""
    (folder / "services.py").write_text(SERVICES, encoding="utf-8")
    urls = listen or [f"{scheme}://127.0.0.1:0" for scheme in SCHEMES]
    lines = [
        "[server.s]",
        f"listen = {json.dumps(urls)}",
        'services = "services:who"',
        "drain_s = 1",
        "[server.s.advertise]",
        f'name = "{name}"',
        *(f"{key} = {json.dumps(value)}" for key, value in advertise.items()),
        *(f"tags.{key} = {json.dumps(value)}" for key, value in (tags or {}).items()),
        "[discovery.mdns]",
        'interfaces = "loopback"',
    ]
    file = folder / f"server-{secrets.token_hex(4)}.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    with running(["-m", "echostream_core", "serve", str(file), "--json"], folder) as program:
        while json.loads(program.line())["event"] != "ready":
            pass
        yield program


def discover(name: str, **keywords: Any) -> Any:
    """A client on the loopback interface."""
    return RpcClient.discover(name, **{"discovery": LOOPBACK, "timeout": PATIENCE_S, **keywords})


async def test_it_is_found_over_each_transport_by_what_it_announces(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, name, tags={"zone": "eu"}) as program:
        for scheme in SCHEMES:
            async with discover(name, transports=[scheme], where={"zone": "eu"}) as client:
                assert await client.request("who") == program.process.pid
                assert client.peer.startswith(f"{scheme}://127.0.0.1:")
        (found,) = await find_endpoints(name, discovery=LOOPBACK, timeout=3)
        assert found.attributes["transports"] == ",".join(SCHEMES)
        assert found.attributes["zone"] == "eu"
        assert "json" in found.attributes["codecs"].split(",")
        assert found.attributes["server"][:8] in found.instance


async def test_all_addresses_are_announced_as_those_that_reach_it(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, name, listen=["tcp://0.0.0.0:0"]) as program:
        async with discover(name) as client:
            assert await client.request("who") == program.process.pid
            assert client.peer.startswith("tcp://127.0.0.1:")


async def test_one_that_stops_is_gone_and_one_that_was_killed_is_passed_over(tmp_path: Path, name: str) -> None:
    with ExitStack() as stack:
        killed = stack.enter_context(serving(tmp_path, name, weight=1_000_000, instance=f"{name}-killed"))
        stopped = stack.enter_context(serving(tmp_path, name, weight=1_000_000, instance=f"{name}-stopped"))
        lasting = stack.enter_context(serving(tmp_path, name, weight=1, instance=f"{name}-lasting"))
        await _until_known(name, {f"{name}-killed", f"{name}-stopped", f"{name}-lasting"})
        stopped.send(signal.SIGTERM)
        assert stopped.status() == 0
        killed.send(signal.SIGKILL)
        killed.status()
        async with AsyncExitStack() as clients:
            for _ in range(2):
                client = await clients.enter_async_context(discover(name))
                assert await client.request("who") == lasting.process.pid
        await _until_known(name, {f"{name}-lasting"})


async def _until_known(name: str, instances: set[str]) -> None:
    """Wait until exactly these are found."""
    async with asyncio.timeout(PATIENCE_S):
        while {one.instance for one in await find_endpoints(name, discovery=LOOPBACK, timeout=2)} != instances:
            pass


async def test_a_server_that_moved_is_found_again(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, name) as first:
        client = await discover(name)
        assert await client.request("who") == first.process.pid
        first.send(signal.SIGKILL)
        first.status()
    await until(lambda: not client.connected)
    with serving(tmp_path, name) as second:
        assert await client.request("who", timeout=PATIENCE_S) == second.process.pid
        assert client.reconnects == 1
    await client.close()


async def test_nobody_there_is_an_error_with_the_name(name: str) -> None:
    with pytest.raises(ConnectFailed, match=f"no server that advertises '{name}' was found within 0.5 s"):
        await discover(name, timeout=0.5)
