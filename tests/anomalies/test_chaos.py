"""After a storm of random operations nothing is lost and nothing is left.

Seeded; on the virtual loop a failing seed plays again exactly.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from echostream_core import RpcClient
from tests.support.chaos import Chaos, crowd
from tests.support.pairs import connected
from tests.support.waiting import other_tasks, until

LOOPS = ("virtual",)

OPERATIONS = 400


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Failing handlers are part of the storm."""
    caplog.set_level(logging.CRITICAL, "echostream.handler")


@pytest.mark.parametrize("seed", range(10))
async def test_after_the_storm_nothing_is_left(seed: int) -> None:
    chaos = Chaos(seed)
    handlers = chaos.handlers()
    limits = {"max_concurrent_calls": 128}
    async with connected(
        *handlers, client_handlers=tuple(handlers), server={"limits": limits}, client={"limits": limits}
    ) as pair:
        await pair.ready()
        before = other_tasks()
        await crowd(chaos, [pair.near, pair.far], OPERATIONS)
        await until(lambda: not chaos.running)
        await pair.at_rest()
        assert other_tasks() <= before
        assert await pair.client.request("echo", "still here") == "still here"
    assert sum(chaos.outcomes.values()) == OPERATIONS
    assert chaos.outcomes["echo: done"] > 20


@pytest.mark.parametrize("seed", range(6))
async def test_clients_that_come_and_go_in_the_storm_leave_nothing(seed: int) -> None:
    chaos = Chaos(100 + seed)
    handlers = chaos.handlers()
    async with connected(*handlers, client_handlers=tuple(handlers)) as pair:
        url = pair.server.addresses[0]

        async def visitor() -> None:
            async with RpcClient.connect(url, *handlers) as client:
                work = [asyncio.ensure_future(chaos.operate(client.session)) for _ in range(10)]
                await asyncio.wait(work, timeout=chaos.draw.choice((0, 0.01, 0.2)))
                if chaos.draw.random() < 0.3:
                    client.session.abort()
            await asyncio.wait(work)

        for _ in range(10):
            await asyncio.gather(*(visitor() for _ in range(4)))
        await until(lambda: not chaos.running and len(pair.server._sessions) == 1)
        await pair.at_rest()
        assert await pair.client.request("echo", 1) == 1
    await until(lambda: not other_tasks())
