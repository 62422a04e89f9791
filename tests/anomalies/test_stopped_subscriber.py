"""A subscriber whose process is stopped: nobody else loses an event, and it learns exactly what it has missed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import CloseCode, RpcClient, RpcServer
from tests.support.transports import Endpoint, endpoint, installed_schemes
from tests.support.waiting import until

SCHEMES = installed_schemes(among=("tcp", "quic"))
QUIET = {"keepalive_interval_s": 0.2, "keepalive_timeout_s": 0.3}
TOTAL = 6_000
BODY = "x" * 2_000
"""Twelve megabytes: more than sockets hold."""

PROGRAM = """\
import asyncio, json, sys
from echostream_core import ConnectionLost, LimitExceeded, RpcClient

async def main() -> None:
    options = json.loads(sys.argv[3])
    received = []
    error = ""
    async with RpcClient.connect(sys.argv[1], reconnect=False, **options) as client:
        ended = asyncio.Event()
        events = await client.subscribe("n", overflow=sys.argv[2], max_queue=50)
        await client.on("end", lambda event: ended.set())
        print("ready", flush=True)

        async def read() -> None:
            async for event in events:
                received.append(event.payload[0])

        reading = asyncio.ensure_future(read())
        waiting = asyncio.ensure_future(ended.wait())
        await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not reading.done():
            await events.unsubscribe()
        try:
            await reading
        except (ConnectionLost, LimitExceeded) as problem:
            error = str(getattr(problem, "close_code", None) or problem.limit)
    print(json.dumps({"received": received, "dropped": events.dropped, "error": error}), flush=True)

asyncio.run(main())
"""


@pytest.fixture(params=SCHEMES)
def remote(request: pytest.FixtureRequest, dev_certificates: Path, tmp_path: Path) -> Iterator[Endpoint]:
    """Endpoints that another process can have."""
    yield endpoint(request.param, tmp_path)


@asynccontextmanager
async def subscriber(url: str, policy: str, options: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that subscribes and reads; killed at the end."""
    root = Path(__file__).resolve().parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        url,
        policy,
        json.dumps(options),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 22,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def broadcast_all(server: RpcServer) -> None:
    for number in range(TOTAL):
        await server.broadcast("n", [number, BODY])


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest", "conflate", "disconnect"])
async def test_nobody_else_loses_anything_and_what_it_missed_is_counted(remote: Endpoint, policy: str) -> None:
    heard: list[int] = []
    async with RpcServer(remote.url, drain_timeout=0, **remote.options) as server:
        url = server.addresses[0]
        async with (
            RpcClient.connect(url, **remote.options) as other,
            subscriber(url, policy, remote.options) as stopped,
        ):
            await other.on("n", lambda event: heard.append(event.payload[0]))
            stopped.send_signal(signal.SIGSTOP)
            sending = asyncio.ensure_future(broadcast_all(server))
            if policy == "block":
                senders = [session.events.sender for session in server.sessions]
                await until(lambda: any(one is not None and one.held > 50 for one in senders))
                assert not sending.done()
            else:
                await sending
            stopped.send_signal(signal.SIGCONT)
            await sending
            await until(lambda: len(heard) == TOTAL)
            assert heard == list(range(TOTAL))
            for session in server.sessions:
                if policy != "disconnect":
                    await session.flush()
            await server.broadcast("end")
            output, _ = await stopped.communicate()
    found = json.loads(output)
    received = found["received"]
    assert received == sorted(received)
    if policy == "block":
        assert (received, found["dropped"]) == (list(range(TOTAL)), {})
    elif policy == "disconnect":
        assert received == list(range(len(received)))
        assert found["error"] in (str(int(CloseCode.SLOW)), "max_queue")
    else:
        assert set(found["dropped"]) == {policy}
        assert len(received) + found["dropped"][policy] == TOTAL
        assert (received[-1] == TOTAL - 1) == (policy != "drop_newest")


async def test_one_that_stays_stopped_is_given_up_and_who_waited_for_it_goes_on(remote: Endpoint) -> None:
    heard: list[int] = []
    async with RpcServer(remote.url, drain_timeout=0, limits=QUIET, **remote.options) as server:
        url = server.addresses[0]
        async with (
            RpcClient.connect(url, **remote.options) as other,
            subscriber(url, "block", remote.options) as stopped,
        ):
            await other.on("n", lambda event: heard.append(event.payload[0]))
            stopped.send_signal(signal.SIGSTOP)
            try:
                await broadcast_all(server)
                await until(lambda: len(heard) == TOTAL)
                await until(lambda: len(server.sessions) == 1)
            finally:
                stopped.send_signal(signal.SIGCONT)
    assert heard == list(range(TOTAL))
