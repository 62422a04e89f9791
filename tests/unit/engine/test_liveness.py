"""PING and PONG, and the keep-alive that notices a peer that has gone without a word."""

from __future__ import annotations

import asyncio

import pytest

from echostream_core import ConnectionLost, Disconnected, RpcServer
from echostream_core.wire.frames import encode_pong
from tests.support.handlers import echo
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import dialled, raw_setup
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)
QUIET = {"keepalive_interval_s": 5.0, "keepalive_timeout_s": 2.0}


async def test_pings_are_answered_in_any_number_at_once() -> None:
    async with connected(echo) as pair:
        times = await asyncio.gather(*(pair.client.ping() for _ in range(100)))
        assert all(seconds >= 0 for seconds in times)
        assert pair.near._liveness._pongs == {}


async def test_a_ping_that_meets_the_end_says_so_and_leaves_nothing() -> None:
    async with connected(echo) as pair:
        await pair.ready()
        pinging = asyncio.ensure_future(pair.client.ping())
        await asyncio.sleep(0)
        await pair.near.close()
        with pytest.raises(Disconnected):
            await pinging
        with pytest.raises(Disconnected):
            await pair.client.ping()
    await settle()
    assert not other_tasks()


async def test_a_cancelled_ping_leaves_nothing() -> None:
    async with connected(echo) as pair:
        await pair.ready()
        pinging = asyncio.ensure_future(pair.client.ping())
        await asyncio.sleep(0)
        pinging.cancel()
        await asyncio.wait({pinging})
        await pair.client.ping()
        assert pair.near._liveness._pongs == {}


async def test_two_quiet_ends_keep_each_other_alive() -> None:
    async with connected(echo, server={"limits": QUIET}, client={"limits": QUIET}) as pair:
        await pair.ready()
        await asyncio.sleep(100)
        assert await pair.client.request("echo", 1) == 1


async def test_a_peer_without_a_sign_of_life_is_given_up() -> None:
    async with RpcServer(memory_url(), echo, limits=QUIET, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(lambda: server.sessions)
        (session,) = server.sessions
        begin = session.loop.time()
        error = await asyncio.shield(session.closed)
        assert isinstance(error, ConnectionLost)
        assert "no sign of life" in str(error)
        assert 7 <= session.loop.time() - begin < 8
        peer.connection.abort()


async def test_no_interval_no_keep_alive() -> None:
    limits = {"keepalive_interval_s": 0}
    async with RpcServer(memory_url(), echo, limits=limits, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(lambda: server.sessions)
        await asyncio.sleep(10_000)
        assert server.sessions
        peer.connection.abort()


async def test_a_long_timeout_does_not_thin_out_the_pings() -> None:
    limits = {"keepalive_interval_s": 5.0, "keepalive_timeout_s": 60.0}
    async with RpcServer(memory_url(), echo, limits=limits, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(lambda: server.sessions)
        (session,) = server.sessions
        for _ in range(12):
            sent = session._liveness._next
            await asyncio.sleep(5.001)
            assert session._liveness._next == sent + 1
            peer.control.send(encode_pong(sent))
            await settle()
        begin = session.loop.time()
        await asyncio.shield(session.closed)
        assert 64 < session.loop.time() - begin < 66
        peer.connection.abort()
