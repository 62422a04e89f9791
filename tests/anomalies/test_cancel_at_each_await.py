"""A coroutine of ours is cancelled at each of its suspension points in turn: it ends cancelled, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from echostream_core import Context, RpcClient, RpcServer, Stream, handler, stream_handler
from tests.support.handlers import BASIC
from tests.support.pairs import Pair, connected, memory_url
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


@handler("nested")
async def nested(ctx: Context) -> object:
    """Call back, twice, with a pause between."""
    first = await ctx.session.request("echo", 1)
    for _ in range(3):
        await asyncio.sleep(0)
    return [first, await ctx.session.request("echo", "x" * 10_000)]


@handler("ticks")
async def ticks() -> AsyncIterator[int]:
    for number in range(3):
        await asyncio.sleep(0)
        yield number


@stream_handler("talk")
async def talk(stream: Stream) -> int:
    total = 0
    async for item in stream:
        await asyncio.sleep(0)
        await stream.send(item)
        total += 1
    return total


async def call_small(pair: Pair) -> object:
    return await pair.client.request("echo", 1)


async def call_large(pair: Pair) -> object:
    return len(await pair.client.request("echo", "x" * 200_000))


async def call_with_metadata(pair: Pair) -> object:
    return await pair.client.request("echo", 1, metadata={"k": "v"}, returns=int)


async def call_nested(pair: Pair) -> object:
    return await pair.client.request("nested")


async def call_back(pair: Pair) -> object:
    await pair.ready()
    return await pair.far.request("echo", 1)


async def call_with_timeout(pair: Pair) -> object:
    async with asyncio.timeout(100):
        return await pair.client.request("nested", timeout=50)


async def read_items(pair: Pair) -> object:
    return [item async for item in pair.client.stream("ticks")]


async def read_items_in_a_block(pair: Pair) -> object:
    async with pair.client.stream("ticks") as items:
        return [item async for item in items]


async def use_stream(pair: Pair) -> object:
    async with pair.client.open_stream("talk") as stream:
        for item in (b"a", "b", bytes(100_000)):
            await stream.send(item)
        await stream.end()
        return len([item async for item in stream])


async def ping(pair: Pair) -> object:
    return await pair.client.ping()


async def call_in_a_group(pair: Pair) -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pair.client.request("echo", number)) for number in range(5)]
    return [task.result() for task in tasks]


WORK = [
    call_small,
    call_large,
    call_with_metadata,
    call_nested,
    call_back,
    call_with_timeout,
    read_items,
    read_items_in_a_block,
    use_stream,
    ping,
    call_in_a_group,
]


async def cancelled_after(turns: int, work: Coroutine[Any, Any, object]) -> bool:
    """Run ``work`` for so many turns of the loop, then cancel it. False: it was over before that."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
        if task.done():
            break
    over = task.done()
    task.cancel()
    await asyncio.wait({task})
    if over:
        task.result()
        return False
    if not task.cancelled():
        task.result()  # it ended in the very turn
    return True


@pytest.mark.parametrize("middleware", [False, True], ids=["bare", "chained"])
@pytest.mark.parametrize("work", WORK)
async def test_work_that_is_cancelled_anywhere_leaves_nothing(
    work: Callable[[Pair], Coroutine[Any, Any, object]], middleware: bool
) -> None:
    async def through(call: Any, following: Callable[[Any], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        return await following(call)

    keywords = {"middleware": [through]} if middleware else {}
    for turns in range(400):
        async with connected(
            *BASIC, nested, ticks, talk, client_handlers=BASIC, server=keywords, client=keywords
        ) as pair:
            await pair.ready() if turns % 2 else None  # before and after the peer's SETUP
            cancelled = await cancelled_after(turns, work(pair))
            assert await pair.client.request("add", {"a": 1, "b": 2}) == 3
            await pair.at_rest()
        assert not other_tasks(), turns
        if not cancelled:
            break
    else:
        pytest.fail("the work never came to its end")
    assert turns > 1


async def test_connecting_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async with RpcServer(memory_url(), *BASIC) as server:

        async def connect() -> object:
            async with RpcClient.connect(server.addresses[0]) as client:
                return await client.request("echo", 1)

        for turns in range(100):
            cancelled = await cancelled_after(turns, connect())
            await until(lambda: not server._sessions)
            assert not other_tasks(), turns
            if not cancelled:
                break
        assert 1 < turns < 99


async def test_closing_a_server_that_is_cancelled_anywhere_still_closes_it() -> None:
    for turns in range(100):
        async with connected(*BASIC) as pair:
            await pair.ready()
            cancelled = await cancelled_after(turns, pair.server.close(drain=5))
            await pair.server.close()
            assert pair.server.state == "stopped"
            assert not pair.server.sessions
        await settle()
        assert not other_tasks(), turns
        if not cancelled:
            break
    assert 1 < turns < 99


async def test_closing_a_client_that_is_cancelled_anywhere_still_closes_it() -> None:
    for turns in range(100):
        async with connected(*BASIC) as pair:
            await pair.ready()
            cancelled = await cancelled_after(turns, pair.client.close())
            await pair.client.close()
            await until(lambda pair=pair: not pair.server.sessions)  # type: ignore[misc]  # bound in this turn
        assert not other_tasks(), turns
        if not cancelled:
            break
    assert 1 < turns < 99
