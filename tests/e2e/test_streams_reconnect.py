"""Streams of a client whose session was lost: opening one waits for the next session, as a request does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from echostream_core import ConfigError, DeadlineExceeded, RpcClient, RpcServer, Stream, handler, stream_handler
from tests.support.pairs import memory_url
from tests.support.waiting import until

LOOPS = ("virtual",)


@stream_handler("echo")
async def echo(stream: Stream) -> None:
    """Send everything back."""
    async for item in stream:
        await stream.send(item)


@handler("count")
async def count(upto: int) -> AsyncIterator[int]:
    """Yield the numbers below a limit."""
    for number in range(upto):
        yield number


async def test_a_stream_that_is_opened_while_the_session_is_lost_waits_for_the_next_one() -> None:
    url = memory_url()
    first = RpcServer(url, echo, count)
    await first.start()
    async with RpcClient.connect(url) as client:
        await client.ping()
        prepared = client.stream("count", 3)
        await first.close(drain=0)
        await until(lambda: not client.connected)

        async def talk() -> object:
            async with client.open_stream("echo") as stream:
                await stream.send(b"x")
                return await stream.recv()

        talking = asyncio.ensure_future(talk())
        await asyncio.sleep(1)
        assert not talking.done()
        async with RpcServer(url, echo, count, drain_timeout=0):
            assert await talking == b"x"
            assert [item async for item in prepared] == [0, 1, 2]
            assert client.reconnects == 1
            await client.close()


async def test_waiting_for_the_next_session_is_part_of_a_streams_timeout() -> None:
    url = memory_url()
    server = RpcServer(url, echo)
    await server.start()
    async with RpcClient.connect(url) as client:
        await client.ping()
        await server.close(drain=0)
        await until(lambda: not client.connected)
        begin = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded, match="not connected within 5 s"):
            await client.open_stream("echo", timeout=5)
        assert asyncio.get_running_loop().time() - begin == 5


async def test_a_client_that_never_was_connected_opens_no_stream() -> None:
    connecting = RpcClient.connect(memory_url())
    with pytest.raises(ConfigError, match="not connected"):
        connecting._client.open_stream("echo")
