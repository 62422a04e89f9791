"""The loops on which tests with the fixture ``transport`` run: one for wrappers of other transports, else all."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import loop_factories
from tests.support.transports import ONE_LOOP, Endpoint, loops_of

LOOPS = ("asyncio", "uvloop")


@pytest.mark.parametrize("scheme", ["memory", "tcp", "quic", "one that nobody has thought of"])
def test_a_transport_runs_on_every_loop(scheme: str) -> None:
    assert loops_of(scheme, LOOPS) == list(LOOPS)


@pytest.mark.parametrize("scheme", ONE_LOOP)
def test_a_wrapper_runs_on_the_loop_that_is_named(scheme: str) -> None:
    assert loops_of(scheme, LOOPS) == [ONE_LOOP[scheme]]


@pytest.mark.parametrize("scheme", ONE_LOOP)
def test_a_wrapper_runs_on_whatever_there_is_when_its_loop_is_not(scheme: str) -> None:
    others = [loop for loop in LOOPS if loop != ONE_LOOP[scheme]]
    assert loops_of(scheme, others) == others


def test_the_wrappers_meet_every_loop() -> None:
    assert set(ONE_LOOP.values()) == set(LOOPS)


async def test_what_is_left_out_is_not_run(transport: Endpoint) -> None:
    running = "uvloop" if type(asyncio.get_running_loop()).__module__.startswith("uvloop") else "asyncio"
    assert running in loops_of(transport.scheme, [loop for loop in LOOPS if loop in loop_factories()])
