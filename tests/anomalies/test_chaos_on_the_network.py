"""The storm of ``test_chaos``, smaller, over every transport that is installed and on both event loops."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.chaos import Chaos, crowd
from tests.support.pairs import connected
from tests.support.transports import Endpoint
from tests.support.waiting import other_tasks, until

LOOPS = ("asyncio", "uvloop")

OPERATIONS = 200


@pytest.mark.parametrize("seed", range(2))
async def test_after_the_storm_nothing_is_left(
    transport: Endpoint, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "echostream.handler")
    chaos = Chaos(seed, patience=0.3)
    handlers = chaos.handlers()
    options = {**transport.options, "limits": {"max_concurrent_calls": 128}}
    async with connected(
        *handlers, url=transport.url, client_handlers=tuple(handlers), server=options, client=options
    ) as pair:
        await pair.ready()
        before = other_tasks()
        async with asyncio.timeout(50):
            await crowd(chaos, [pair.near, pair.far], OPERATIONS)
        await until(lambda: not chaos.running)
        await pair.at_rest()
        assert other_tasks() <= before
        assert await pair.client.request("echo", "still here") == "still here"
    assert sum(chaos.outcomes.values()) == OPERATIONS
