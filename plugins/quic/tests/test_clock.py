"""Packets are timed by the system's clock on real loops, and by the loop's on virtual ones."""

from __future__ import annotations

import asyncio
import time

import pytest

from echostream_core.testing import VirtualLoop
from echostream_quic.clock import clock_of


async def test_a_real_loop_is_timed_by_the_systems_clock() -> None:
    assert clock_of(asyncio.get_running_loop()) is time.monotonic


@pytest.mark.parametrize("ahead_s", [0.0, 1e6], ids=["agreeing", "apart"])
def test_a_virtual_clock_is_kept_even_when_it_agrees_with_the_systems(ahead_s: float) -> None:
    loop = VirtualLoop()
    try:
        loop._jumping.now = time.monotonic() + ahead_s
        assert clock_of(loop) == loop.time
    finally:
        loop.close()
