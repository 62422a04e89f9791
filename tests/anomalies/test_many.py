"""Numbers: thousands of calls and streams, cancelled and complete, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

from echostream_core import Context, RpcClient, Session, Stream, handler
from tests.support.handlers import BASIC, Watched
from tests.support.pairs import connected, leftovers
from tests.support.waiting import other_tasks, settle

LOOPS = ("virtual",)


def objects_of_the_engine() -> int:
    """How many tasks, contexts, streams and timers are alive."""
    gc.collect()
    wanted = (asyncio.Task, Context, Stream, asyncio.TimerHandle)
    return sum(isinstance(item, wanted) for item in gc.get_objects())


async def test_a_thousand_calls_at_once() -> None:
    async with connected(*BASIC) as pair:
        answers = await asyncio.gather(*(pair.client.request("echo", number) for number in range(1_000)))
        assert answers == list(range(1_000))
        await pair.at_rest()


async def test_ten_thousand_calls_wait_for_a_hundred_and_twenty_eight_slots() -> None:
    running = 0
    most = 0

    @handler("busy")
    async def busy(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number

    async with connected(busy, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        answers = await asyncio.gather(*(pair.client.request("busy", number) for number in range(10_000)))
        assert answers == list(range(10_000))
        assert most <= 128
        await pair.at_rest()


@pytest.mark.parametrize("when", ["at once", "running", "answered"])
async def test_ten_thousand_cancelled_calls_leave_nothing(when: str) -> None:
    watched = Watched()
    async with connected(watched, *BASIC) as pair:
        await pair.ready()
        await cancel_calls(pair.client.session, watched, 500, when)
        await pair.at_rest()
        before = objects_of_the_engine()
        for _ in range(19):
            await cancel_calls(pair.client.session, watched, 500, when)
        await pair.at_rest()
        await settle()
        assert objects_of_the_engine() <= before + 5
        assert not other_tasks()
        assert await pair.client.request("echo", 1) == 1


async def cancel_calls(session: Session, watched: Watched, number: int, when: str) -> None:
    watched.contexts.clear()
    method = "echo" if when == "answered" else "watched.wait"
    goal = watched.begun + number
    calls = [asyncio.ensure_future(session.request(method)) for _ in range(number)]
    if when == "running":
        await watched.reached(begun=goal)
    elif when == "answered":
        await settle(4)
    else:
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_ten_thousand_expired_calls_leave_nothing() -> None:
    watched = Watched()
    async with connected(watched, *BASIC) as pair:
        await pair.ready()
        for _ in range(10):
            watched.contexts.clear()
            calls = [asyncio.ensure_future(pair.client.request("watched.wait", timeout=1)) for _ in range(1_000)]
            await asyncio.wait(calls)
            for call in calls:
                assert isinstance(call.exception(), TimeoutError)
            del calls, call
        await pair.at_rest()
        assert not other_tasks()


async def test_a_thousand_streams_are_open_at_once() -> None:
    async with connected(*BASIC) as pair:
        await pair.ready()
        streams = [await pair.client.open_stream("echo_stream") for _ in range(1_000)]
        for number, stream in enumerate(streams):
            await stream.send(number)
        assert [await stream.recv() for stream in streams] == list(range(1_000))
        for stream in streams:
            await stream.end()
        for stream in streams:
            assert [item async for item in stream] == []
        await pair.at_rest()


async def test_ten_thousand_streams_in_sequence_leave_nothing() -> None:
    async with connected(*BASIC) as pair:
        await pair.ready()
        before = 0
        for number in range(10_000):
            if number == 1_000:
                before = objects_of_the_engine()
            match number % 5:
                case 0:
                    async with pair.client.open_stream("collect") as stream:
                        await stream.send(b"abc")
                        await stream.end()
                        assert await stream.recv() == 3
                case 1:
                    async with pair.client.open_stream("collect") as stream:
                        await stream.send(b"abc")
                case 2:
                    stream = await pair.client.open_stream("echo_stream")
                    stream.reset()
                case 3:
                    assert [item async for item in pair.client.stream("count", 2)] == [0, 1]
                case _:
                    async for _ in pair.client.stream("count", 100):
                        break
        del stream
        await pair.at_rest()
        assert objects_of_the_engine() <= before + 50
        assert not other_tasks()


async def test_a_thousand_sessions_in_sequence_leave_nothing() -> None:
    async with connected(*BASIC) as pair:
        await pair.ready()
        url = pair.server.addresses[0]
        before = 0
        for number in range(1_000):
            if number == 100:
                gc.collect()
                before = len(gc.get_objects())
            async with RpcClient.connect(url) as client:
                assert await client.request("echo", number) == number
        await settle()
        assert len(pair.server.sessions) == 1
        gc.collect()
        assert len(gc.get_objects()) < before + 2_000
        assert leftovers(pair.near) == {}


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
async def test_a_payload_is_free_as_soon_as_its_call_is_over() -> None:
    async with connected(*BASIC) as pair:
        await pair.ready()
        payload = "x" * 300_000
        await pair.client.request("echo", payload)
        await pair.at_rest()
        gc.collect()
        held = [item for item in gc.get_objects() if isinstance(item, list) and any(part is payload for part in item)]
        assert not held
        assert sys.getrefcount(payload) <= 3
